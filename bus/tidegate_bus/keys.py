"""Asking the gateway for the keys of messages with personal data.

Nobody but the gateway holds the key of a data subject: it gives out that of one message, to who
sends it and to whom it was admitted for. So keys are gone for all once the gateway destroys them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import msgspec

from tidegate_schemas import subjects
from tidegate_schemas.custody import MAX_RECORDS, Answer, Ask, Find, Open, Seal, decode_answer
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, Unavailable, Unopened
from tidegate_schemas.personal import NONCE_BYTES, seal, subjects_of, unseal
from tidegate_schemas.record import Record

from .connection import Connection

_ANSWER_SECONDS = 2.0
_AGAIN_SECONDS = 0.25
_LATER = "unavailable"
_WHY = {
    Unopened.ERASED: "the data was erased, and nobody can read it any more",
    Unopened.FORBIDDEN: "it is not for this principal",
}

Opened = Envelope | Unopened


class Keys:
    """The key service, as the principal of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._subject = subjects.vault(connection.principal)

    async def seal(self, envelope: Envelope, *, timeout: float) -> Envelope:
        """The envelope with its data sealed, to be sent by this principal.

        Args:
            envelope: with personal data.
            timeout: seconds for the gateway to answer.

        Raises:
            InvalidEnvelope: it does not say whom its data is about.
            Unopened: what one of these stands for was erased.
            Unavailable: the gateway did not answer in time.
        """
        answer = await self._ask(Seal(subjects_of(envelope)), timeout)
        found = answer.seal
        if found is None:
            raise Unopened(answer.why, answer.detail)
        return seal(
            envelope,
            str(self._connection.principal),
            found.keyids,
            salt=found.salt,
            key=found.key,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )

    async def open(self, records: Sequence[Record], *, timeout: float) -> list[Opened]:
        """The messages of records that hold sealed ones, or of each why it cannot be had.

        Args:
            records: as they were delivered.
            timeout: seconds for the gateway to answer, for each 256 of them.

        Raises:
            Unavailable: the gateway did not answer in time, or wants to be asked again later.
        """
        found: list[Opened] = []
        for start in range(0, len(records), MAX_RECORDS):
            some = records[start : start + MAX_RECORDS]
            answer = await self._ask(Open(tuple(record.seq for record in some)), timeout)
            if len(answer.opened) != len(some):
                raise Unopened(answer.why or Unopened.FORBIDDEN, answer.detail)
            for record, key in zip(some, answer.opened, strict=True):
                if key.seq == record.seq and key.key:
                    found.append(_unsealed(record, key.key))
                else:
                    found.append(Unopened(key.why, _WHY.get(key.why, "")))
        return found

    async def open_one(self, record: Record, *, timeout: float) -> Envelope:
        """The message of a record that holds a sealed one.

        Raises:
            Unopened: it cannot be had.
            Unavailable: see `open`.
        """
        (found,) = await self.open([record], timeout=timeout)
        if isinstance(found, Unopened):
            raise found
        return found

    async def find(self, subject: str, *, timeout: float) -> str | None:
        """The pseudonym of a data subject, for operators; None where nothing is kept of it.

        Raises:
            Unopened: this principal may not ask.
            Unavailable: the gateway did not answer in time.
        """
        answer = await self._ask(Find(subject), timeout)
        if answer.why:
            raise Unopened(answer.why, answer.detail)
        return answer.pseudonym

    async def _ask(self, question: Ask, timeout: float) -> Answer:
        payload = msgspec.json.encode(question)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            wait = min(_ANSWER_SECONDS, max(deadline - loop.time(), 0.1))
            try:
                reply = await self._connection.request(self._subject, payload, timeout=wait)
                answer = decode_answer(reply)
                if answer.why != _LATER:
                    return answer
                why = Unavailable(f"the key service: {answer.detail}")
            except InvalidEnvelope:
                why = Unavailable("the key service: no answer that can be read")
            except Unavailable as error:
                why = error
            if loop.time() + _AGAIN_SECONDS >= deadline or self._connection.nats.is_closed:
                raise why
            await asyncio.sleep(_AGAIN_SECONDS)


def _unsealed(record: Record, key: bytes) -> Opened:
    try:
        message = record.message()
        assert message, "a record with a key holds a message"
        return unseal(message, record.by, key)
    except InvalidEnvelope as error:
        return Unopened(Unopened.FORBIDDEN, error.detail)
