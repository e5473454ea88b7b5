"""The agent `review.secrets`: keys and passwords in the lines that a commit adds."""

from __future__ import annotations

from pathlib import Path

from tidegate_agents import Agent

from .analysis.secrets import review_secrets
from .git import read_patch
from .review import CommitRef, SecretsReview

agent = Agent()


@agent.task("review.secrets")
def secrets(commit: CommitRef) -> SecretsReview:
    """Search the commit; one call of git."""
    return review_secrets(read_patch(Path(commit.repo), commit.sha))
