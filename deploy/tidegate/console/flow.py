"""What moves over the bus, in figures: a fold of the ledger. Pure.

The totals are of all records; rates, latencies and the series of the last seconds are by the
gateway's clock, which stands in the records.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import msgspec

from tidegate_bus.frames import Entry
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import LedgerError
from tidegate_schemas.subjects import Kind, Verdict

SECONDS = 120
"""Of which there are rates, one by one."""
_RATE_SECONDS = 5
_LATENCY_SECONDS = 60
NEWEST = 12
_MOST_SENDERS = 20_000
_SECOND = 1_000_000_000
_APPROVAL = "require_approval:"
_STEPS = 16
"""Latencies are counted in classes: so many to each doubling, so figures are within 4 %."""


class _Ingress(msgspec.Struct):
    seq: int
    n: int
    time: str


class _Why(msgspec.Struct):
    reason: str
    obligations: tuple[str, ...] = ()


class Line(msgspec.Struct):
    """As much of a record as is shown of the newest ones. Names are those of `Record`."""

    seq: int
    time: str
    ingress: _Ingress = msgspec.field(name="in")
    by: str
    kind: Kind
    to: str
    verdict: Verdict
    why: _Why
    first: int | None = None


_decode = msgspec.json.Decoder(Line).decode


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures at a moment.

    Attributes:
        seq: of the newest record; 0 where there is none.
        submitted: of the newest submission that has a record.
        totals: records by verdict, since the first one.
        rates: records a second by verdict, over the last seconds that are over.
        series: records of each of the last `SECONDS` that are over by verdict, the oldest first.
        p50, p99: ms from submission to verdict in the last minute; None where there was nothing.
        newest: the last records, the newest first.
        waiting: messages that are held now.
        asked: those of them that wait for an approval, if for anything else besides.
    """

    seq: int
    submitted: int
    totals: Mapping[Verdict, int]
    rates: Mapping[Verdict, float]
    series: tuple[Mapping[Verdict, int], ...]
    p50: float | None
    p99: float | None
    newest: tuple[Line, ...]
    waiting: int
    asked: int


class KnownFlow(msgspec.Struct):
    """All that a `Flow` knows. Counts of a second are its verdicts, and its classes of latency."""

    seq: int
    submitted: int
    latest: int
    totals: dict[Verdict, int]
    seconds: dict[int, tuple[dict[Verdict, int], dict[int, int]]]
    newest: list[Line]
    held: dict[int, bool]
    seen: dict[str, tuple[int, int]]


class _Second:
    __slots__ = ("counts", "waits")

    def __init__(
        self, counts: Mapping[Verdict, int] | None = None, waits: Mapping[int, int] | None = None
    ) -> None:
        self.counts = Counter[Verdict](counts or {})
        self.waits = Counter[int](waits or {})


class Flow:
    """Takes in the ledger from its first record on, and tells how things are.

    Attributes:
        seq: of the last record that was taken in.
        seen: of each sender, sequence and time (ns since 1970) of its last record.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.seen: dict[str, tuple[int, int]] = {}
        self._submitted = 0
        self._latest = 0
        self._totals = Counter[Verdict](dict.fromkeys(Verdict, 0))
        self._seconds: dict[int, _Second] = {}
        self._newest: deque[Line] = deque(maxlen=NEWEST)
        self._held: dict[int, bool] = {}
        self._asked = 0

    @classmethod
    def of(cls, known: KnownFlow) -> Self:
        """One that knows this."""
        made = cls()
        made.seq, made._submitted, made._latest = known.seq, known.submitted, known.latest
        made._totals.update(known.totals)
        made._seconds = {at: _Second(*counts) for at, counts in known.seconds.items()}
        made._newest.extend(known.newest)
        made._held = known.held
        made._asked = sum(known.held.values())
        made.seen = known.seen
        return made

    def known(self) -> KnownFlow:
        """All that it knows; to be written before it hears of more."""
        seconds = {at: (dict(s.counts), dict(s.waits)) for at, s in self._seconds.items()}
        return KnownFlow(
            self.seq,
            self._submitted,
            self._latest,
            dict(self._totals),
            seconds,
            list(self._newest),
            self._held,
            self.seen,
        )

    def add(self, entries: Iterable[Entry]) -> None:
        """Take in the next records.

        Raises:
            LedgerError: one of them is none.
        """
        for seq, payload in entries:
            try:
                line = _decode(payload)
                time, submitted = parse_rfc3339(line.time), parse_rfc3339(line.ingress.time)
            except (msgspec.MsgspecError, ValueError) as error:
                raise LedgerError(f"ledger record {seq} is not of a gateway: {error}") from error
            self.seq = seq
            self._totals[line.verdict] += 1
            self._latest = max(self._latest, time)
            self._submitted = max(self._submitted, line.ingress.seq)
            self._newest.appendleft(line)
            self.seen[line.by] = seq, time
            second = self._seconds.setdefault(time // _SECOND, _Second())
            second.counts[line.verdict] += 1
            if line.verdict is Verdict.HOLD:
                self._hold(line)
            if line.ingress.n and line.first is not None and self._held.pop(line.first, False):
                self._asked -= 1
            if line.ingress.n == 0:  # what follows from it waited for something else
                second.waits[_class(time - submitted)] += 1
        self._forget()

    def sample(self, now: int) -> Sample:
        """The figures; `now` in ns since 1970."""
        end = max(now, self._latest) // _SECOND  # the clock of the gateway may be before ours
        return Sample(
            self.seq,
            self._submitted,
            dict(self._totals),
            self._rates(end),
            tuple(self._counts(second) for second in range(end - SECONDS, end)),
            *self._latencies(end),
            tuple(self._newest),
            len(self._held),
            self._asked,
        )

    def _hold(self, line: Line) -> None:
        """A message waits; until a record that follows from another submission names this one."""
        asked = any(text.startswith(_APPROVAL) for text in line.why.obligations)
        self._held[line.seq] = asked
        self._asked += asked

    def _counts(self, second: int) -> Mapping[Verdict, int]:
        found = self._seconds.get(second)
        return found.counts if found else {}

    def _rates(self, end: int) -> Mapping[Verdict, float]:
        counted = Counter[Verdict](dict.fromkeys(Verdict, 0))
        for second in range(end - _RATE_SECONDS, end):
            counted.update(self._counts(second))
        return {verdict: number / _RATE_SECONDS for verdict, number in counted.items()}

    def _latencies(self, end: int) -> tuple[float | None, float | None]:
        waits = Counter[int]()
        for second in range(end - _LATENCY_SECONDS, end + 1):
            if found := self._seconds.get(second):
                waits.update(found.waits)
        return _percentile(waits, 0.5), _percentile(waits, 0.99)

    def _forget(self) -> None:
        oldest = self._latest // _SECOND - SECONDS - 1
        for second in [second for second in self._seconds if second < oldest]:
            del self._seconds[second]
        while len(self.seen) > _MOST_SENDERS:
            del self.seen[next(iter(self.seen))]


def _class(nanoseconds: int) -> int:
    return round(math.log2(max(nanoseconds, 1_000)) * _STEPS)


def _percentile(waits: Counter[int], part: float) -> float | None:
    """Nearest rank, in ms."""
    left = math.ceil(waits.total() * part)
    for step in sorted(waits):
        left -= waits[step]
        if left <= 0:
            return float(2 ** (step / _STEPS)) / 1_000_000
    return None
