"""Cedar, with a memory: decisions of one immutable set of policies."""

from .cedar import parse
from .engine import DEFAULT_LIMITS, Engine, Limits
from .types import (
    PRINCIPAL,
    Attribute,
    Contexts,
    Counters,
    Difference,
    Entities,
    OnDifference,
    Record,
    Scalar,
    Uid,
    Verdict,
)

__all__ = [
    "DEFAULT_LIMITS",
    "PRINCIPAL",
    "Attribute",
    "Contexts",
    "Counters",
    "Difference",
    "Engine",
    "Entities",
    "Limits",
    "OnDifference",
    "Record",
    "Scalar",
    "Uid",
    "Verdict",
    "parse",
]
