"""Commands that say who takes part, and alarms, from somebody who has no say."""

from __future__ import annotations

import json
from typing import Any

from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed

from .attack import Attack, submit

DENIED = "deny forbidden"
INVALID = "deny invalid_command"
BUILT_IN = ("gateway", "registrar", "warden", "probe", "coordinator", "operator")
_KEYS = (public_key(new_seed()),)


def _registered(**fields: Any) -> dict[str, Any]:
    return {"principal": "team.third", "role": "agent", "keys": _KEYS, **fields}


SENSIBLE: dict[str, tuple[str, dict[str, Any]]] = {
    "register a newcomer": ("identity.register", _registered()),
    "register another key for another": ("identity.register", _registered(principal="team.other")),
    "register itself for more work": (
        "identity.register",
        _registered(principal="team.agent", capabilities=("work.do", "work.else")),
    ),
    "register itself as an operator": (
        "identity.register",
        _registered(principal="team.agent", role="operator"),
    ),
    "revoke another": ("identity.revoke", {"principal": "team.other"}),
    "revoke a publisher": ("identity.revoke", {"principal": "outside.source", "reason": "x"}),
    "revoke itself": ("identity.revoke", {"principal": "team.agent"}),
}
"""What the coordinator might say."""

SENSELESS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"register {who} of the bus": (
            "identity.register",
            _registered(principal=f"tidegate.{who}"),
        )
        for who in (
            "gateway",
            "coordinator",
            "operator",
            "registrar",
            "warden",
            "probe",
            "newcomer",
        )
    },
    **{
        f"revoke {who} of the bus": ("identity.revoke", {"principal": f"tidegate.{who}"})
        for who in ("gateway", "coordinator", "operator", "probe")
    },
    **{
        f"register a second {role}": ("identity.register", _registered(role=role))
        for role in (*BUILT_IN[:-1], "king")
    },
    "register the work of another": (
        "identity.register",
        _registered(capabilities=("work.do",)),
    ),
    "register without a key": ("identity.register", _registered(keys=())),
    "register a wildcard": ("identity.register", _registered(principal="team.*")),
    "register a wildcard for a topic": ("identity.register", _registered(subscribes=(">",))),
    "register a name in two parts more": ("identity.register", _registered(principal="a.b.c")),
    "register a publisher that works": (
        "identity.register",
        _registered(role="publisher", capabilities=("work.third",)),
    ),
    "register with a field more": ("identity.register", _registered(admin=True)),
    "revoke nobody": ("identity.revoke", {"principal": "no.body"}),
    "revoke everybody": ("identity.revoke", {"principal": "*.*"}),
    "revoke with a field more": ("identity.revoke", {"principal": "team.other", "role": "agent"}),
}
"""What nobody can follow, whoever says it."""

ALARMS: dict[str, dict[str, Any]] = {
    "bus.bypassed": {"nonce": "x", "attempts": ["write the ledger"]},
    "bus.probed": {"nonce": "x", "attempts": [{"name": "write the ledger", "through": False}]},
}


def _command(name: str, to: str, data: dict[str, Any], record: str) -> Attack:
    plain = {"specversion": "1.0", "id": name, "source": "x", "type": to, "kind": "control"}
    return Attack(name, submit(json.dumps({**plain, "to": to, "data": data}).encode(), record))


def _alarm(type_: str, data: dict[str, Any]) -> Attack:
    name = f"raise {type_}"
    plain = {"specversion": "1.0", "id": name, "source": "x", "type": type_, "data": data}
    return Attack(name, submit(json.dumps(plain).encode(), DENIED))


FORBIDDEN = [
    *(_command(name, *what, DENIED) for name, what in {**SENSIBLE, **SENSELESS}.items()),
    *(_alarm(*what) for what in ALARMS.items()),
]
"""Where policy lets only the coordinator command, and only the probe raise alarms."""

FUTILE = [_command(name, *what, INVALID) for name, what in SENSELESS.items()]
"""Where policy lets everybody command."""
