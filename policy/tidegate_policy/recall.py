"""The state after the last record, from the ledger, when a gateway starts.

What lasts (who takes part, bundles, controls, what waits) is read by subject from the first record
on; what passes (the dedupe window, what was used of limits) from where it still counts. A budget of
a run has no such moment, so under a bundle with one the whole ledger is read.

What ends a wait stands under the subject of what waited, so it is looked for right behind whatever
can end one: a command, or the end of a run. Ends of runs are read from the first hold on that the
coordinator has in one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from tidegate_bus.ledger import StoredRecord
from tidegate_schemas import subjects, vocabulary
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import InvalidEnvelope, InvalidRecord, LedgerError
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict

from .state import State

_DRIFT_SECONDS = 60.0
"""By how much the clocks of gateway and broker may drift apart within a window."""
_SECOND = 1_000_000_000
_BUNDLES = "policy.>"
_COMMANDS = (
    *("identity.>", _BUNDLES, "approval.>", "control.>", "clock.>", "blueprint.>"),
    "privacy.>",
)
"""Controls that last, as patterns of destinations."""
_MOST_AT_ONCE = 512
_AGAIN = 32


class Reader(Protocol):
    """What is needed of a `LedgerReader`; see there."""

    def read(
        self,
        start: int = 1,
        *,
        since: int | None = None,
        filter: str | None = None,
        batch: int = _MOST_AT_ONCE,
    ) -> AsyncIterator[StoredRecord]:
        """Records in order."""
        ...


async def recall(
    reader: Reader, begin: Callable[[], State], partition: int, tail: StoredRecord, now: int
) -> State:
    """The state after the record `tail`.

    Args:
        reader: of the ledger.
        begin: gives the state before the first record.
        partition: whose ledger it is.
        tail: the last record.
        now: ns since 1970.

    Raises:
        LedgerError: a record is none that a gateway writes.
        Unavailable: the broker does not answer.
    """
    first = await _first(reader, begin(), partition, tail, now)
    state = begin()
    await _Lasting(reader, state, partition, first - 1).read()
    async for stored in reader.read(first):
        if stored.seq > tail.seq:
            break
        apply(state, stored)
    return state


async def _first(reader: Reader, state: State, partition: int, tail: StoredRecord, now: int) -> int:
    """The first record that still counts. It begins a submission, and is at most its last."""
    bundles = subjects.delivery(partition, Kind.CONTROL, _BUNDLES)
    async for stored in reader.read(filter=bundles):
        if stored.seq > tail.seq:
            break
        apply(state, stored)
    seconds = state.counting_seconds
    if seconds is None:
        return 1
    last = read(tail)
    # By the broker's clock, which may be behind ours or before it.
    behind = tail.stored - parse_rfc3339(last.time)
    since = now + min(behind, 0) - int((seconds + _DRIFT_SECONDS) * _SECOND)
    first = tail.seq - last.ingress.n
    async for stored in reader.read(since=max(since, 0), batch=1):
        return min(first, stored.seq - read(stored).ingress.n)
    return first


async def lasting(reader: Reader, state: State, partition: int, last: int) -> None:
    """Take in only what lasts, up to the record `last`: enough to see what waits and is stopped.

    Raises:
        LedgerError, Unavailable: see `recall`.
    """
    await _Lasting(reader, state, partition, last).read()


async def again(reader: Reader, state: State, seq: int) -> None:
    """Know a record again that somebody answers, and those behind it, which may be answered next.

    Raises:
        LedgerError, Unavailable: see `recall`.
    """
    state.asked.recall(seq, None)
    async for stored in reader.read(seq, batch=_AGAIN):
        made = read(stored)
        try:
            state.asked.recall(stored.seq, made)
        except InvalidEnvelope as error:
            raise unreadable(stored, error) from error
        if stored.seq >= seq + _AGAIN - 1:
            break


class _Lasting:
    """Takes in what lasts, up to the record `last`."""

    def __init__(self, reader: Reader, state: State, partition: int, last: int) -> None:
        self._reader = reader
        self._state = state
        self._partition = partition
        self._last = last
        self._heads: list[tuple[StoredRecord, AsyncIterator[StoredRecord]]] = []
        self._ends = False
        self._done = 0

    async def read(self) -> None:
        """Do it."""
        for command in _COMMANDS:
            await self._follow(subjects.delivery(self._partition, Kind.CONTROL, command))
        await self._follow(subjects.verdicts(self._partition, Verdict.HOLD))
        while self._heads:
            stored, more = self._heads.pop(self._next())
            await self._advance(more)
            if stored.seq > self._done:  # it may have come as the consequence of one before
                await self._take(stored)

    async def _take(self, stored: StoredRecord) -> None:
        state = self._state
        made = self._apply(stored)
        if state.due and self._done < self._last:  # what ended with it follows it at once
            batch = min(len(state.due) + 1, _MOST_AT_ONCE)
            async for next_ in self._reader.read(self._done + 1, batch=batch):
                if next_.seq > self._last or read(next_).ingress.n == 0:
                    break
                self._apply(next_)
        waits = made.verdict is Verdict.HOLD and made.by == str(vocabulary.COORDINATOR)
        if waits and not self._ends:
            self._ends = True
            finished = subjects.delivery(self._partition, Kind.EVENT, vocabulary.RUN_FINISHED)
            await self._follow(finished, stored.seq)

    def _apply(self, stored: StoredRecord) -> Record:
        self._done = stored.seq
        return apply(self._state, stored)

    async def _follow(self, pattern: str, start: int = 1) -> None:
        await self._advance(self._reader.read(start, filter=pattern))

    async def _advance(self, records: AsyncIterator[StoredRecord]) -> None:
        stored = await anext(records, None)
        if stored is not None and stored.seq <= self._last:
            self._heads.append((stored, records))

    def _next(self) -> int:
        return min(range(len(self._heads)), key=lambda n: self._heads[n][0].seq)


def apply(state: State, stored: StoredRecord) -> Record:
    """Take in a record that a gateway wrote.

    Raises:
        LedgerError: it is none.
    """
    made = read(stored)
    try:
        state.apply(made, made.message(), parse_rfc3339(made.time))
    except (InvalidEnvelope, ValueError) as error:
        raise unreadable(stored, error) from error
    return made


def read(stored: StoredRecord) -> Record:
    """A record that a gateway wrote.

    Raises:
        LedgerError: it is none.
    """
    try:
        made = stored.record()
        parse_rfc3339(made.time)
    except (InvalidRecord, ValueError) as error:
        raise unreadable(stored, error) from error
    if made.seq != stored.seq:
        raise unreadable(stored, ValueError(f"it bears the sequence {made.seq}"))
    return made


def unreadable(stored: StoredRecord, error: Exception) -> LedgerError:
    """What is raised where a record is not of a gateway."""
    return LedgerError(f"ledger record {stored.seq} is not of a gateway: {error}")
