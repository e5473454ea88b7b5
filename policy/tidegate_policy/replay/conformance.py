"""Conformance: the ledger's verdicts, decided again from nothing but the ledger. Pure.

Every record is made anew from its submission, which it holds, and from the records before it; then
it is compared byte for byte. Whatever is found, the next record is decided by what the ledger says.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tidegate_bus.ingress import Submission
from tidegate_policy.asked import Forgotten
from tidegate_policy.bundle import Snapshot
from tidegate_policy.commands import NO_REPORT
from tidegate_policy.decide import MAX_LIMIT, Decision, Limits, decide, record, resolve
from tidegate_policy.genesis import genesis
from tidegate_policy.holds import Hold
from tidegate_policy.personal.privacy import NOTHING, Opener, unreplayable
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, InvalidRecord
from tidegate_schemas.record import Reason, Record, decode_record, encode_record
from tidegate_schemas.subjects import Verdict

_IN_ITS_STEAD = {"detail", "bytes", "sha256"}
"""Facts of a message that the ledger does not hold."""
_LONGEST = 200


class Difference(NamedTuple):
    """A record that is not what follows from those before it."""

    seq: int
    what: str


class Conformance:
    """Give it every record from the first on.

    Args:
        leaf: gives a record that was given before, by its sequence: something of long
            ago that somebody answers.
        window: length in seconds and entries of the dedupe window, as the gateway had it.
        start: bundle and roster where the ledger begins.
        opener: opens personal data, as far as its keys are left.

    Attributes:
        records: how many were given.
        unknown: of these, records whose submission the ledger does not hold: too large for it, or
            not to be read where something is redacted or personal.
        erased: of these, records of personal data whose key is destroyed: they are unreplayable,
            and what they change is taken from what they say.
        bundles: digests of those under which they were decided, and how many under each.
    """

    def __init__(
        self,
        window: tuple[float, int],
        leaf: Callable[[int], bytes],
        *,
        start: Snapshot | None = None,
        opener: Opener = NOTHING,
    ) -> None:
        self._state = State(start or genesis(), Window(*window))
        self._opener = opener
        self._leaf = leaf
        self._now = 0
        self.records = 0
        self.unknown = 0
        self.erased = 0
        self.bundles: dict[str, int] = {}

    def add(self, seq: int, payload: bytes) -> list[Difference]:
        """What is wrong with the next record."""
        self.records += 1
        try:
            there = decode_record(payload)
            now = parse_rfc3339(there.time)
            message = there.message()
        except (InvalidRecord, InvalidEnvelope, ValueError) as error:
            return [Difference(seq, f"cannot be read: {error}")]
        found: list[Difference] = []
        if there.ingress.n == 0 and self._consequence(self._now, _limits(there)):
            found.append(Difference(seq, "comes before a consequence of the last submission"))
        self._now = now
        self.bundles[there.why.bundle] = self.bundles.get(there.why.bundle, 0) + 1
        if what := self._compare(seq, there, message, payload, now):
            found.append(Difference(seq, what))
        try:
            self._state.apply(there, message, now)
        except (InvalidEnvelope, ValueError) as error:
            found.append(Difference(seq, f"cannot be followed: {error}"))
        return found

    def _compare(
        self, seq: int, there: Record, message: Envelope | None, payload: bytes, now: int
    ) -> str:
        hold: Hold | None = None
        if self._unreplayable(message):
            self.erased += 1
            if there.ingress.n and self._consequence(now, _limits(there), there.first):
                return "comes before another consequence of the last submission"
            return ""
        if there.ingress.n:
            consequence = self._consequence(now, _limits(there))
            if consequence is None:
                return f"{_told(there)}, where nothing follows from the submission any more"
            decision, hold = consequence
            submission = Submission(
                there.ingress.seq, parse_rfc3339(there.ingress.time), hold.by, hold.payload
            )
        else:
            submission, known = _submission(there)
            if known:
                decision = self._decide(submission, _limits(there), now)
            elif self._withheld(there):
                self.unknown += 1
                decision = Decision(
                    Verdict.REJECT, there.why.reason, facts=there.why.facts, withheld=True
                )
            else:
                return f"{_told(there)}, and holds no message, which nothing accounts for"
        here = record(
            decision,
            submission,
            self._state.library.active,
            log=there.log,
            seq=seq,
            epoch=there.epoch,
            now=now,
            n=there.ingress.n,
            held=hold.seq if hold else None,
        )
        return "" if encode_record(here) == payload else _differ(there, here)

    def _decide(self, submission: Submission, limits: Limits, now: int) -> Decision:
        state = self._state
        try:
            return decide(state, limits, submission, now, self._opener)
        except Forgotten as cause:
            state.asked.recall(cause.seq, self._again(cause.seq))
            return decide(state, limits, submission, now, self._opener)

    def _again(self, seq: int) -> Record | None:
        """A record of before; None if it was one that could not be read."""
        try:
            record = decode_record(self._leaf(seq))
            record.message()
        except (InvalidRecord, InvalidEnvelope):
            return None
        return record

    def _withheld(self, there: Record) -> bool:
        """Whether a record may be without its message; what it says of it is not verified then."""
        why = there.why
        personal = why.facts.get("personal") is True
        facts = {*_IN_ITS_STEAD, "personal"} if personal else _IN_ITS_STEAD
        if there.verdict is not Verdict.REJECT or set(why.facts) != facts:
            return False
        if why.reason in (Reason.MALFORMED, Reason.RESERVED_HEADER):
            return personal or bool(self._state.snapshot.bundle.redactions)
        return why.reason == Reason.OVERSIZED

    def _unreplayable(self, message: Envelope | None) -> bool:
        return unreplayable(self._state.privacy, self._opener, message)

    def _consequence(
        self, now: int, limits: Limits, until: int | None = None
    ) -> tuple[Decision, Hold] | None:
        """What follows next from the last submission; nothing more after the hold `until`.

        What waits and cannot be read any more is believed to wait on, unless the ledger says else.
        """
        state = self._state
        while state.due:
            if hold := state.holds.get(state.due.popleft()):
                if hold.seq == until:
                    return None
                if self._unreplayable(hold.envelope):
                    continue
                decision = resolve(state, limits, hold, now, self._opener)
                if decision:
                    return decision, hold
        return None


def _limits(there: Record) -> Limits:
    """The gateway's own limits when it wrote a record; they stand in no ledger.

    What was too large says so itself, and so does an activation to which a report was missing.
    """
    return Limits(MAX_LIMIT, there.why.facts.get("detail") == NO_REPORT)


def _submission(there: Record) -> tuple[Submission, bool]:
    """What a record is about, as the gateway had it before it; and whether it is known whole."""
    payload, reserved, known = b"", "", True
    if not isinstance(there.envelope, msgspec.UnsetType):
        payload = bytes(there.envelope)
    elif there.raw is not None:
        payload = base64.b64decode(there.raw)
        if there.why.reason == Reason.RESERVED_HEADER:
            reserved = str(there.why.facts.get("detail", "")).partition("' is only")[0][1:]
    else:
        known = False
    time = parse_rfc3339(there.ingress.time)
    return Submission(there.ingress.seq, time, there.by, payload, reserved), known


def _differ(there: Record, here: Record) -> str:
    """In what a record differs from the one that follows from those before it."""
    if (there.verdict, there.why) != (here.verdict, here.why):
        return f"{_told(there)}; it follows {_told(here)}"
    for name in Record.__struct_fields__:
        if getattr(there, name) != getattr(here, name):
            return (
                f"`{name}` is {getattr(there, name)!r:.80}; it follows {getattr(here, name)!r:.80}"
            )
    return "has other bytes"


def _told(made: Record) -> str:
    by = f" by {', '.join(made.why.policies)}" if made.why.policies else ""
    detail = made.why.facts.get("detail", "")
    said = f"{made.verdict}, {made.why.reason}{by}{f' ({detail})' if detail else ''}"
    under = f" under {made.why.bundle[:19]}"
    obliged = f", obliged to {' '.join(made.why.obligations)}" if made.why.obligations else ""
    return (said + obliged)[:_LONGEST] + under
