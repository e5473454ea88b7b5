"""What the tests share: real brokers and gateways, and waiting for conditions."""

from tidegate_schemas.vocabulary import OPERATOR

from .broker import AGENT, OTHER, PUBLISHER, Broker, running_broker
from .waiting import until

__all__ = ["AGENT", "OPERATOR", "OTHER", "PUBLISHER", "Broker", "running_broker", "until"]
