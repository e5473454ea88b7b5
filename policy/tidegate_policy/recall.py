"""The state after the last record, from the ledger, when a gateway starts.

What lasts (who takes part, bundles, controls, what waits) is read by subject from the first record
on; what passes (the dedupe window, what was used of limits) from where it still counts. A budget of
a run has no such moment, so under a bundle with one the whole ledger is read.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable

from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import InvalidEnvelope, InvalidRecord, LedgerError
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict

from .state import State

_DRIFT_SECONDS = 60.0
"""By how much the clocks of gateway and broker may drift apart within a window."""
_SECOND = 1_000_000_000
_COMMANDS = ("identity.>", "policy.>", "approval.>", "control.>", "clock.>", "blueprint.>")
"""Controls that last, as patterns of destinations."""


async def recall(
    reader: LedgerReader, begin: Callable[[], State], partition: int, tail: StoredRecord, now: int
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
    state = begin()
    await _lasting(reader, state, partition, tail.seq)
    first = await _since(reader, state, tail, now)
    if first is None or first > tail.seq:
        return state
    # Once more, since what passes depends on what lasts as it was at each moment.
    state = begin()
    await _lasting(reader, state, partition, first - 1)
    async for stored in reader.read(first):
        if stored.seq > tail.seq:
            break
        apply(state, stored)
    return state


async def _since(reader: LedgerReader, state: State, tail: StoredRecord, now: int) -> int | None:
    """The first record that still counts, if any does."""
    seconds = state.counting_seconds
    if seconds is None:
        return 1
    # By the broker's clock, which may be behind ours or before it.
    behind = tail.stored - parse_rfc3339(read(tail).time)
    since = now + min(behind, 0) - int((seconds + _DRIFT_SECONDS) * _SECOND)
    async for stored in reader.read(since=max(since, 0)):
        return stored.seq
    return None


async def _lasting(reader: LedgerReader, state: State, partition: int, last: int) -> None:
    """Take in what lasts, up to the record `last`."""
    patterns = [subjects.delivery(partition, Kind.CONTROL, command) for command in _COMMANDS]
    patterns.append(subjects.verdicts(partition, Verdict.HOLD))
    found = [[stored async for stored in _until(reader, p, last)] for p in patterns]
    done = 0
    for stored in heapq.merge(*found, key=lambda stored: stored.seq):
        if stored.seq <= done:
            continue  # it came as the consequence of one before
        apply(state, stored)
        done = stored.seq
        if state.due and done < last:  # what ended with it follows it at once
            async for next_ in reader.read(done + 1):
                if next_.seq > last or read(next_).ingress.n == 0:
                    break
                apply(state, next_)
                done = next_.seq


async def _until(reader: LedgerReader, pattern: str, last: int) -> AsyncIterator[StoredRecord]:
    async for stored in reader.read(filter=pattern):
        if stored.seq > last:
            return
        yield stored


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
