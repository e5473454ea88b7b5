"""The agent `review.message`: what a commit says of itself."""

from __future__ import annotations

from tidegate_agents import Agent

from .analysis.message import review_message
from .review import CommitMessage, MessageReview

agent = Agent()


@agent.task("review.message")
async def message(commit: CommitMessage) -> MessageReview:
    """Read the message; all of it stands in the task."""
    return review_message(commit)
