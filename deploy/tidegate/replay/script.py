"""What agents got in a part of the ledger, and what they said to it. Pure: records in.

An agent gets the admitted tasks of its capabilities and the admitted events of its topics. What it
says while it handles a message names that as its cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tidegate_policy.personal.privacy import Opener
from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, InvalidInput
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict

MOST = 100_000
"""Messages of one script. It is kept in memory, with what was said to each."""

_REDACT = "redact:"


@dataclass(frozen=True, slots=True)
class Cause:
    """What the answers to a message have in common: whose, to which message, of what kind, where.

    `id` is the envelope's.
    """

    by: str
    id: str
    kind: Kind
    to: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that agents got.

    Attributes:
        seq, time: of its record; ns since 1970.
        subject, payload: the record as the ledger holds it.
        id: of the envelope.
        agents: who got it, of those who are looked at.
    """

    seq: int
    time: int
    subject: str
    payload: bytes
    id: str
    agents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """What an agent said to a message, and what became of it."""

    seq: int
    cause: Cause
    message: Envelope
    verdict: Verdict
    reason: str
    detail: str
    policies: tuple[str, ...]
    redactions: tuple[str, ...]
    """JSON pointers of what the ledger does not hold of its data."""

    @property
    def sealed(self) -> bool:
        """Nobody can read it here."""
        return is_sealed(self.message)


@dataclass(slots=True)
class Script:
    """Give it the records in order, from the first of the part on, and beyond its end.

    Args:
        agents: whom it is about.
        last: sequence of the last record of the part. What comes later is looked at for answers.
        correlation: only what belongs to this correlation id, or to the envelope of that id.
        opener: knows which keys of personal data there still are; None where that is not known.

    Attributes:
        deliveries: what they got.
        said: what they said to it.
        sealed: sequences of what they got and nobody can read here.
        erased: of these, how many nobody can read any more.
        redacted: how many messages the ledger holds, and agents got, with less than was sent.
        others: how many messages of the part were for nobody of them.
        late: how many answers came after the part.
    """

    agents: Sequence[Manifest]
    last: int
    correlation: str | None = None
    opener: Opener | None = None
    deliveries: list[Delivery] = field(default_factory=list[Delivery])
    said: list[Said] = field(default_factory=list[Said])
    sealed: list[int] = field(default_factory=list[int])
    erased: int = 0
    redacted: int = 0
    others: int = 0
    late: int = 0
    _takers: dict[tuple[Kind, str], tuple[str, ...]] = field(init=False)
    _given: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    _open: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    _events: bool = False

    def __post_init__(self) -> None:
        self._takers = {}
        for manifest in self.agents:
            name = str(manifest.principal)
            for kind, places in (
                (Kind.TASK, manifest.capabilities),
                (Kind.EVENT, manifest.subscribes),
            ):
                for to in places:
                    self._takers[kind, to] = (*self._takers.get((kind, to), ()), name)

    @property
    def open(self) -> int:
        """How many tasks nobody has answered yet."""
        return self._open.total()

    @property
    def over(self) -> bool:
        """After the part: nothing more can come of it.

        What is said to a task comes before its result; of an event nobody knows when its handler
        ended.
        """
        return not self._events and not self._open

    def add(self, record: Record, payload: bytes) -> None:
        """Take the next record, and its bytes.

        Raises:
            InvalidInput: there is more than `MOST` in the part.
            InvalidEnvelope: something is sealed in a way that no gateway admits.
        """
        try:
            message = record.message()
        except InvalidEnvelope:  # of another version of the format
            return
        if message is None:
            return
        if record.seq <= self.last and record.verdict is Verdict.ALLOW:
            self._give(record, message, payload)
        # What was held was said once; a second record only lets it go.
        if record.verdict is not Verdict.DUPLICATE and record.ingress.n == 0:
            self._hear(record, message)

    def _give(self, record: Record, message: Envelope, payload: bytes) -> None:
        if self.correlation not in (None, message.correlationid, message.id):
            return
        takers = self._takers.get((record.kind, record.to), ())
        if not takers:
            self.others += record.kind in (Kind.TASK, Kind.EVENT)
            return
        if is_sealed(message):
            self.sealed.append(record.seq)
            self.erased += self.opener is not None and self.opener.key(message) is None
            return
        if len(self.deliveries) == MOST:
            raise InvalidInput(
                f"more than {MOST:,} messages of this part are for these agents; ask for less, "
                "e.g. by --since, --until, --correlation or --agent"
            )
        self.redacted += b"[redacted]" in payload and bool(redactions(record))
        self.deliveries.append(
            Delivery(
                record.seq,
                parse_rfc3339(record.time),
                subjects.delivery(0, record.kind, record.to),
                payload,
                message.id,
                takers,
            )
        )
        for name in takers:
            self._given.add((name, message.id))
        if record.kind is Kind.TASK:
            self._open[takers[0], message.id] += 1
        else:
            self._events = True

    def _hear(self, record: Record, message: Envelope) -> None:
        about = record.by, message.causationid or ""
        if about not in self._given:
            return
        cause = Cause(record.by, about[1], record.kind, record.to)
        why = record.why
        self.said.append(
            Said(
                record.seq,
                cause,
                message,
                record.verdict,
                why.reason,
                str(why.facts.get("detail", "")),
                why.policies,
                redactions(record),
            )
        )
        self.late += record.seq > self.last
        if record.kind is Kind.RESULT and record.verdict is not Verdict.DENY:
            self._open[about] -= 1
            if self._open[about] <= 0:
                del self._open[about]


def is_sealed(message: Envelope) -> bool:
    """Whether the data of a message is personal and encrypted, so that it cannot be read here."""
    return message.dataenc is not None


def redactions(record: Record) -> tuple[str, ...]:
    """JSON pointers of what was taken out of a message before it was recorded."""
    return tuple(
        text.removeprefix(_REDACT).partition("#")[0]
        for text in record.why.obligations
        if text.startswith(_REDACT)
    )
