"""Submissions in the order in which the broker stored them. The caller's position is the cursor."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Protocol

from nats.aio.msg import Msg

from tidegate_schemas import subjects
from tidegate_schemas.errors import LedgerGap

from .connection import Connection
from .puller import Puller

_ON_REQUEST = 2_000
_STEP = 1_000
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Submission:
    """One message of the ingress stream.

    Attributes:
        seq: its sequence there.
        time: when the broker stored it, ns since 1970.
        by: `team.name` of the subject that the broker let the sender publish on.
        payload: the bytes; nobody vouches for them.
    """

    seq: int
    time: int
    by: str
    payload: bytes


class IngressReader(Protocol):
    """Reads submissions without gap or repeat."""

    async def next(self, limit: int) -> list[Submission]:
        """Wait for submissions; at least one, at most `limit`, in sequence.

        Raises:
            LedgerGap: one is missing.
        """
        ...

    async def trim(self, seq: int) -> None:
        """Forget submissions up to and including `seq`; the ledger must have their records."""
        ...

    async def close(self) -> None:
        """Stop reading."""
        ...


class PulledIngress:
    """Reads through a consumer of the moment that the broker forgets by itself."""

    def __init__(self, connection: Connection, partition: int, after: int) -> None:
        """Strictly private: use `open`."""
        self._connection = connection
        self._stream = subjects.ingress_stream(partition)
        self._seen = after
        self._waiting: list[Submission] = []
        self._arrived = asyncio.Event()
        self._gap: LedgerGap | None = None
        self._consumer = ""
        self._puller: Puller | None = None
        self._renewal: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, connection: Connection, *, after: int, partition: int = 0) -> PulledIngress:
        """Read what follows sequence `after`.

        Raises:
            LedgerGap: the stream ends before `after`: it lost what the ledger has recorded.
            Unavailable: the broker did not answer.
        """
        reader = cls(connection, partition, after)
        state = await connection.stream_state(reader._stream)
        if state.last_seq < after:
            raise LedgerGap(reader._stream, after, state.last_seq)
        await reader._renew()
        return reader

    async def next(self, limit: int) -> list[Submission]:
        """See `IngressReader`."""
        while not self._waiting:
            if self._gap:
                raise self._gap
            self._arrived.clear()
            await self._arrived.wait()
        batch, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return batch

    async def trim(self, seq: int) -> None:
        """See `IngressReader`."""
        await self._connection.api(subjects.stream_purge(self._stream), {"seq": seq + 1})

    async def close(self) -> None:
        """See `IngressReader`."""
        if self._renewal:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        if self._puller:
            await self._puller.close()

    async def _renew(self) -> None:
        """A new consumer from the own position; what the old one still sends is dropped."""
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
        if self._puller:
            await self._puller.close()
        self._consumer = name
        self._puller = Puller(
            self._connection, self._stream, name, self._receive, on_lost=self._on_lost
        )
        await self._puller.start()
        self._puller.want(_ON_REQUEST, _STEP)

    async def _on_lost(self) -> None:
        # The puller that calls this ends inside `_renew`, so the work is a task of its own.
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())

    def _receive(self, message: Msg) -> None:
        address = subjects.parse_ack(message.reply)
        if address.consumer != self._consumer or self._gap:
            return
        if address.stream_seq != self._seen + 1:
            self._gap = LedgerGap(self._stream, self._seen + 1, address.stream_seq)
        else:
            self._seen = address.stream_seq
            by = subjects.submitter(message.subject)
            self._waiting.append(Submission(address.stream_seq, address.time, by, message.data))
        self._arrived.set()
