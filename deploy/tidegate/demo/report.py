"""What the demo found out, from the records alone. Pure: records in, a report out."""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import RUN_FINISHED

from .commits import EVENT

ROGUE = "review.rogue"


class Review(msgspec.Struct):
    """One commit and what became of it. `seconds`: from the event's record to the verdict's."""

    sha: str
    subject: str
    status: str = "open"
    verdict: str | None = None
    score: int | None = None
    reasons: list[str] = []
    seconds: float | None = None


class Denial(msgspec.Struct, frozen=True):
    """Something that policy stopped."""

    seq: int
    by: str
    what: str
    policies: tuple[str, ...]


class Report:
    """Give it every record of the ledger, in order."""

    def __init__(self) -> None:
        self.reviews: dict[str, Review] = {}
        self.denials: list[Denial] = []
        self.governed: list[float] = []
        self._published: dict[str, int] = {}

    def add(self, record: Record) -> None:
        """Take in the next record."""
        time = parse_rfc3339(record.time)
        self.governed.append((time - parse_rfc3339(record.ingress.time)) / 1e9)
        if record.verdict is Verdict.DENY:
            what = f"{record.kind} to {record.to}"
            self.denials.append(Denial(record.seq, record.by, what, record.why.policies))
        if record.verdict is not Verdict.ALLOW or record.kind is not Kind.EVENT:
            return
        message = record.message()
        if message is None:
            return
        correlation = message.correlationid or message.id
        if record.to == EVENT:
            commit: dict[str, Any] = message.payload()
            self.reviews[correlation] = Review(commit["sha"], commit["subject"])
            self._published[correlation] = time
        elif record.to == RUN_FINISHED and correlation in self.reviews:
            end: dict[str, Any] = message.payload()
            review = self.reviews[correlation]
            output: dict[str, Any] = end["output"] or {}
            review.status = end["status"]
            review.verdict = output.get("verdict")
            review.score = output.get("score")
            review.reasons = output.get("reasons") or ([end["error"]] if end["error"] else [])
            review.seconds = (time - self._published[correlation]) / 1e9

    @property
    def ended(self) -> int:
        """Reviews that have ended."""
        return sum(review.status != "open" for review in self.reviews.values())

    @property
    def rogue_denied(self) -> bool:
        """The rogue's attempt was stopped."""
        return any(denial.by == ROGUE for denial in self.denials)
