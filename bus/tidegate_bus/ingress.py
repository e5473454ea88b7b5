"""Submissions in the order in which the broker stored them. The caller's position is the cursor."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import structlog

from tidegate_schemas import subjects
from tidegate_schemas.errors import LedgerGap, TidegateError, Unavailable

from .connection import Connection
from .message import Message
from .puller import Puller
from .tasks import end

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.ingress")

_AHEAD = 2_000
"""Submissions that are on request or wait here to be taken."""
_STEP = 1_000
_AHEAD_BYTES = 64 * 1024 * 1024
"""With that much waiting here no more is asked for; what is on request already may still come."""
_REQUEST_BYTES = 16 * 1024 * 1024
_PAUSE_SECONDS = 0.2
_SECOND = 1_000_000_000


_RESERVED = frozenset(
    (
        *("nats-stream", "nats-sequence", "nats-subject", "nats-time-stamp"),
        *("nats-last-sequence", "nats-num-pending", "nats-stream-source", "nats-marker-reason"),
    )
)
"""Headers, in small letters, with which the broker marks what it hands out of a stream (ADR-31)."""


class Submission(NamedTuple):
    """One message of the ingress stream.

    Attributes:
        seq: its sequence there.
        time: when the broker stored it, ns since 1970.
        by: `team.name` of the subject that the broker let the sender publish on.
        payload: the bytes; nobody vouches for them.
        reserved: the first header that only what is stored bears, if the sender has set one.
    """

    seq: int
    time: int
    by: str
    payload: bytes
    reserved: str = ""


class IngressReader(Protocol):
    """Reads submissions without gap or repeat."""

    async def next(self, limit: int) -> list[Submission]:
        """Wait for submissions; at least one, at most `limit`, in sequence.

        Raises:
            LedgerGap: one is missing.
            Unavailable: the connection is closed for good.
        """
        ...

    async def trim(self, seq: int) -> None:
        """Forget submissions up to and including `seq`; the ledger must have their records."""
        ...

    async def close(self) -> None:
        """Stop reading."""
        ...


class PulledIngress:
    """Reads through a consumer of the moment that the broker forgets by itself.

    Whenever something may have been lost on the way, a new consumer begins at the own position.
    """

    def __init__(self, connection: Connection, partition: int, after: int) -> None:
        """Strictly private: use `open`."""
        self._connection = connection
        self._stream = subjects.ingress_stream(partition)
        self._seen = after
        self._waiting: list[Submission] = []
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._failure: TidegateError | None = None
        self._consumer = ""
        self._delivered = 0  # by the consumer
        self._puller: Puller | None = None
        self._lost = asyncio.Event()
        self._renewal: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, connection: Connection, *, after: int, partition: int = 0) -> PulledIngress:
        """Read what follows sequence `after`.

        Raises:
            LedgerGap: the stream ends before `after`, so it lost what the ledger has recorded; or
                it begins later than that, so it lost what the ledger has not.
            Unavailable: the broker did not answer.
        """
        reader = cls(connection, partition, after)
        await reader._renew()
        reader._renewal = asyncio.create_task(reader._keep_renewing())
        return reader

    async def next(self, limit: int) -> list[Submission]:
        """See `IngressReader`."""
        while not self._waiting:
            if self._failure:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        batch, self._waiting = self._waiting[:limit], self._waiting[limit:]
        self._waiting_bytes -= sum(len(submission.payload) for submission in batch)
        self._want()
        return batch

    async def trim(self, seq: int) -> None:
        """See `IngressReader`."""
        await self._connection.api(subjects.stream_purge(self._stream), {"seq": seq + 1})

    async def close(self) -> None:
        """See `IngressReader`."""
        await end(self._renewal)
        if self._puller:
            await self._puller.close()

    def _want(self) -> None:
        """Read ahead of the gateway, but not without bound."""
        if self._puller:
            room = _AHEAD - len(self._waiting) if self._waiting_bytes < _AHEAD_BYTES else 0
            self._puller.want(room, _STEP)

    async def _keep_renewing(self) -> None:
        while True:
            await self._lost.wait()
            self._lost.clear()
            try:
                await self._renew()
            except LedgerGap as gap:
                self._fail(gap)
                return
            except Unavailable as error:
                if self._connection.nats.is_closed:
                    self._fail(error)
                    return
                _log.warning("no new consumer yet", stream=self._stream, error=str(error))
                self._lost.set()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _renew(self) -> None:
        """A new consumer from the own position; what the old one still sends is dropped."""
        self._consumer = ""
        if self._puller:
            await self._puller.close()
            self._puller = None
        state = await self._connection.stream_state(self._stream)
        if state.last_seq < self._seen:
            raise LedgerGap(self._stream, self._seen, state.last_seq)
        if state.first_seq > self._seen + 1:
            raise LedgerGap(self._stream, self._seen + 1, state.first_seq)
        name = f"gateway_{secrets.token_hex(6)}"
        await self._connection.api(
            f"{subjects.consumer_create(self._stream)}.{name}",
            {
                "stream_name": self._stream,
                "config": {
                    "name": name,
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": self._seen + 1,
                    "ack_policy": "none",
                    "inactive_threshold": 60 * _SECOND,
                    "mem_storage": True,
                    "num_replicas": 1,
                },
            },
        )
        self._consumer, self._delivered = name, 0
        puller = Puller(
            self._connection, self._stream, name, self._receive, self._lost.set, _REQUEST_BYTES
        )
        await puller.start()
        self._puller = puller
        self._want()

    def _fail(self, error: TidegateError) -> None:
        self._failure = error
        self._arrived.set()

    def _receive(self, message: Message) -> None:
        address = subjects.parse_ack(message.reply)
        if address.consumer != self._consumer or self._failure:
            return
        self._delivered += 1
        if address.consumer_seq != self._delivered:  # what came before it was lost on the way
            self._consumer = ""
            self._lost.set()
        elif address.stream_seq != self._seen + 1:
            self._fail(LedgerGap(self._stream, self._seen + 1, address.stream_seq))
        else:
            self._seen = address.stream_seq
            by = subjects.submitter(message.subject)
            reserved = _reserved(message.headers) if message.head else ""
            self._waiting.append(
                Submission(address.stream_seq, address.time, by, message.data, reserved)
            )
            self._waiting_bytes += len(message.data)
            self._want()
            self._arrived.set()


def _reserved(headers: Iterable[str]) -> str:
    """The first of the reserved headers that is there; a stored record looks like that."""
    return next((name[:80] for name in headers if name.lower() in _RESERVED), "")
