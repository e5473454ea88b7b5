"""The gateway's desk: submissions in, records out. No I/O, and the clock is passed in.

It moves the state with each record that it makes, so the next submission is decided by what the
ledger says up to there. What one submission sets going besides, such as the release of what was
held, follows it at once with `n` = 1, 2, …; cut off in the middle, a new desk goes on from there.
None stands for something that was looked at and waits on: so whoever asks for the next record can
do something else in between, however much waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tidegate_bus.ingress import Submission
from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.record import Ingress, Receipt, Record, encode_record

from .decide import Decision, Limits, decide, receipt, record, resolve
from .holds import Hold
from .personal.privacy import NOTHING, Opener
from .state import State


class Entry(NamedTuple):
    """A record, and what goes with it.

    Attributes:
        subject, payload: what the ledger gets.
        receipt: what `record.by` hears.
        switched: the policies in force are others after it.
    """

    record: Record
    subject: str
    payload: bytes
    receipt: Receipt
    switched: bool


class Desk:
    """Decides and writes down.

    Args:
        state: what the ledger says so far; moved with each record.
        limits: the gateway's own.
        log, partition: see `Record`.
        epoch: number of this start.
        seq: of the last record.
        opener: opens personal data.
    """

    def __init__(
        self,
        state: State,
        limits: Limits,
        log: str,
        partition: int,
        epoch: int,
        seq: int,
        opener: Opener = NOTHING,
    ) -> None:
        self.state = state
        self.seq = seq
        self._limits = limits
        self._log = log
        self._partition = partition
        self._epoch = epoch
        self._opener = opener

    def take(self, submission: Submission, now: int) -> Iterator[Entry | None]:
        """The record of a submission, and those of what it sets going.

        Raises:
            Forgotten: before anything else, see `decide`; once it is recalled, take it again.
        """
        decision = decide(self.state, self._limits, submission, now, self._opener)
        yield self._write(decision, submission, now)
        if self.state.due:
            yield from self._consequences(submission.seq, submission.time, 0, now)

    def go_on(self, last: Ingress, now: int) -> Iterator[Entry | None]:
        """What the last submission of an earlier desk has set going and is not recorded yet."""
        yield from self._consequences(last.seq, parse_rfc3339(last.time), last.n, now)

    def _consequences(self, seq: int, time: int, n: int, now: int) -> Iterator[Entry | None]:
        state = self.state
        while state.due:
            hold = state.holds.get(state.due.popleft())
            decision = resolve(state, self._limits, hold, now, self._opener) if hold else None
            if hold and decision:
                n += 1
                again = Submission(seq, time, hold.by, hold.payload)
                yield self._write(decision, again, now, n, hold)
            else:
                yield None

    def _write(
        self,
        decision: Decision,
        submission: Submission,
        now: int,
        n: int = 0,
        hold: Hold | None = None,
    ) -> Entry:
        self.seq += 1
        before = self.state.library.active
        made = record(
            decision,
            submission,
            before,
            log=self._log,
            seq=self.seq,
            epoch=self._epoch,
            now=now,
            n=n,
            held=hold.seq if hold else None,
        )
        self.state.apply(made, decision.envelope, now)
        return Entry(
            made,
            subjects.ledger(self._partition, decision.verdict, decision.kind, decision.to),
            encode_record(made),
            receipt(decision, submission, self.seq),
            self.state.library.active != before,
        )
