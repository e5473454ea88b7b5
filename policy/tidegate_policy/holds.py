"""Messages that wait: for people to agree, or for an operator's pause to end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.subjects import Kind

from .obligations import Approval
from .roster import Roster
from .window import First

MAX_HELD = 100_000
MAX_HELD_BYTES = 128 * 1024 * 1024
"""More is denied, so that what waits cannot fill the gateway's memory. Nobody gets more of it than
is left for others, so no sender fills it for all."""


@dataclass(slots=True)
class Hold:
    """A message that waits.

    Attributes:
        seq: of the record that holds it.
        by, kind, to: as in that record.
        payload: the envelope as it stands there.
        digest: of `payload`; what an approval names.
        approvals: what must be agreed to, and by whom; none for what an operator has stopped.
        first: the verdict, for who sends it again.
        expires: ns since 1970 when it is denied unless agreed to; None is never.
        grants: who agreed, and under which bundle.
        refused: who did not agree; empty while nobody has said so.
        over: the run that it belongs to has ended.
    """

    seq: int
    by: str
    kind: Kind
    to: str
    envelope: Envelope
    payload: bytes
    digest: str
    approvals: tuple[Approval, ...]
    first: First
    expires: int | None
    grants: dict[str, str] = field(default_factory=dict[str, str])
    refused: str = ""
    over: bool = False

    def agreed(self, rule: Approval, bundle: str, roster: Roster) -> bool:
        """Whether enough of those who may have agreed, all under this bundle."""
        given = [who for who, under in self.grants.items() if under == bundle]
        return sum(may_approve(rule, who, roster) for who in given) >= rule.needed

    def overdue(self, now: int, bundle: str, roster: Roster) -> bool:
        """Whether the time to agree is over, and not enough of them have."""
        if self.expires is None or self.expires > now:
            return False
        return not all(self.agreed(rule, bundle, roster) for rule in self.approvals)


def may_approve(rule: Approval, who: str, roster: Roster) -> bool:
    """Whether somebody is one of those whom a rule names."""
    member = roster.members.get(who)
    if member is None:
        return False
    match rule.who:
        case ("role", role):
            return member.role == role
        case ("team", team):
            return who.partition(".")[0] == team
        case names:
            return who in names


class Holds:
    """All that waits, in ledger order."""

    def __init__(self) -> None:
        self._holds: dict[int, Hold] = {}
        self._by_key: dict[tuple[str, str], Hold] = {}
        self._bytes = 0
        self._senders: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._holds)

    def __iter__(self) -> Iterator[Hold]:
        return iter(self._holds.values())

    def full(self, by: str) -> bool:
        """Whether no more of a sender can wait."""
        number, size = self._senders.get(by, (0, 0))
        return number >= MAX_HELD - len(self) or size >= MAX_HELD_BYTES - self._bytes

    def get(self, seq: int) -> Hold | None:
        """What the record `seq` holds, if it still does."""
        return self._holds.get(seq)

    def find(self, by: str, key: str) -> First | None:
        """What is known of a message that waits. It may do so for longer than the window."""
        hold = self._by_key.get((by, key))
        return hold.first if hold else None

    def add(self, hold: Hold) -> None:
        """One more waits."""
        self._holds[hold.seq] = hold
        self._by_key[hold.by, hold.envelope.key] = hold
        self._count(hold, 1)

    def remove(self, seq: int) -> Hold | None:
        """It waits no more."""
        hold = self._holds.pop(seq, None)
        if hold:
            del self._by_key[hold.by, hold.envelope.key]
            self._count(hold, -1)
        return hold

    def _count(self, hold: Hold, sign: int) -> None:
        size = sign * len(hold.payload)
        before = self._senders.get(hold.by, (0, 0))
        number = before[0] + sign
        if number:
            self._senders[hold.by] = number, before[1] + size
        else:
            del self._senders[hold.by]
        self._bytes += size

    def overdue(self, now: int, bundle: str, roster: Roster) -> list[int]:
        """What nobody has agreed to in time."""
        return [hold.seq for hold in self if hold.overdue(now, bundle, roster)]
