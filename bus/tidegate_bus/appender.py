"""Writing the ledger: in order, and only where this writer believes it ends.

Records travel as fast-ingest batches (ADR-50) with gap mode `fail` and
`Nats-Expected-Last-Sequence` on every message. After a foreign write the broker refuses the first
message that no longer fits, and with it the rest of the batch.

It would not refuse the next batch: when a foreign writer has stored as many records as the refused
batch held, the sequence fits again. So a batch is sent when the one before it is known to be
stored, and nothing is sent after one that is not.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import msgspec
from nats.aio.subscription import Subscription

from tidegate_schemas import subjects
from tidegate_schemas.errors import Fenced, TidegateError, Unavailable

from .connection import Connection, Listener
from .message import Message
from .tasks import end

_FLOW = 500
_BATCH_BYTES = 16 * 1024 * 1024
"""The broker drops what arrives when 128 MiB wait for its disk."""
_ANSWER_SECONDS = 10.0
_WRONG_LAST_SEQUENCE = 10071

MAX_BATCH = _FLOW
"""Records of one append. The broker acknowledges every `_FLOW` messages at the latest, so a batch
of this size needs no further flow control."""

Entry = tuple[str, bytes]


class LedgerAppender(Protocol):
    """Appends to the ledger, or fails; nobody else can have written in between."""

    async def append(self, entries: Sequence[Entry]) -> asyncio.Future[int]:
        """Take records: subject and payload, at most `MAX_BATCH`.

        Returns:
            A future of the sequence of the last one. When it is done the broker has stored all
            of them, in order, right after what was appended before. It fails with `Fenced` or
            `Unavailable`; then how many were stored is unknown and only the ledger's tail tells,
            and every later append fails in the same way without storing anything.
        """
        ...

    async def close(self) -> None:
        """Send nothing more and stop listening for answers."""
        ...


@dataclass(slots=True)
class _Batch:
    """Messages on their way to the broker. `stored` is done with its final answer."""

    id: str
    expected: int
    stored: asyncio.Future[int]


class FastAppender:
    """Appends by fast-ingest batches."""

    def __init__(self, connection: Connection, last: int) -> None:
        """Strictly private: use `open`."""
        self._connection = connection
        self._prefix = f"{subjects.inbox(connection.principal)}.{secrets.token_hex(8)}"
        self._last = last
        self._batches = 0
        self._sent: _Batch | None = None
        self._waiting: deque[tuple[Sequence[Entry], asyncio.Future[int]]] = deque()
        self._more = asyncio.Event()
        self._failure: TidegateError | None = None
        self._subscription: Subscription | None = None
        self._unlisten: Listener | None = None
        self._sender: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, connection: Connection, *, last: int) -> Self:
        """An appender for a ledger whose last sequence is `last`.

        Raises:
            Unavailable: the connection is closed.
        """
        appender = cls(connection, last)
        appender._subscription = await connection.hear(f"{appender._prefix}.>", appender._receive)
        appender._unlisten = connection.on_reconnect(appender._reconnected)
        appender._sender = asyncio.create_task(appender._send_all())
        return appender

    async def append(self, entries: Sequence[Entry]) -> asyncio.Future[int]:
        """See `LedgerAppender`."""
        assert 0 < len(entries) <= MAX_BATCH
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stored.add_done_callback(_retrieve)
        if self._failure:
            stored.set_exception(self._failure)
        else:
            self._waiting.append((entries, stored))
            self._more.set()
        return stored

    async def close(self) -> None:
        """See `LedgerAppender`."""
        self._fail(Unavailable("the appender was closed"))
        await end(self._sender)
        if self._unlisten:
            self._unlisten()
            self._unlisten = None
        await self._connection.forget(self._subscription)

    async def _send_all(self) -> None:
        while not self._failure:
            await self._more.wait()
            self._more.clear()
            while self._waiting and not self._failure:
                entries, stored = self._waiting[0]
                try:
                    for part in _parts(entries):
                        self._last = await self._store(part)
                except TidegateError as error:
                    self._fail(error)
                except BaseException:
                    self._fail(Unavailable("the appender ended"))
                    raise
                else:
                    self._waiting.popleft()
                    if not stored.done():
                        stored.set_result(self._last)

    async def _store(self, entries: Sequence[Entry]) -> int:
        """Send one batch and wait until it is stored; the sequence of its last record."""
        if not self._connection.nats.is_connected:  # sent after a reconnect it would be too late
            raise Unavailable("disconnected before a ledger append")
        self._batches += 1
        batch = _Batch(
            f"b{self._batches:x}", self._last, asyncio.get_running_loop().create_future()
        )
        batch.stored.add_done_callback(_retrieve)
        self._sent = batch
        reply = f"{self._prefix}.{batch.id}.{_FLOW}.fail."
        for number, (subject, payload) in enumerate(entries, 1):
            operation = 2 if number == len(entries) else 0 if number == 1 else 1
            await self._connection.publish(
                subject,
                payload,
                reply=f"{reply}{number}.{operation}.$FI",
                headers={"Nats-Expected-Last-Sequence": str(batch.expected + number - 1)},
            )
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                last = await batch.stored
        except TimeoutError:
            raise Unavailable("no answer to a ledger append") from None
        if last != batch.expected + len(entries):
            raise Unavailable(f"a ledger append ended early, at sequence {last}")
        return last

    def _reconnected(self) -> None:
        if self._waiting:  # nobody knows what arrived
            self._fail(Unavailable("reconnected during a ledger append"))

    def _fail(self, error: TidegateError) -> None:
        """End it: what is not known to be stored fails, and so does all that is still to come."""
        self._failure = self._failure or error
        if self._sent and not self._sent.stored.done():
            self._sent.stored.set_exception(error)
        for _, stored in self._waiting:
            if not stored.done():
                stored.set_exception(error)
        self._waiting.clear()
        self._more.set()

    def _receive(self, message: Message) -> None:
        batch = self._sent
        name = message.subject[len(self._prefix) + 1 :].partition(".")[0]
        if batch is None or name != batch.id or batch.stored.done():
            return
        try:
            answer = msgspec.json.decode(message.data, type=_Answer)
        except msgspec.DecodeError:  # no responders: headers only
            batch.stored.set_exception(Unavailable("no ledger stream"))
            return
        if answer.error is not None:
            code, why = answer.error.err_code, answer.error.description
            # A broker on its way down says it too, and names the very sequence that we expect.
            fenced = code == _WRONG_LAST_SEQUENCE and why.split()[-1:] != [str(batch.expected)]
            batch.stored.set_exception(
                Fenced(batch.expected, why) if fenced else Unavailable(f"ledger: {why} ({code})")
            )
        elif answer.type == "gap":
            batch.stored.set_exception(Unavailable("the broker lost a message of a ledger append"))
        elif answer.type is None:
            batch.stored.set_result(answer.seq)


def _parts(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Cut a batch so that the broker can take each part at once."""
    begin = size = 0
    for index, (_, payload) in enumerate(entries):
        if index > begin and size + len(payload) > _BATCH_BYTES:
            yield entries[begin:index]
            begin, size = index, 0
        size += len(payload)
    yield entries[begin:]


def _retrieve(future: asyncio.Future[int]) -> None:
    """Whoever gave up on an append does not want to hear of it in the log either."""
    if not future.cancelled():
        future.exception()


class _Error(msgspec.Struct, frozen=True):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    """A flow ack or a gap (both have a type), or the final PubAck (which has none)."""

    type: str | None = None
    seq: int = 0
    error: _Error | None = None
