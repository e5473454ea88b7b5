"""What agents say to a message now, beside what they said then. Pure.

Something that is said now is paired with something that was said then to the same message, by the
same agent, of the same kind, to the same destination: with the one of the same id; else of the
same data; else with the first that is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice

import msgspec

from tidegate_policy.redaction import redact
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.record import Reason, Receipt
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import DEADLETTER

from .script import Cause, Said
from .values import differences

_COMPARED = ("type", "subject", "dataclassification", "dataschema", "onbehalfof", "costs")
_MOST = 3
"""Differences that are told of one answer."""
_NO_RECORD = 0
"""In a receipt for what the ledger does not hold."""


class Outcome(StrEnum):
    """How something that was said then stands to what is said now."""

    SAME = "same"
    DIFFERENT = "different"
    FAILED = "failed"
    """A result then, a dead letter now."""
    MENDED = "mended"
    """A dead letter then, a result now."""
    MISSING = "missing"
    """Said then, not now."""
    EXTRA = "extra"
    """Said now, not then."""
    SEALED = "sealed"
    """Said then and now, but what was said then cannot be read here."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was said, then or now.

    Attributes:
        agent: who said it.
        to_record: sequence of the record that it is said to; 0 where it names none.
        record: sequence of the one that holds what was said then; 0 where none does.
        kind, to: where it goes.
        what: in what they differ.
        exact: whether the data is the same byte for byte.
    """

    outcome: Outcome
    agent: str
    to_record: int
    record: int
    kind: Kind
    to: str
    what: tuple[str, ...] = ()
    exact: bool = False


class Answers:
    """Listens to agents, and tells them what the bus told them then.

    Args:
        said: what was said then.
        records: the sequence of each message that they get, by agent and id.
    """

    def __init__(self, said: Iterable[Said], records: dict[tuple[str, str], int]) -> None:
        self._records = records
        self._left: dict[Cause, list[Said]] = {}
        for one in said:
            self._left.setdefault(one.cause, []).append(one)
        self._heard: dict[tuple[str, str], Receipt] = {}
        self.findings: list[Finding] = []

    def hear(self, by: str, message: Envelope, ingress: int) -> Receipt:
        """Take what an agent says; what it is told.

        What nobody said then is let through: what policy says of it nobody has asked.
        """
        kind, to = message.destination()
        cause = Cause(by, message.causationid or "", kind, to)
        then = self._pair(cause, message)
        first = self._heard.get((by, message.id))
        if then is None and first is not None:  # an answer of ours was lost on the way
            return msgspec.structs.replace(
                first, verdict=Verdict.DUPLICATE, was=first.verdict, ingress=ingress
            )
        if then is None:
            self._find(Outcome.EXTRA, cause, 0)
            receipt = Receipt(
                message.id, Verdict.ALLOW, _NO_RECORD, Reason.PERMITTED, ingress, "in a sandbox"
            )
        else:
            self._judge(then, message)
            receipt = Receipt(
                message.id, then.verdict, then.seq, then.reason, ingress, then.detail, then.policies
            )
        self._heard[by, message.id] = receipt
        return receipt

    def finish(self) -> list[Finding]:
        """All there is to say of it, in the order of what was said to them."""
        for cause, left in self._left.items():
            for one in left:
                self._find(Outcome.MISSING, cause, one.seq)
        self._left.clear()
        self.findings.sort(key=lambda f: (f.to_record, f.agent, f.kind, f.to, f.record))
        return self.findings

    def _pair(self, cause: Cause, message: Envelope) -> Said | None:
        left = self._left.get(cause, [])
        found = [one for one in left if one.message.id == message.id]
        if not found and (cause.by, message.id) not in self._heard:
            found = [one for one in left if not _differ(one, message)] or left
        if not found:
            return None
        one = found[0]
        left.remove(one)
        return one

    def _judge(self, then: Said, now: Envelope) -> None:
        was = then.message
        exact = was.body == now.body and was.data_base64 == now.data_base64
        found: tuple[str, ...] = ()
        if was.type != now.type and DEADLETTER in (was.type, now.type):
            outcome = Outcome.FAILED if now.type == DEADLETTER else Outcome.MENDED
            if outcome is Outcome.FAILED:
                found = (_error(now),)
        elif then.sealed and now.dataenc is not None:
            outcome = Outcome.SEALED
        else:
            found = tuple(islice(_differences(then, now), _MOST))
            outcome = Outcome.DIFFERENT if found else Outcome.SAME
        self._find(outcome, then.cause, then.seq, found, exact=exact)

    def _find(
        self,
        outcome: Outcome,
        cause: Cause,
        record: int,
        what: tuple[str, ...] = (),
        *,
        exact: bool = False,
    ) -> None:
        about = self._records.get((cause.by, cause.id), 0)
        self.findings.append(
            Finding(outcome, cause.by, about, record, cause.kind, cause.to, what, exact)
        )


def _differ(then: Said, now: Envelope) -> bool:
    return any(_differences(then, now))


def _differences(then: Said, now: Envelope) -> Iterator[str]:
    """In what they differ. What the ledger does not hold of the one is left out of the other."""
    was = then.message
    if then.redactions:
        now = redact(now, then.redactions)
    for name in _COMPARED:
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            yield f"`{name}` is {after!r:.60}, was {before!r:.60}"
    if was.type == now.type == DEADLETTER:  # the rest of it tells of times
        if (before := _error(was)) != (after := _error(now)):
            yield f"the error is {after:.80}, was {before:.80}"
    elif was.data_base64 != now.data_base64:
        yield "`data_base64` is another"
    else:
        yield from differences(was.body, now.body)


def _error(letter: Envelope) -> str:
    """Why nobody could give a result."""
    try:
        said: _Letter = letter.payload(_Letter)
    except InvalidEnvelope:
        return ""
    return said.error


class _Letter(msgspec.Struct):
    error: str = ""
