"""Cedar, with a memory: decisions of one immutable set of policies."""

from .types import (
    PRINCIPAL,
    Action,
    Actions,
    Attribute,
    Counters,
    Difference,
    Entities,
    Record,
    Scalar,
    Uid,
    Verdict,
)

__all__ = [
    "PRINCIPAL",
    "Action",
    "Actions",
    "Attribute",
    "Counters",
    "Difference",
    "Entities",
    "Record",
    "Scalar",
    "Uid",
    "Verdict",
]
