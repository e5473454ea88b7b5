"""What becomes of a recorded message under another bundle. Pure.

A message is compared by what policy has a say in. Where something else had decided already, it
still does. Each message counts once: where its record holds it, the later one that ends the hold
is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from tidegate_policy.obligations import NONE, Budget, Obligations, RateLimit
from tidegate_schemas.record import Reason
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import GATEWAY

from .line import Line


class Outcome(StrEnum):
    """How a verdict would differ."""

    SAME = "same"
    NEWLY_ALLOWED = "newly_allowed"
    NEWLY_DENIED = "newly_denied"
    NEWLY_HELD = "newly_held"
    INDETERMINATE = "indeterminate"
    """It follows from something that the ledger does not say."""


class Judgement(NamedTuple):
    """What the other bundle says of a message.

    Attributes:
        allowed: policy permits it, if its obligations are met.
        policies: that decided, sorted.
        reason: the word for a denial.
        unknown: what cannot be known, if the answer hangs on it; then the rest says nothing.
    """

    allowed: bool
    policies: tuple[str, ...] = ()
    obligations: Obligations = NONE
    reason: str = ""
    unknown: str = ""


class Finding(NamedTuple):
    """A difference: what, by which policies of the other bundle, and why if that needs saying."""

    outcome: Outcome
    policies: tuple[str, ...]
    why: str = ""


OF_POLICY = frozenset(
    (
        *(Reason.FORBIDDEN, Reason.NOT_PERMITTED, Reason.POLICY_ERROR, Reason.INVALID_FACTS),
        *(Reason.RATE_LIMITED, Reason.OVER_BUDGET, Reason.TOO_MANY_HELD),
    )
)
"""Reasons of a denial that another bundle might not have given."""
_LIMITED = (Reason.RATE_LIMITED, Reason.OVER_BUDGET)
_STOPPED = (Reason.PAUSED, Reason.QUARANTINED)
_GATEWAY = str(GATEWAY)


def outcome(line: Line, ask: Callable[[Line], Judgement]) -> Finding | None:
    """Compare a record with what another bundle says; None where nothing changes.

    Args:
        line: the record.
        ask: what the other bundle says of its message; asked only where that matters.
    """
    verdict = line.verdict
    if verdict is Verdict.DENY:
        if line.why.reason not in OF_POLICY:
            return None
    elif verdict is not Verdict.ALLOW and verdict is not Verdict.HOLD:
        return None
    if line.ingress.n or line.by == _GATEWAY or line.envelope is None:
        return None
    now = ask(line)
    if now.unknown:
        return Finding(Outcome.INDETERMINATE, now.policies, now.unknown)
    if not now.allowed:
        if verdict is Verdict.DENY:
            return None
        return Finding(Outcome.NEWLY_DENIED, now.policies, now.reason)
    if now.obligations is NONE and verdict is Verdict.ALLOW:
        return None
    return _obliged(line, now)


def _obliged(line: Line, now: Judgement) -> Finding | None:
    """What the other bundle obliges to besides, where it permits the message."""
    limits: list[RateLimit | Budget] = [*now.obligations.rates, *now.obligations.budgets]
    unknown = [limit for limit in limits if str(limit) not in line.why.obligations]
    if unknown:
        texts = " and ".join(sorted({str(limit).partition("#")[0] for limit in unknown}))
        by = tuple(sorted({limit.policy for limit in unknown}))
        return Finding(Outcome.INDETERMINATE, by, f"what was used of {texts}")
    if limits and line.why.reason in _LIMITED:
        return None  # the same limits: they were exhausted then
    approvals = now.obligations.approvals
    match line.verdict:
        case Verdict.HOLD if approvals or line.why.reason in _STOPPED:
            return None
        case Verdict.DENY if approvals and line.why.reason == Reason.TOO_MANY_HELD:
            return None
        case Verdict.ALLOW if not approvals:
            return None
        case _ if approvals:
            by = tuple(sorted({approval.policy for approval in approvals}))
            return Finding(Outcome.NEWLY_HELD, by)
        case _:
            return Finding(Outcome.NEWLY_ALLOWED, now.policies)
