"""Admitted messages for a worker, straight from the ledger, each to be settled exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidName, InvalidRecord, Unavailable
from tidegate_schemas.record import Record, decode_record
from tidegate_schemas.subjects import AckAddress, Verdict

from .connection import Connection
from .message import Message
from .puller import Puller

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.delivery")

_SECOND = 1_000_000_000


@dataclass(slots=True)
class Delivery:
    """A record that this worker holds a lease on.

    Attributes:
        record: what was admitted.
        delivered: 1 for the first delivery, more after a lost lease or a postponement.
    """

    record: Record
    delivered: int
    _connection: Connection
    _ack: str

    async def done(self) -> None:
        """Settle it: the broker does not deliver it again."""
        await self._answer(b"+ACK")

    async def postpone(self, seconds: float) -> None:
        """Give it back, to be delivered again after a pause."""
        await self._answer(b'-NAK {"delay": %d}' % int(seconds * _SECOND))

    async def extend(self) -> None:
        """Extend the lease by its full length."""
        await self._answer(b"+WPI")

    async def _answer(self, what: bytes) -> None:
        try:
            await self._connection.publish(self._ack, what)
        except Unavailable as error:  # the lease runs out and another worker gets it
            _log.warning("cannot settle", seq=self.record.seq, error=str(error))


class Inbox:
    """Deliveries of a principal's durable consumer.

    Trusts nothing by place: a message counts only if its ack subject names the own consumer and
    ledger, and if it is an admitted record that bears the sequence under which it is stored.
    """

    def __init__(
        self, connection: Connection, receive: Callable[[Delivery], None], partition: int = 0
    ) -> None:
        self._connection = connection
        self._receive = receive
        self._stream = subjects.ledger_stream(partition)
        self._consumer = subjects.consumer(connection.principal)
        self._free = 0
        self._puller = Puller(connection, self._stream, self._consumer, self._on_message)

    async def start(self) -> None:
        """Begin to listen; nothing comes before `want`."""
        await self._puller.start()

    def want(self, free: int) -> None:
        """Say how many hands are free. Each delivery takes one, until the next call says more."""
        self._free = free
        self._puller.want(free)

    async def drain(self) -> None:
        """Take no more; returns when all that the broker had sent by then was received."""
        await self._puller.drain()

    async def close(self) -> None:
        """Stop listening."""
        await self._puller.close()

    def _on_message(self, message: Message) -> None:
        try:
            address = subjects.parse_ack(message.reply)
            record = self._checked(address, message)
        except (InvalidName, InvalidRecord) as error:
            _log.error("forged or damaged delivery ignored", error=str(error))
            return
        self.want(self._free - 1)
        self._receive(Delivery(record, address.delivered, self._connection, message.reply))

    def _checked(self, address: AckAddress, message: Message) -> Record:
        if (address.stream, address.consumer) != (self._stream, self._consumer):
            raise InvalidName(f"{message.reply!r} is not of consumer {self._consumer}")
        record = decode_record(message.data)
        if record.seq != address.stream_seq or record.verdict is not Verdict.ALLOW:
            raise InvalidRecord(f"record {record.seq} ({record.verdict}) at {address.stream_seq}")
        return record
