"""The agent `review.syntax`: Python that a commit broke or made too complex."""

from __future__ import annotations

from pathlib import Path

from tidegate_agents import Agent

from .analysis.syntax import review_syntax
from .review import CommitRef, SyntaxReview
from .sources import read_sources

agent = Agent()


@agent.task("review.syntax")
def syntax(commit: CommitRef) -> SyntaxReview:
    """Parse what the commit changes, before and after; two calls of git."""
    return review_syntax(read_sources(Path(commit.repo), commit.sha))
