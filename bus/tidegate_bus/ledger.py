"""Reading the ledger: from a sequence or a time, filtered, to the end or for ever.

Reads are Direct Gets (ADR-31): no consumer, no state at the broker, the caller's position is the
only cursor. Following waits for the gateway's hint that the ledger grew, and looks by itself
every second in case a hint was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec

from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import LedgerGap, Unavailable
from tidegate_schemas.record import Growth, Record, decode_growth, decode_record

from .connection import Connection
from .message import Message

_BATCH = 512
_ANSWER_SECONDS = 5.0
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2
_HEARD_SECONDS = 0.2
"""How often patience begins anew while an answer comes; with each message it would cost more."""
_LOOK_SECONDS = 1.0
_SEQUENCE, _SUBJECT, _TIME = (
    b"\r\nNats-%b: " % name for name in (b"Sequence", b"Subject", b"Time-Stamp")
)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as the stream holds it. `stored` is the broker's time, ns since 1970."""

    seq: int
    subject: str
    payload: bytes
    stored: int

    def record(self) -> Record:
        """The record inside.

        Raises:
            InvalidRecord: the payload is none.
        """
        return decode_record(self.payload)


class LedgerReader:
    """Reads one partition's ledger through a connection that may read it."""

    def __init__(self, connection: Connection, partition: int = 0) -> None:
        self._connection = connection
        self._partition = partition
        self._stream = subjects.ledger_stream(partition)

    async def last(self) -> StoredRecord | None:
        """The newest record, or None where there is none.

        Raises:
            Unavailable: the broker did not answer.
        """
        found = await self._get(
            {"last_by_subj": subjects.ledger_subjects(self._partition)}, one=True
        )
        return found[0][0] if found[0] else None

    async def one(self, seq: int) -> StoredRecord | None:
        """The record `seq`, or None where there is none yet.

        Raises:
            Unavailable: the broker did not answer.
        """
        found, _ = await self._get({"seq": seq}, one=True)
        return found[0] if found and found[0].seq == seq else None

    async def read(
        self,
        start: int = 1,
        *,
        since: int | None = None,
        filter: str | None = None,
        batch: int = _BATCH,
        follow: bool = False,
        caught_up: Callable[[], None] | None = None,
        passes: Callable[[Growth], bool] | None = None,
    ) -> AsyncIterator[StoredRecord]:
        """Records in order.

        Args:
            start: first sequence.
            since: ns since 1970; the first record stored then or later, instead of `start`.
            filter: a subject with wildcards; only records under it. Without one the sequences
                are checked to be without gap.
            batch: how many the broker is asked for at once.
            follow: go on with what is written later, for ever.
            caught_up: with `follow`, called each time the end is reached.
            passes: with `follow`, asked of what was added once the end is reached: whether none
                of it is wanted. Such records are not read.

        Raises:
            LedgerGap: a record is missing (only without `filter`).
            Unavailable: the broker does not answer, also after retries; with `follow` this is
                waited out, unless the connection is closed.
        """
        grew = asyncio.Event()
        hints = None
        at_end = False
        position = None if since is not None else start
        if follow:

            def hint(message: Message) -> None:
                nonlocal position
                growth = decode_growth(message.data)
                if growth is None or passes is None or position is None or not at_end:
                    grew.set()
                elif growth.first <= position <= growth.last and passes(growth):
                    position = growth.last + 1
                elif growth.last >= position:  # of what was read already there is nothing to say
                    grew.set()

            hints = await self._connection.hear(subjects.tail(self._partition), hint)
        try:
            while True:
                grew.clear()
                at_end = False
                request: dict[str, object] = {"batch": batch}
                if position is None:
                    assert since is not None
                    request["start_time"] = rfc3339(since)
                else:
                    request["seq"] = position
                request["next_by_subj"] = filter or subjects.ledger_subjects(self._partition)
                found, pending = await self._get(request, patient=follow)
                for stored in found:
                    if filter is None and position is not None and stored.seq != position:
                        raise LedgerGap(self._stream, position, stored.seq)
                    position = stored.seq + 1
                    yield stored
                if pending or len(found) == batch:
                    continue
                if not follow:
                    return
                if caught_up:
                    caught_up()
                at_end = not grew.is_set()
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await grew.wait()
                except TimeoutError:
                    pass
        finally:
            await self._connection.forget(hints)

    async def _get(
        self, request: dict[str, object], *, one: bool = False, patient: bool = False
    ) -> tuple[list[StoredRecord], int]:
        """One batched Direct Get: its records and how many more there are."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._get_once(request, one=one)
            except Unavailable:
                if self._connection.nats.is_closed or (attempt >= _ATTEMPTS and not patient):
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)  # what refuses at once would be asked at once

    async def _get_once(
        self, request: dict[str, object], *, one: bool
    ) -> tuple[list[StoredRecord], int]:
        connection = self._connection
        found: list[StoredRecord] = []
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        heard = loop.time()
        patience = asyncio.timeout_at(heard + _ANSWER_SECONDS)

        def collect(message: Message) -> None:
            nonlocal heard
            if done.done():
                return
            if (now := loop.time()) > heard + _HEARD_SECONDS:
                heard = now
                patience.reschedule(now + _ANSWER_SECONDS)
            if stored := _stored(message):
                found.append(stored)
                if one:
                    done.set_result(0)
                return
            headers = message.headers
            status = headers.get("Status")
            if status == "204":  # the end of the batch
                done.set_result(int(headers.get("Nats-Num-Pending", "0")))
            elif status == "404":  # nothing at or after the position
                done.set_result(0)
            else:
                why = headers.get("Description", "")
                done.set_exception(Unavailable(f"{self._stream}: {status} {why}"))

        def lost() -> None:
            if not done.done():
                done.set_exception(Unavailable(f"{self._stream}: reconnected meanwhile"))

        inbox = connection.nats.new_inbox()
        unlisten = connection.on_reconnect(lost)
        try:
            async with patience:
                subscription = await connection.hear(inbox, collect)
                try:
                    await connection.publish(
                        subjects.direct_get(self._stream),
                        msgspec.json.encode(request),
                        reply=inbox,
                    )
                    return found, await done
                finally:
                    await connection.forget(subscription)
        except TimeoutError:
            raise Unavailable(f"{self._stream} does not answer {connection.principal}") from None
        finally:
            unlisten()


def _stored(message: Message) -> StoredRecord | None:
    """The record of a message of a stream; None for what ends a batch."""
    head = message.head
    if _SEQUENCE not in head:
        return None
    seq, subject, time = (_last(head, name) for name in (_SEQUENCE, _SUBJECT, _TIME))
    return StoredRecord(int(seq), subject.decode(), message.data, parse_rfc3339(time.decode()))


def _last(head: bytes, name: bytes) -> bytes:
    """The broker's own headers come after those that a message was stored with."""
    at = head.rfind(name) + len(name)
    return head[at : head.find(b"\r\n", at)]
