"""Registrations and revocations: which of them can be made, and what is said of the others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.identity import (
    BUILT_IN_TEAM,
    GIVEN,
    Registration,
    Revocation,
    Role,
    is_built_in,
)

KEYS = ("UA",)


def registration(**fields: Any) -> Registration:
    """One that can be made, with changes."""
    given: dict[str, Any] = {"principal": "a.b", "role": Role.AGENT, "keys": KEYS, **fields}
    return Registration(**given)


@pytest.mark.parametrize("role", GIVEN)
def test_given_roles_can_be_registered(role: Role) -> None:
    """Each of them, and it comes back as it is."""
    found = registration(role=role)
    assert found.check() is found


def test_an_agent_may_work() -> None:
    """It takes tasks and hears events, of any destination."""
    found = registration(capabilities=("a", "b.C_d-9"), subscribes=("a",))
    assert found.check() is found


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no dot": ({"principal": "ab"}, "write it as team.name"),
    "two dots": ({"principal": "a.b.c"}, "1 to 63 of a-z"),
    "path": ({"principal": "../x.y"}, "1 to 63 of a-z"),
    "slash": ({"principal": "a.b/c"}, "1 to 63 of a-z"),
    "wildcard": ({"principal": "a.*"}, "1 to 63 of a-z"),
    "upper case": ({"principal": "a.B"}, "1 to 63 of a-z"),
    "look-alike": ({"principal": "\u0430.b"}, "1 to 63 of a-z"),
    "full width": ({"principal": "\uff54idegate.operator"}, "1 to 63 of a-z"),
    "line": ({"principal": "a.b\n"}, "1 to 63 of a-z"),
    "long": ({"principal": f"a.{'b' * 64}"}, "1 to 63 of a-z"),
    "built in": ({"principal": "tidegate.x"}, "the team tidegate is the bus's own"),
    "capability": ({"capabilities": ("a b",)}, "destination 'a b'"),
    "all events": ({"subscribes": (">",)}, "destination '>'"),
    "no key": ({"keys": ()}, "a.b: no key proves it"),
    "publisher works": ({"role": Role.PUBLISHER, "capabilities": ("x",)}, "only agents take"),
    "operator hears": ({"role": Role.OPERATOR, "subscribes": ("x",)}, "only agents take"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_registered_is_said(what: str) -> None:
    """With the code for faulty data."""
    fields, expected = REFUSED[what]
    with pytest.raises(InvalidEnvelope, match=expected) as raised:
        registration(**fields).check()
    assert raised.value.code == "data"


@pytest.mark.parametrize("role", [role for role in Role if role not in GIVEN])
def test_roles_of_the_bus_are_given_to_nobody(role: Role) -> None:
    """There is one principal of each, and it is there already."""
    with pytest.raises(InvalidEnvelope, match=f"nobody is given the role {role}"):
        registration(role=role).check()


@pytest.mark.parametrize("principal", ["ab", "a.b.c", "a.*", "tidegate.operator", ""])
def test_who_is_no_principal_or_built_in_is_not_revoked(principal: str) -> None:
    """Nobody can lock out the bus itself by a message."""
    with pytest.raises(InvalidEnvelope) as raised:
        Revocation(principal, "because").check()
    assert raised.value.code == "data"


def test_somebody_may_be_revoked_without_a_reason() -> None:
    """It comes back as it is."""
    found = Revocation("a.b")
    assert found.check() is found


@pytest.mark.parametrize(
    "data", [{"principal": "a.b", "role": "agent", "seed": "SU"}, {"principal": "a.b"}, {}, [], "x"]
)
def test_unknown_and_missing_fields_are_refused(data: object) -> None:
    """So nobody puts a seed into the ledger by mistake."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, Registration)


def test_only_the_team_of_the_bus_is_built_in() -> None:
    """Not one that begins like it, and not a name."""
    assert is_built_in(f"{BUILT_IN_TEAM}.anything")
    for other in ("tidegate-2.x", "x.tidegate", "Tidegate.x", "tidegat.e"):
        assert not is_built_in(other)
