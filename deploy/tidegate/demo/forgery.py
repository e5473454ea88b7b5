"""What the rogue agent sends, and how often it tries."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate_schemas import Envelope

from .analysis.churn import review_churn
from .analysis.secrets import review_secrets
from .patch import Patch
from .review import Commit, MessageReview, Reviews

TARGET = "review.verdict"


def forge(commit: Commit) -> Envelope:
    """A task for the verdict agent with reviews that nobody made, all of them spotless.

    The id depends on the commit alone: after a crash the bus knows the forgery again.
    """
    nothing = Patch(())
    reviews = Reviews(
        sha=commit.sha,
        secrets=review_secrets(nothing),
        churn=review_churn(nothing),
        syntax=None,
        message=MessageReview(()),
    )
    return Envelope.new(
        TARGET,
        reviews,
        kind="task",
        to=TARGET,
        source="review.rogue",
        subject=commit.sha,
        id=f"forged-{commit.sha}",
        correlationid=commit.sha,
    )


@dataclass(slots=True)
class Attempts:
    """How often something may still be tried, one attempt at a time."""

    left: int
    busy: bool = False

    def begin(self) -> bool:
        """Use one up; False when there is none, or when another one is under way."""
        if self.busy or not self.left:
            return False
        self.busy = True
        self.left -= 1
        return True

    def end(self, *, last: bool = False) -> None:
        """End the attempt that is under way; after the last one there is none left."""
        self.busy = False
        if last:
            self.left = 0
