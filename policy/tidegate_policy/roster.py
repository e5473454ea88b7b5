"""The roster: who takes part, as the records of the ledger say. A pure fold.

It begins with the bus's own principals; each admitted `identity.register` and `identity.revoke`
makes the next one. So who was known when a verdict fell follows from the records before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.identity import BUILT_IN_TEAM, Registration, Revocation, Role
from tidegate_schemas.record import Record
from tidegate_schemas.vocabulary import IDENTITY_REGISTER, IDENTITY_REVOKE

Change = Registration | Revocation


@dataclass(frozen=True)
class Roster:
    """Everybody who takes part. Never changes; `after` gives the next one."""

    members: Mapping[str, Registration] = field(default_factory=dict[str, Registration])

    @classmethod
    def of(cls, members: Iterable[Registration]) -> Roster:
        """A roster of these."""
        return cls({member.principal: member for member in members})

    @cached_property
    def providers(self) -> Mapping[str, str]:
        """Who takes a task, by capability."""
        return {
            c: member.principal for member in self.members.values() for c in member.capabilities
        }

    def after(self, change: Change) -> Roster:
        """The roster once the change is in the ledger.

        Raises:
            InvalidEnvelope: code `data`; it cannot be made. A capability belongs to one agent,
                and nobody is revoked who does not take part.
        """
        if isinstance(change, Revocation):
            if change.principal not in self.members:
                raise InvalidEnvelope("data", f"{change.principal} does not take part")
            rest = {name: m for name, m in self.members.items() if name != change.principal}
            return Roster(rest)
        for capability in change.capabilities:
            other = self.providers.get(capability, change.principal)
            if other != change.principal:
                raise InvalidEnvelope("data", f"{capability} is provided by {other} already")
        return Roster({**self.members, change.principal: change})


BUILT_IN = Roster.of(
    Registration(f"{BUILT_IN_TEAM}.{role.value}", role)
    for role in (Role.COORDINATOR, Role.OPERATOR, Role.PROBE)
)
"""Where every ledger begins. Somebody has to register the first."""


def follow(roster: Roster, record: Record) -> Roster:
    """The roster after an admitted control record.

    Raises:
        InvalidEnvelope: no gateway would have admitted it.
    """
    message = record.message()
    change = change_of(record.to, message) if message else None
    return roster.after(change) if change else roster


def change_of(to: str, envelope: Envelope) -> Change | None:
    """What a control message to `to` changes in the roster, if that is what it is for.

    Raises:
        InvalidEnvelope: code `data`; it is for that, and says it wrong.
    """
    if to == IDENTITY_REGISTER:
        registration: Registration = envelope.payload(Registration)
        return registration.check()
    if to == IDENTITY_REVOKE:
        revocation: Revocation = envelope.payload(Revocation)
        return revocation.check()
    return None
