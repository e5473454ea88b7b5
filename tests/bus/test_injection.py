"""What the ledger proves of a round of the probe: read from ledgers that are made up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest

from tidegate_bus.broker.accounts import PROBE
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_bus.watch.injection import judge
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import LedgerGap
from tidegate_schemas.record import Ingress, Reason, Record, Why, encode_record
from tidegate_schemas.subjects import Kind, Principal, Verdict
from tidegate_schemas.vocabulary import PROBED

NONCE = "0123456789abcdef"
NOBODY = Principal(PROBE.team, f"{PROBE.name}-{NONCE}")
ENVELOPE = Envelope.new(PROBED, {"nonce": NONCE})
ALLOWED = Why(("p",), Reason.PERMITTED, "")
DENIED = Why((), Reason.NOT_PERMITTED, "")


class MadeUp(LedgerReader):
    """A ledger of these records."""

    def __init__(self, records: list[StoredRecord]) -> None:
        self._records = records

    async def read(  # type: ignore[override]  # no more of it is asked for
        self, start: int = 1, *, follow: bool = False
    ) -> AsyncIterator[StoredRecord]:
        """Those from a sequence on."""
        for record in self._records:
            if record.seq >= start:
                yield record
        if follow:
            raise LedgerGap("LEDGER_0", 1, 2)


def record(
    seq: int = 1,
    by: str = str(PROBE),
    verdict: Verdict = Verdict.ALLOW,
    why: Why = ALLOWED,
    envelope: Envelope | None = ENVELOPE,
) -> StoredRecord:
    """A record as the ledger holds it."""
    body = msgspec.UNSET if envelope is None else msgspec.Raw(encode(envelope))
    made = Record(
        v=1,
        log="test/0",
        seq=seq,
        time="2026-01-01T00:00:00Z",
        epoch=1,
        ingress=Ingress(seq, 0, "2026-01-01T00:00:00Z"),
        by=by,
        kind=Kind.EVENT,
        to=PROBED,
        verdict=verdict,
        why=why,
        envelope=body,
    )
    return StoredRecord(seq, "", encode_record(made), 0)


ANOTHER = Envelope.new("thing", {"nothing": "of it"})


@pytest.mark.parametrize(
    ("records", "injected", "wrong"),
    [
        ([record()], False, False),
        ([record(verdict=Verdict.DENY, why=DENIED)], False, False),
        ([record(1, "team.agent", envelope=ANOTHER), record(2)], False, False),
        ([record(1, str(NOBODY), Verdict.REJECT, DENIED, None), record(2)], True, False),
        ([record(1), record(2, str(NOBODY), Verdict.REJECT, DENIED, None)], True, False),
        ([record(1), record(2)], False, True),
        ([record(1, "team.agent"), record(2), record(3, "ops.alice")], False, False),
        ([record(why=DENIED)], False, True),
        ([record(why=Why((), Reason.PERMITTED, ""))], False, True),
        ([replace(record(), payload=b"{}")], None, True),
        ([replace(record(1), payload=b"{}"), record(2)], False, False),
    ],
    ids=[
        *("allowed", "denied", "among others", "injected before", "injected after", "twice"),
        *("repeated by others", "allowed by nothing", "allowed by no policy", "never", "unrelated"),
    ],
)
async def test_the_ledger_is_judged_by_what_stands_in_it(
    records: list[StoredRecord], injected: bool | None, wrong: bool
) -> None:
    """One record, of the probe, that policy permits; and none of the principal that is not."""
    attempts = await judge(MadeUp(records), 1, NOBODY, ENVELOPE, NONCE)

    assert [(attempt.name, attempt.through) for attempt in attempts] == [
        ("inject-by-reply", injected),
        ("one-record", wrong),
    ]
