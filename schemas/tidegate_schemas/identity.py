"""Identities: what a principal is on the bus, and how the ledger says so.

    identity.register   control: the principal takes part from here on, as what the data says
    identity.revoke     control: it does not any more

Who takes part is a fold of these records. Keys are public ones; seeds never reach the bus.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from .errors import InvalidEnvelope, InvalidName
from .subjects import Principal, check_destination


class Role(StrEnum):
    """What a principal is to the broker and to policy."""

    GATEWAY = "gateway"
    REGISTRAR = "registrar"
    WARDEN = "warden"
    NOTARY = "notary"
    COORDINATOR = "coordinator"
    OPERATOR = "operator"
    READER = "reader"
    PROBE = "probe"
    AGENT = "agent"
    PUBLISHER = "publisher"


BUILT_IN_TEAM = "tidegate"
"""Its principals are the bus's own: no message registers or revokes them."""


def is_built_in(principal: str) -> bool:
    """Whether a principal, as `team.name`, is one of the bus's own."""
    return principal.partition(".")[0] == BUILT_IN_TEAM


GIVEN = (Role.AGENT, Role.PUBLISHER, Role.OPERATOR)
"""Roles that identities can be given; there is one principal of each of the others."""


IDENTITY_COMMANDS = "identity.>"
"""Where the commands above go, as a pattern of destinations."""


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Data of `identity.register`: a principal that takes part.

    Attributes:
        principal: `team.name`.
        role: one of `GIVEN`.
        capabilities: tasks it takes, for an agent.
        subscribes: events it gets a copy of, for an agent.
        keys: public nkeys (`U…`) that prove it; two while a rotation overlaps.
        version: of the agent's code, if known.
        owner: who answers for it, if known.
        expires: RFC 3339; when the broker stops to know it, if ever.
    """

    principal: str
    role: Role
    capabilities: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    version: str = ""
    owner: str = ""
    expires: str | None = None

    def check(self) -> Registration:
        """Return itself if it can be registered.

        Raises:
            InvalidEnvelope: code `data`; says what is wrong.
        """
        try:
            principal = Principal.parse(self.principal)
            for destination in (*self.capabilities, *self.subscribes):
                check_destination(destination)
        except InvalidName as error:
            raise InvalidEnvelope("data", str(error)) from error
        if principal.team == BUILT_IN_TEAM:
            raise InvalidEnvelope("data", f"{principal}: the team {BUILT_IN_TEAM} is the bus's own")
        if self.role not in GIVEN:
            raise InvalidEnvelope("data", f"{principal}: nobody is given the role {self.role}")
        if not self.keys:
            raise InvalidEnvelope("data", f"{principal}: no key proves it")
        if (self.capabilities or self.subscribes) and self.role is not Role.AGENT:
            raise InvalidEnvelope("data", f"{principal}: only agents take tasks and hear events")
        return self


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data of `identity.revoke`."""

    principal: str
    reason: str = ""

    def check(self) -> Revocation:
        """Return itself if it can be applied.

        Raises:
            InvalidEnvelope: code `data`; says what is wrong.
        """
        try:
            principal = Principal.parse(self.principal)
        except InvalidName as error:
            raise InvalidEnvelope("data", str(error)) from error
        if principal.team == BUILT_IN_TEAM:
            raise InvalidEnvelope("data", f"{principal}: the team {BUILT_IN_TEAM} is the bus's own")
        return self
