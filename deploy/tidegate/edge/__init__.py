"""HTTP for systems that do not speak NATS.

                 protocol    HTTP/1.1 from strangers, bounded
                     │
                    app      routes; errors become `problems`
                     │
     callers ───► who calls: a principal of the bus (tokens, certificates, OpenID)
                     │
    events, tasks, webhooks ───► binding: an envelope ───► links: submitted as that principal
                     │
    messages, stream ◄─── the index and the ledger, read as `tidegate.edge`

The edge has no right to submit anything. What it accepts is in the durable ingress before it says
so; a process that is killed at any moment loses nothing that was answered with 2xx, and a client
that sends again what was not answered is recorded once: source and id of an event are its
idempotency key.
"""

from .server import Edge

__all__ = ["Edge"]
