"""What the words of the bus mean: formats, grammar, errors. The lowest floor; imports no other.

    errors      the error tree
    subjects    the subject grammar, principals, kinds and verdicts
    envelope    what a sender publishes (CloudEvents 1.0)
    record      what the ledger stores, and the receipt a sender gets
    vocabulary  the words of messages to and from the bus itself, and their data:
                identity, governance, audit, evidence, custody
    personal    data about people, and how it is sealed
    documents   files that people write: manifest, blueprint, settings
    export      JSON Schema of all of them

pydantic models are imported from their modules, so that a process that reads no such file does
not pay for it.
"""

from .envelope import Envelope
from .record import Receipt, Record
from .subjects import Kind, Principal, Verdict

__all__ = ["Envelope", "Kind", "Principal", "Receipt", "Record", "Verdict"]
