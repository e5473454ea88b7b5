"""Who may answer a message: who was given it, and nobody else.

A task is given to the agent that provides its capability, an event to those that subscribe to it. A
result names the record of the message, `answers`. What that record says follows from the ledger,
however old it is: so a verdict on a result is the same after every restart and in every replay.
The last ones are kept at hand; an older one is read from the ledger when somebody answers it.
"""

from __future__ import annotations

from collections import OrderedDict
from sys import intern
from typing import NamedTuple

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict

from .roster import Roster

MAX_TASKS = 100_000
MAX_EVENTS = 10_000
"""Few are answered. But all must be at hand that are decided and not stored yet."""
_MAX_RECALLED = 10_000

NAMELESS = "a result says what it `answers`: the `seq` of the record that its sender was given"


class Given(NamedTuple):
    """An admitted task or event: who sent it, its envelope's id, where it goes.

    An event is known by its source too, see `Envelope.key`; of a task this is None.
    """

    by: str
    id: str
    to: str
    source: str | None


class Forgotten(Exception):
    """What a record says is not known here any more: `recall` it, and ask again."""

    def __init__(self, seq: int) -> None:
        super().__init__(seq)
        self.seq = seq


class Asked:
    """What may be answered, by the sequence of its record. A fold, of bounded memory.

    What it has forgotten it does not deny: whoever asks reads the record and says what it is.

    Args:
        tasks, events: how many are kept at hand.
    """

    def __init__(self, tasks: int = MAX_TASKS, events: int = MAX_EVENTS) -> None:
        self._tasks = _Newest(tasks)
        self._events = _Newest(events)
        self._recalled: OrderedDict[int, Given | None] = OrderedDict()
        self._last = 0

    def __len__(self) -> int:
        return len(self._tasks.kept) + len(self._events.kept) + len(self._recalled)

    def apply(self, record: Record, envelope: Envelope | None) -> None:
        """Take in the next record; where some are left out between, those are not known."""
        seq = record.seq
        if seq != self._last + 1:
            self._tasks.since = self._events.since = seq
        self._last = seq
        if given := _given(record, envelope):
            (self._tasks if given.source is None else self._events).add(seq, given)

    def find(self, seq: int, *, event: bool) -> Given | None:
        """What a record admits; None where it is not there, or admits nothing of that kind.

        Args:
            seq: of the record.
            event: of which kind: an event, or a task. What was recalled may be of the other one.

        Raises:
            Forgotten: it may, and has to be read.
        """
        newest = self._events if event else self._tasks
        if given := newest.kept.get(seq):
            return given
        if seq >= newest.since:
            return None
        if seq not in self._recalled:
            raise Forgotten(seq)
        return self._recalled[seq]

    def recall(self, seq: int, record: Record | None) -> None:
        """Know a record again.

        Args:
            seq: which one, as `Forgotten` says it.
            record: as it stands in the ledger.

        Raises:
            InvalidEnvelope: no gateway would have written it.
        """
        self._recalled[seq] = _given(record, record.message()) if record else None
        if len(self._recalled) > _MAX_RECALLED:
            self._recalled.popitem(last=False)


class _Newest:
    """The newest of a kind. From `since` to the last record, what is not `kept` is none."""

    def __init__(self, most: int) -> None:
        self.kept: OrderedDict[int, Given] = OrderedDict()
        self.since = 1
        self._most = most

    def add(self, seq: int, given: Given) -> None:
        """One more."""
        self.kept[seq] = given
        if len(self.kept) > self._most:
            gone, _ = self.kept.popitem(last=False)
            self.since = max(self.since, gone + 1)


def unasked(asked: Asked, roster: Roster, by: str, to: str, result: Envelope) -> str:
    """Why somebody's result to somebody is not admitted; empty if it is.

    Raises:
        Forgotten: see `Asked.find`.
    """
    if result.answers is None:
        return NAMELESS
    source = result.causationsource  # who answers an event says so by it
    given = asked.find(int(result.answers), event=source is not None)
    if given is None or (given.by, given.id, given.source) != (to, result.causationid, source):
        return (
            f"record {result.answers} is no message of {to} that is answered so: `answers` is its "
            "`seq`, `to` its `by`, `causationid` the id of its envelope, and for an event "
            "`causationsource` its source"
        )
    if source is not None:
        heard = given.to in roster.members[by].subscribes
        return "" if heard else f"{by} does not subscribe to {given.to}"
    provider = roster.providers.get(given.to, "nobody")
    return "" if provider == by else f"{given.to} is provided by {provider}, not by {by}"


def _given(record: Record, envelope: Envelope | None) -> Given | None:
    if envelope is None or record.verdict is not Verdict.ALLOW:
        return None
    match record.kind:
        case Kind.TASK:
            return Given(intern(record.by), envelope.id, intern(record.to), None)
        case Kind.EVENT:
            return Given(intern(record.by), envelope.id, intern(record.to), envelope.source)
        case _:
            return None
