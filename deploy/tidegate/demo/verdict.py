"""The agent `review.verdict`: joins four reviews into one judgement."""

from __future__ import annotations

from tidegate_agents import Agent

from .analysis.verdict import judge
from .review import Judgement, Reviews

agent = Agent()


@agent.task("review.verdict")
async def verdict(reviews: Reviews) -> Judgement:
    """Weigh the reviews."""
    return judge(reviews)
