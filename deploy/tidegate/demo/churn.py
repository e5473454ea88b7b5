"""The agent `review.churn`: how much a commit asks of its readers."""

from __future__ import annotations

from pathlib import Path

from tidegate_agents import Agent

from .analysis.churn import review_churn
from .git import read_patch
from .review import ChurnReview, CommitRef

agent = Agent()


@agent.task("review.churn")
def churn(commit: CommitRef) -> ChurnReview:
    """Measure the commit; one call of git."""
    return review_churn(read_patch(Path(commit.repo), commit.sha))
