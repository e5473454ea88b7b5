"""Each write of the gateway fails in each way, and after it the whole ledger is still good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import pytest

from policy.rig import check, event, running, sending, settled
from support import OTHER, Broker, until
from tidegate_bus import publisher as publishing
from tidegate_bus.appender import Entry, FastAppender, LedgerAppender
from tidegate_bus.connection import Connection
from tidegate_bus.ingress import PulledIngress
from tidegate_bus.publisher import Publisher
from tidegate_policy import gateway as module
from tidegate_policy import trimmer
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Fenced, TidegateError, Unavailable
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict


class FaultyAppender:
    """A real appender, but for one append, which goes wrong in the way that `fault` says.

    Attributes:
        fault: one of `FAULTS`.
        after: appends that go well before it.
        struck: how often something went wrong.
    """

    FAULTS: ClassVar = [
        "not stored",
        "stored, the answer lost",
        "half stored",
        "stored late",
        "half stored late",
        "refused",
        "refused by mistake",
    ]
    fault: ClassVar[str]
    after: ClassVar[int]
    struck: ClassVar[int]
    _late: ClassVar[tuple[LedgerAppender, Sequence[Entry]] | None]

    def __init__(self, inner: LedgerAppender) -> None:
        self._inner = inner
        self._failure: TidegateError | None = None

    @classmethod
    def arm(cls, fault: str, after: int) -> None:
        """Begin anew."""
        cls.fault, cls.after, cls.struck, cls._late = fault, after, 0, None

    @classmethod
    async def open(cls, connection: Connection, *, last: int) -> Self:
        """See `FastAppender`. What is late is stored only now: the tail was read already."""
        if cls._late:
            former, entries = cls._late
            cls._late = None
            await (await former.append(entries))
            await former.close()
        return cls(await FastAppender.open(connection, last=last))

    async def append(self, entries: Sequence[Entry]) -> asyncio.Future[int]:
        """See `LedgerAppender`."""
        kind = type(self)
        if self._failure is None and (kind.struck or kind.after):
            kind.after -= not kind.struck
            return await self._inner.append(entries)
        if self._failure is None:
            kind.struck += 1
            self._failure = await self._strike(entries)
        failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        failed.set_exception(self._failure)
        failed.exception()
        return failed

    async def close(self) -> None:
        """See `LedgerAppender`. Who has something to store later is not closed yet."""
        late = type(self)._late
        if late is None or late[0] is not self._inner:
            await self._inner.close()

    async def _strike(self, entries: Sequence[Entry]) -> TidegateError:
        kind = type(self)
        half = entries[: (len(entries) + 1) // 2]
        match kind.fault:
            case "stored, the answer lost":
                await (await self._inner.append(entries))
            case "half stored":
                await (await self._inner.append(half))
            case "stored late":
                kind._late = (self._inner, entries)
            case "half stored late":
                kind._late = (self._inner, half)
            case "refused by mistake":
                return Fenced(0, "batch publish ID unknown")
            case _:
                pass
        return Unavailable(f"a test: {kind.fault}")


async def publish(publisher: Publisher, prefix: str, number: int) -> set[Verdict]:
    """Publish so many messages at once, each until its verdict is heard; the verdicts."""
    envelopes = [Envelope.new("x.y", id=f"{prefix}{n}") for n in range(number)]
    receipts: list[Receipt] = await asyncio.gather(
        *(publisher.publish(envelope, timeout=60) for envelope in envelopes)
    )
    return {receipt.was or receipt.verdict for receipt in receipts}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts without a pause, trims at every opportunity, senders that ask again soon."""
    monkeypatch.setattr(publishing, "_RESEND_SECONDS", 0.3)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(trimmer, "_SECONDS", 0.01)


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("fault", FaultyAppender.FAULTS)
async def test_an_append_that_goes_wrong_leaves_the_ledger_good(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, fault: str, after: int
) -> None:
    """Stored, not stored, in part or late: every message has one record, in order.

    The gateway goes on by itself, and so does the next one. Whoever waits gets a verdict.
    """
    FaultyAppender.arm(fault, after)
    monkeypatch.setattr(module, "FastAppender", FaultyAppender)
    publisher = await broker.publisher(window=8)
    async with sending(broker, OTHER) as sender:
        for number in range(40):  # so that the first batch holds more than one record
            await sender.send(event(f"e{number}"))
    async with running(broker) as gateway:
        assert await publish(publisher, "m", 40) == {Verdict.ALLOW}
        assert FaultyAppender.struck == 1
        assert not gateway.task.done()
        await until(lambda: settled(broker))
        await check(broker)
    async with running(broker):
        assert await publish(publisher, "m", 40) == {Verdict.ALLOW}
        assert await publish(publisher, "n", 10) == {Verdict.ALLOW}

    records = await check(broker)
    firsts = [made for made in records if made.verdict is Verdict.ALLOW]
    assert len(firsts) == 90


async def test_a_task_that_does_not_end_does_not_hold_up_the_restart(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library may swallow a cancellation; it is repeated until the task has ended."""
    begun, swallowed = asyncio.Event(), asyncio.Event()

    async def hang(ingress: PulledIngress, seq: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallowed.is_set():
                raise
            swallowed.set()
            await asyncio.Event().wait()

    FaultyAppender.arm("not stored", 1)
    monkeypatch.setattr(module, "FastAppender", FaultyAppender)
    monkeypatch.setattr(PulledIngress, "trim", hang)
    publisher = await broker.publisher()
    async with running(broker):
        await publish(publisher, "m", 1)
        await begun.wait()
        await publish(publisher, "n", 1)
        assert FaultyAppender.struck == 1
        assert swallowed.is_set()

    await check(broker)


@pytest.mark.parametrize("stored", [False, True])
async def test_receipts_that_are_lost_are_heard_by_who_asks_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """A gateway that fails between ledger and receipt has recorded; repeating tells the verdict."""
    send = Connection.publish
    failed = 0

    async def fail_once(
        connection: Connection, subject: str, payload: bytes, **options: Any
    ) -> None:
        nonlocal failed
        if subject.startswith("receipt.") and not failed:
            failed += 1
            if stored:
                await send(connection, subject, payload, **options)
            raise Unavailable("a test: no receipt")
        await send(connection, subject, payload, **options)

    monkeypatch.setattr(Connection, "publish", fail_once)
    publisher = await broker.publisher()
    async with running(broker) as gateway:
        assert await publish(publisher, "m", 40) == {Verdict.ALLOW}
        assert failed == 1
        assert not gateway.task.done()
        await until(lambda: settled(broker))

    records = await check(broker)
    assert len([made for made in records if made.verdict is Verdict.ALLOW]) == 40
