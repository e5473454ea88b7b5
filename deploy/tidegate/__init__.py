"""Tidegate: a governed message bus for AI agents on NATS JetStream.

    from tidegate import Agent, Bus, Envelope

The product over the floors: this door, the command line (`cli`), the local stack (`stack`,
`child`, `processes`, `project`), the demo, the benchmarks, and what helps you test (`testing`).
"""

from tidegate_agents.agent import Agent, Context
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
