"""What the tests share: real brokers and gateways, and waiting for conditions."""

from tidegate_schemas.vocabulary import OPERATOR

from .broker import (
    ADMIN,
    AGENT,
    CAPABILITY,
    INTRUDER,
    LIMITS,
    OTHER,
    PUBLISHER,
    TOPIC,
    Broker,
    running_broker,
)
from .raw import Raw
from .waiting import nothing_left, until

__all__ = [
    "ADMIN",
    "AGENT",
    "CAPABILITY",
    "INTRUDER",
    "LIMITS",
    "OPERATOR",
    "OTHER",
    "PUBLISHER",
    "TOPIC",
    "Broker",
    "Raw",
    "nothing_left",
    "running_broker",
    "until",
]
