"""Asking the ledger whether an export may be."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from tidegate.bus import Bus
from tidegate_schemas.audit import Export
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Denied
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import AUDIT_EXPORT

ANSWER_SECONDS = 10.0


async def admit(bus: Bus, export: Export, on_hold: Callable[[Receipt], None]) -> int:
    """Tell the ledger of an export, and wait until it is admitted.

    Args:
        bus: of whoever exports; must be allowed to read the ledger.
        export: what the ledger is told.
        on_hold: called when it must wait, for approval or for a control to end.

    Returns:
        The ledger sequence of the record that admits it.

    Raises:
        Denied: it is not, now or after it was held.
        NoReceipt: nothing was heard of it.
        Unavailable: the broker does not answer.
    """
    envelope = Envelope.new(
        AUDIT_EXPORT,
        export,
        id=uuid.uuid4().hex,
        source="tidegate:cli",
        kind="control",
        to=AUDIT_EXPORT,
    )
    receipt = await bus.publish(envelope, timeout=ANSWER_SECONDS)
    if receipt.verdict is not Verdict.HOLD:
        return receipt.seq
    on_hold(receipt)
    async for made in bus.records(receipt.seq + 1, follow=True):
        if made.first == receipt.seq and made.verdict is not Verdict.DUPLICATE:
            if made.verdict is Verdict.ALLOW:
                return made.seq
            if made.verdict is Verdict.DENY:
                detail = str(made.why.facts.get("detail", ""))
                raise Denied(made.why.reason, detail, made.seq, made.why.policies)
    raise AssertionError("a ledger that is followed has no end")
