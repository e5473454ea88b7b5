"""The policies of a project and those in force: how a bundle gets into the ledger, and its past."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Protocol

from tidegate_bus.ledger import LedgerReader
from tidegate_policy.bundle import Bundle, Rule
from tidegate_policy.bundle.contents import digest
from tidegate_policy.replay.shelf import Shelf, policy_filter
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.governance import Activation, Proposal, Report
from tidegate_schemas.record import Receipt
from tidegate_schemas.vocabulary import POLICY_ACTIVATE, POLICY_PROPOSE


async def shelf(reader: LedgerReader) -> Shelf:
    """Every bundle that the ledger has, and which is in force.

    Raises:
        LedgerError: a record is none that a gateway admits.
        Unavailable: the broker does not answer.
    """
    return Shelf.of([(s.seq, s.payload) async for s in reader.read(filter=policy_filter())])


@dataclass(frozen=True, slots=True)
class Change:
    """A bundle that was proposed or put in force, as the record `seq` says. `time` is RFC 3339."""

    seq: int
    time: str
    by: str
    bundle: str
    in_force: bool
    reason: str = ""


async def history(reader: LedgerReader) -> list[Change]:
    """What was proposed and put in force, in order.

    Raises:
        LedgerError, Unavailable: see `shelf`.
    """
    found: list[Change] = []
    async for stored in reader.read(filter=policy_filter()):
        record = stored.record()
        message = record.message()
        assert message  # what is admitted could be read
        if message.to == POLICY_PROPOSE:
            bundle = digest(message.payload(Proposal).files)
            change = Change(record.seq, record.time, record.by, bundle, in_force=False)
        else:
            said: Activation = message.payload(Activation)
            change = Change(
                record.seq, record.time, record.by, said.bundle, in_force=True, reason=said.reason
            )
        found.append(change)
    return found


def demands(rule: Rule) -> list[str]:
    """What a rule obliges to, in words."""
    texts = [text.partition("#")[0].replace(":", " ", 1) for text in rule.obligations.texts()]
    return [word for word in ("shadow", "learn") if getattr(rule, word)] + texts


class Sender(Protocol):
    """Whoever can submit: a `Publisher`, a `Bus`."""

    async def publish(self, envelope: Envelope) -> Receipt:
        """Submit a message and wait for the verdict."""
        ...


async def activate(
    publisher: Sender, bundle: str, *, reason: str = "", report: Report | None = None
) -> Receipt:
    """Put a bundle in force that the ledger has. Verdict `hold`: it waits for approval.

    Raises:
        Refused: it cannot come into force, or who sends it may not do that.
        Unavailable: nothing was heard of it.
    """
    return await publisher.publish(_command(POLICY_ACTIVATE, Activation(bundle, reason, report)))


async def put_in_force(
    sender: Sender, bundle: Bundle, known: Shelf, *, reason: str, report: Report | None = None
) -> Receipt:
    """Bring a bundle into force; `known` tells whether the ledger has it already.

    Raises:
        Refused, Unavailable: see `activate`.
    """
    if bundle.digest not in known.files:
        await sender.publish(_command(POLICY_PROPOSE, Proposal(dict(bundle.files))))
    return await activate(sender, bundle.digest, reason=reason, report=report)


def _command(to: str, data: Proposal | Activation) -> Envelope:
    return Envelope.new(to, data, id=uuid.uuid4().hex, source="tidegate", kind="control", to=to)
