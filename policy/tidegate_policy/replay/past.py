"""What the ledger had said by the time of each record: who took part, and what was stopped.

A fold of the commands that change it, which are few, so that a stretch in the middle of the ledger
can be judged without the records before it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidegate_policy.bundle import Snapshot
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas import subjects, vocabulary
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import InvalidEnvelope, InvalidRecord, LedgerError
from tidegate_schemas.identity import IDENTITY_COMMANDS
from tidegate_schemas.record import Record, decode_record
from tidegate_schemas.subjects import Kind

COMMANDS = (IDENTITY_COMMANDS, vocabulary.BLUEPRINT_REGISTER, "control.>")
_NEVER = 2**63


def filters(partition: int = 0) -> list[str]:
    """Subjects of the records that `Past` is a fold of."""
    return [subjects.delivery(partition, Kind.CONTROL, to) for to in COMMANDS]


class Past:
    """The state before some record, with a bundle of one's own; moves forward at little cost.

    Args:
        genesis: the bundle, and the roster where the ledger begins.
        changes: sequence and payload of all records under `filters`, in any order.

    Attributes:
        state: as of the last `move`; nothing that passes is in it, such as the dedupe window.
        snapshot: the bundle, speaking of who took part.
        until: the last record for which it is like this.

    Raises:
        LedgerError: one of the records is not of a gateway.
    """

    def __init__(self, genesis: Snapshot, changes: Iterable[tuple[int, bytes]]) -> None:
        self._genesis = genesis
        self._changes = sorted((read_record(*change) for change in changes), key=lambda r: r.seq)
        self.state = State(genesis, Window(0, 0))
        self.snapshot = genesis
        self.until = 0
        self._done = 0
        self._look()

    def move(self, seq: int) -> None:
        """Go to where the record `seq` was decided."""
        if self._done and self._changes[self._done - 1].seq >= seq:
            self.state = State(self._genesis, Window(0, 0))
            self._done = 0
            self._look()
        while self.until < seq:
            self._apply(self._changes[self._done])
            self._done += 1
            self._look()
        if self.state.roster is not self.snapshot.roster:
            self.snapshot = self._genesis.bundle.snapshot(self.state.roster)

    def _look(self) -> None:
        rest = self._changes[self._done : self._done + 1]
        self.until = rest[0].seq if rest else _NEVER

    def _apply(self, record: Record) -> None:
        try:
            self.state.apply(record, record.message(), parse_rfc3339(record.time))
        except (InvalidEnvelope, ValueError) as error:
            raise strange(record.seq, error) from error


def read_record(seq: int, payload: bytes) -> Record:
    """A record, strictly.

    Raises:
        LedgerError: it is none of a gateway.
    """
    try:
        record = decode_record(payload)
    except InvalidRecord as error:
        raise strange(seq, error) from error
    if record.seq != seq:
        raise strange(seq, ValueError(f"it bears the sequence {record.seq}"))
    return record


def strange(seq: int, error: Exception) -> LedgerError:
    """What is raised where a record is not of a gateway."""
    return LedgerError(f"ledger record {seq} is not of a gateway: {error}")
