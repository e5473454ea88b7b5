"""What waits for people to agree, and what one of them says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tidegate_policy.holds import Hold
from tidegate_policy.state import State
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.governance import Opinion


def waiting(state: State) -> Iterator[Hold]:
    """What waits for people to agree, the oldest first."""
    return (hold for hold in state.holds if hold.approvals)


def the_one(state: State, seq: int) -> Hold:
    """What a record holds.

    Raises:
        InvalidInput: nothing, or nothing that people are asked about.
    """
    hold = state.holds.get(seq)
    if hold is None or not hold.approvals:
        raise InvalidInput(
            f"record {seq} holds nothing that waits for an approval, or not any more"
        )
    return hold


def opinion(state: State, hold: Hold, reason: str) -> Opinion:
    """What somebody says of a message as it waits, under the policies in force."""
    blueprint = hold.envelope.blueprint or ""
    return Opinion(hold.seq, hold.digest, state.library.active, blueprint, reason)


def described(state: State, hold: Hold) -> dict[str, Any]:
    """A message that waits: who is asked, who agreed, and the digests that an approval binds."""
    active = state.library.active
    return {
        "record": hold.seq,
        "by": hold.by,
        "kind": hold.kind.value,
        "to": hold.to,
        "rules": [{"policy": rule.policy, "says": rule.asks} for rule in hold.approvals],
        "agreed": sorted(who for who, under in hold.grants.items() if under == active),
        "agreed_before": sorted(who for who, under in hold.grants.items() if under != active),
        "expires": None if hold.expires is None else rfc3339(hold.expires),
        "message": hold.digest,
        "bundle": active,
        "blueprint": hold.envelope.blueprint or "",
        "envelope": json.loads(hold.payload),
    }
