"""Getting bytes there: the broker and every way to and from it. Imports the schemas floor only.

    server      an embedded nats-server            keyring      nkey seeds in files
    accounts    the broker's configuration         topology     streams and consumers as code
    connection  a connection of a principal        publisher    submit envelopes, hear verdicts
    ingress     submissions, in order              appender     fenced writes to the ledger
    ledger      reading the ledger                 delivery     admitted messages for a worker
    lifeline    children that end with us          telemetry    logs, /metrics, /healthz
    client      nats-py, mended                    tasks        ending them
    tls         certificates for both sides        authority    making them, for development
    warden      connections beyond their limit     roll         who is connected
    monitoring  what the broker says of clients    incidents    a line of its log, read
    broker_log  its log, followed                  wire         the protocol by hand
    bypasses    ways past the gateway              injection    the one that the ledger shows
    probe       all of them, tried                 prober       again and again

Nothing here decides anything: that is the policy floor.
"""

from .connection import Connection, connect
from .keyring import Keyring
from .ledger import LedgerReader, StoredRecord
from .publisher import Publisher
from .server import Server

__all__ = [
    "Connection",
    "Keyring",
    "LedgerReader",
    "Publisher",
    "Server",
    "StoredRecord",
    "connect",
]
