"""Getting bytes there: the broker and every way to and from it. Imports the schemas floor only.

    broker      the broker itself, its configuration and streams
    identity    keys, and which of them are good
    watch       floods, refusals, and whether mediation still holds

    connection  a connection of a principal        client       nats-py, mended
    publisher   submit envelopes, hear verdicts    delivery     admitted messages for a worker
    ingress     submissions, in order              appender     fenced writes to the ledger
    ledger      reading the ledger                 puller       pulling from a consumer
    heads       what was signed of it              keys         those of personal data
    bulk        the same, fast, in a worker        frames       its protocol, taken apart
    telemetry   logs, /metrics, /healthz           tasks        ending them

Nothing here decides anything: that is the policy floor.
"""

from .broker.server import Server
from .connection import Connection, connect
from .identity.keyring import Keyring
from .ledger import LedgerReader, StoredRecord
from .publisher import Publisher

__all__ = [
    "Connection",
    "Keyring",
    "LedgerReader",
    "Publisher",
    "Server",
    "StoredRecord",
    "connect",
]
