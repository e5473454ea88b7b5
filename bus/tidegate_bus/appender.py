"""Writing the ledger: in order, pipelined, and only where this writer believes it ends.

Each `append` is one fast-ingest batch (ADR-50) with gap mode `fail` and
`Nats-Expected-Last-Sequence` on every message. After a foreign write the broker refuses the first
message that no longer fits, and with it the rest of the batch and every later batch.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Protocol, Self

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tidegate_schemas import subjects
from tidegate_schemas.errors import Fenced, Unavailable

from .connection import Connection

_FLOW = 500
_ANSWER_SECONDS = 10.0
_WRONG_LAST_SEQUENCE = 10071
_BATCH_UNKNOWN = 10208  # a later message of a batch that was refused

MAX_BATCH = _FLOW
"""Records of one append. The broker acknowledges every `_FLOW` messages at the latest, so a batch
of this size needs no further flow control."""


class LedgerAppender(Protocol):
    """Appends to the ledger, or fails; nobody else can have written in between."""

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> asyncio.Future[int]:
        """Send records: subject and payload, at most `MAX_BATCH`.

        Returns:
            A future of the sequence of the last one. When it is done the broker has stored all
            of them, in order, right after what was appended before. It fails with `Fenced` or
            `Unavailable`; then how many were stored is unknown and only the ledger's tail tells.
        """
        ...

    async def close(self) -> None:
        """Stop listening for answers."""
        ...


class FastAppender:
    """Appends by fast-ingest batches."""

    def __init__(self, connection: Connection, last: int) -> None:
        """Strictly private: use `open`."""
        self._connection = connection
        self._prefix = f"{subjects.inbox(connection.principal)}.{secrets.token_hex(8)}"
        self._last = last
        self._batches = 0
        self._open: dict[str, tuple[int, asyncio.Future[int]]] = {}
        self._subscription: Subscription | None = None

    @classmethod
    async def open(cls, connection: Connection, *, last: int) -> Self:
        """An appender for a ledger whose last sequence is `last`."""
        appender = cls(connection, last)
        appender._subscription = await connection.listen(f"{appender._prefix}.>", appender._receive)
        connection.on_reconnect(appender._reconnected)
        return appender

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> asyncio.Future[int]:
        """See `LedgerAppender`."""
        assert 0 < len(entries) <= MAX_BATCH
        self._batches += 1
        batch = f"b{self._batches:x}"
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[int] = loop.create_future()
        expected = self._last
        self._open[batch] = (expected, stored)
        timer = loop.call_later(
            _ANSWER_SECONDS, self._fail, batch, Unavailable("no answer to a ledger append")
        )
        stored.add_done_callback(lambda _: timer.cancel())
        reply = f"{self._prefix}.{batch}.{_FLOW}.fail."
        publish = self._connection.nats.publish
        try:
            for number, (subject, payload) in enumerate(entries, 1):
                operation = 2 if number == len(entries) else 0 if number == 1 else 1
                await publish(
                    subject,
                    payload,
                    reply=f"{reply}{number}.{operation}.$FI",
                    headers={"Nats-Expected-Last-Sequence": str(self._last)},
                )
                self._last += 1
        except nats.errors.Error as error:
            self._fail(batch, Unavailable(f"cannot append to the ledger: {error}"))
        return stored

    async def close(self) -> None:
        """See `LedgerAppender`."""
        for batch in list(self._open):
            self._fail(batch, Unavailable("the appender was closed"))
        await self._connection.forget(self._subscription)

    def _reconnected(self) -> None:
        for batch in list(self._open):
            self._fail(batch, Unavailable("reconnected during a ledger append"))

    def _fail(self, batch: str, error: Exception) -> None:
        _, stored = self._open.pop(batch, (0, None))
        if stored and not stored.done():
            stored.set_exception(error)

    async def _receive(self, message: Msg) -> None:
        batch = message.subject[len(self._prefix) + 1 :].partition(".")[0]
        if batch not in self._open:
            return
        expected, stored = self._open[batch]
        try:
            answer = msgspec.json.decode(message.data, type=_Answer)
        except msgspec.DecodeError:  # no responders: headers only
            self._fail(batch, Unavailable("no ledger stream"))
            return
        if answer.error is not None:
            code, why = answer.error.err_code, answer.error.description
            fenced = code in (_WRONG_LAST_SEQUENCE, _BATCH_UNKNOWN)
            error = Fenced(expected, why) if fenced else Unavailable(f"ledger: {why} ({code})")
            self._fail(batch, error)
        elif answer.type == "gap":
            self._fail(batch, Unavailable("the broker lost a message of a ledger append"))
        elif answer.type is None and not stored.done():
            del self._open[batch]
            stored.set_result(answer.seq)


class _Error(msgspec.Struct, frozen=True):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    """A flow ack or a gap (both have a type), or the final PubAck (which has none)."""

    type: str | None = None
    seq: int = 0
    error: _Error | None = None
