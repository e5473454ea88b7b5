"""Tidegate: a governed message bus for AI agents on NATS JetStream.

    from tidegate import Agent, Bus, Envelope

The product over the floors: this door, the command line (`cli`), the local stack (`stack`,
`child`, `processes`, `project`), the demo, the benchmarks, and what helps you test (`testing`).
"""

import importlib
from typing import TYPE_CHECKING

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import (
    Denied,
    InvalidInput,
    NoReceipt,
    Permanent,
    Refused,
    Rejected,
    TidegateError,
    Unavailable,
)
from tidegate_schemas.record import Receipt, Record
from tidegate_schemas.subjects import Kind, Principal, Verdict

if TYPE_CHECKING:
    from tidegate_agents.agent import Agent, Context

    from .bus import Bus

__all__ = [
    "Agent",
    "Bus",
    "Context",
    "Denied",
    "Envelope",
    "InvalidInput",
    "Kind",
    "NoReceipt",
    "Permanent",
    "Principal",
    "Receipt",
    "Record",
    "Refused",
    "Rejected",
    "TidegateError",
    "Unavailable",
    "Verdict",
]

_ON_DEMAND = {"Agent": "tidegate_agents.agent", "Context": "tidegate_agents.agent", "Bus": ".bus"}
"""What imports the bus: whoever checks an export with the command line has none."""


def __getattr__(name: str) -> object:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ON_DEMAND[name], __name__), name)
