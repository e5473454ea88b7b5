"""The way past the gateway that only the ledger can rule out: answers that lead into a stream.

The broker checks what a client publishes on, not where it asks for the answer. In one account with
the streams, the broker's own answer to a submission would be stored wherever its sender likes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, cast

import msgspec

from tidegate_bus.broker.accounts import PROBE
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import InvalidRecord, LedgerError, Unavailable
from tidegate_schemas.record import Reason, Record
from tidegate_schemas.subjects import Principal, Verdict

from .bypasses import Attempt, not_stored, publish
from .wire import Wire

NAMES = ("inject-by-reply", "one-record")
"""The attempts that are judged here."""


class Desk:
    """Where the probe submits, over a wire on which it has logged in.

    Args:
        wire: the connection.
        nonce: of the round.
    """

    def __init__(self, wire: Wire, nonce: str) -> None:
        self._wire = wire
        self._nonce = nonce
        self._inbox = f"{subjects.inbox(PROBE)}.{nonce}"
        self._listening = False

    async def inject(self) -> Principal:
        """Submit what is not stored, with a reply that leads to another's submissions.

        The answer is an error. Where it is stored, it is as a submission of a principal that is
        not there, and the gateway rejects it: that record is all it does. Aimed at the ledger, by
        the same way, it would break the ledger; so it is not.

        Returns:
            The principal whose record there must not be. When this returns, what could have been
            stored is.

        Raises:
            OSError, Unavailable: see `Wire.say`; or the streams are not there.
        """
        nobody = Principal(PROBE.team, f"{PROBE.name}-{self._nonce}")
        headers = not_stored(self._nonce)
        for reply in (subjects.submission(nobody), self._inbox):  # it answers in order
            answer = await self._ask(b"{}", headers, reply)
        if "error" not in answer:
            raise Unavailable(f"a message for no stream was stored: {answer}")
        return nobody

    async def submit(self, type: str, data: dict[str, Any]) -> Envelope:
        """Submit an event; returns when the broker has stored it.

        Raises:
            OSError, Unavailable: see `Wire.say`; or it was not stored.
        """
        envelope = Envelope.new(type, {"nonce": self._nonce, **data}, source=f"tidegate:{PROBE}")
        answer = await self._ask(encode(envelope), b"", self._inbox)
        if "seq" not in answer or "error" in answer:
            raise Unavailable(f"the submission was not stored: {answer}")
        return envelope

    async def _ask(self, payload: bytes, headers: bytes, reply: str) -> dict[str, Any]:
        lines = publish(subjects.submission(PROBE), payload, headers=headers, reply=reply)
        if not self._listening:
            lines = [f"SUB {self._inbox} 1".encode(), *lines]
            self._listening = True
        said = await self._wire.say(*lines)
        if said.errors or not said.done:
            raise Unavailable(f"the broker refused a submission: {'; '.join(said.errors)}")
        if reply != self._inbox:
            return {}
        text = said.payloads[0] if said.payloads else await self._wire.hear()
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise Unavailable("nobody stores submissions") from None


async def position(reader: LedgerReader) -> int:
    """The ledger sequence that comes next.

    Raises:
        Unavailable: the broker did not answer.
    """
    last = await reader.last()
    return last.seq + 1 if last else 1


async def record_of(reader: LedgerReader, start: int, envelope: Envelope) -> StoredRecord:
    """Wait for the first record of the probe's envelope, from a sequence on.

    Raises:
        LedgerError, InvalidRecord: the ledger is not what it should be.
    """
    following = cast("AsyncGenerator[StoredRecord]", reader.read(start, follow=True))
    async with contextlib.aclosing(following):
        async for stored in following:
            if envelope.id.encode() in stored.payload and _is_of(stored.record(), envelope):
                return stored
    raise AssertionError("following a ledger does not end")


async def judge(
    reader: LedgerReader, start: int, nobody: Principal, envelope: Envelope, nonce: str
) -> list[Attempt]:
    """Read what the ledger has of a round, once the round's own record is there.

    Args:
        reader: of the ledger.
        start: where the ledger ended before the round.
        nobody: see `Desk.inject`.
        envelope: what was submitted after it.
        nonce: in the envelope's data. It is no secret: it stands in the ledger, and in the broker's
            log. So what others submit with it in it proves nothing, and is left out.

    Raises:
        Unavailable: the broker does not answer; nor does this end while the gateway is away.
    """
    injected, one = NAMES
    try:
        await record_of(reader, start, envelope)
        strange: list[int] = []
        ours: list[StoredRecord] = []
        async for stored in reader.read(start):
            if str(nobody).encode() in stored.payload and stored.record().by == str(nobody):
                strange.append(stored.seq)
            elif nonce.encode() in stored.payload and stored.record().by == str(PROBE):
                ours.append(stored)
        records = [stored.record() for stored in ours]
    except (LedgerError, InvalidRecord) as error:
        return [Attempt(injected, None, str(error)), Attempt(one, True, str(error))]
    found = f"the ledger has {strange}" if strange else "the ledger has no record of the answer"
    wrong = _wrong(records, envelope)
    good = "" if wrong else f"{records[0].verdict} ({records[0].why.reason}), record {ours[0].seq}"
    return [
        Attempt(injected, bool(strange), found),
        Attempt(one, bool(wrong), wrong or good),
    ]


def _wrong(records: list[Record], envelope: Envelope) -> str:
    if len(records) != 1:
        return f"{len(records)} records of one submission"
    record = records[0]
    if not _is_of(record, envelope):
        return "what is recorded is not what was submitted"
    permitted = record.why.reason == Reason.PERMITTED and record.why.policies
    if record.verdict is Verdict.ALLOW and not permitted:
        return "it was allowed, and no policy permits it"
    return ""


def _is_of(record: Record, envelope: Envelope) -> bool:
    message = record.message()
    return record.by == str(PROBE) and message is not None and message.id == envelope.id
