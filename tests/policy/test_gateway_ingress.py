"""What the gateway does to the ingress: trims what is recorded, and notices what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from policy.rig import INGRESS, check, event, ingress_state, length, running, sending, settled
from support import ADMIN, PUBLISHER, Broker, running_broker, until
from tidegate_bus.appender import Entry, FastAppender
from tidegate_bus.broker import topology
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.topology import Limits
from tidegate_bus.ingress import PulledIngress
from tidegate_policy import gateway as gateway_module
from tidegate_policy import trimmer
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import LedgerGap, Unavailable
from tidegate_schemas.subjects import Verdict


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncGenerator[Broker]:
    """A broker without streams."""
    async with running_broker(tmp_path, streams=False) as running_:
        yield running_


async def emptied(broker: Broker) -> bool:
    """Whether the ingress holds nothing any more."""
    first, last = await ingress_state(broker)
    return first == last + 1


async def test_what_is_recorded_is_trimmed(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the ledger has already is forgotten, and in the end all of it."""
    monkeypatch.setattr(trimmer, "_EVERY", 20)
    monkeypatch.setattr(trimmer, "_SECONDS", 0.01)
    trim = PulledIngress.trim
    trimmed: list[int] = []

    async def trim_and_check(ingress: PulledIngress, seq: int) -> None:
        assert (await broker.records())[-1].ingress.seq >= seq
        trimmed.append(seq)
        await trim(ingress, seq)

    monkeypatch.setattr(PulledIngress, "trim", trim_and_check)
    publisher = await broker.publisher(window=20)
    for start in range(2):
        async with running(broker) as gateway:
            envelopes = [Envelope.new("x.y", id=f"{start}-{n}") for n in range(300)]
            await asyncio.gather(*(publisher.publish(one) for one in envelopes))
            await until(lambda: emptied(broker))
            assert not gateway.task.done()

    assert len(trimmed) > 4
    assert trimmed == sorted(trimmed)
    assert len(await check(broker)) == 600


@pytest.mark.parametrize(
    ("limits", "size"),
    [(Limits(2**30, 2**20, 1_000), 100_000), (Limits(2**30, 2**28, 3), 10)],
    ids=["bytes", "quota"],
)
async def test_the_ingress_never_stays_full(
    bare: Broker, monkeypatch: pytest.MonkeyPatch, limits: Limits, size: int
) -> None:
    """Few large messages, or a small quota, fill it long before there are many messages."""
    monkeypatch.setattr(trimmer, "_SECONDS", 0.1)
    await topology.converge(await bare.connect(REGISTRAR), limits)
    publisher = await bare.publisher()
    envelopes = [Envelope.new("x.y", "x" * size, id=str(n)) for n in range(15)]
    async with running(bare):
        receipts = await asyncio.gather(*(publisher.publish(one) for one in envelopes))

    assert {receipt.was or receipt.verdict for receipt in receipts} == {Verdict.ALLOW}
    await check(bare)


async def test_an_empty_ingress_keeps_its_place(broker: Broker) -> None:
    """A broker that is killed when all was trimmed still knows which sequence is next."""
    async with sending(broker, PUBLISHER) as sender, running(broker):
        await sender.send(event("e1"))
        await until(lambda: len(sender.receipts) == 1)
        await until(lambda: emptied(broker))
    await broker.kill()
    await broker.restart()
    async with sending(broker, PUBLISHER) as sender, running(broker):
        await sender.send(event("e2"))
        await until(lambda: len(sender.receipts) == 1)

    assert [made.ingress.seq for made in await check(broker)] == [1, 2]


async def test_a_trim_that_fails_is_tried_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for it and nothing is lost by it."""
    monkeypatch.setattr(trimmer, "_SECONDS", 0.01)
    trim = PulledIngress.trim
    tries = 0

    async def fail_often(ingress: PulledIngress, seq: int) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:  # done, but the answer was lost
            await trim(ingress, seq)
        if tries < 4:
            raise Unavailable("no answer")
        await trim(ingress, seq)

    monkeypatch.setattr(PulledIngress, "trim", fail_often)
    publisher = await broker.publisher()
    async with running(broker) as gateway:
        for number in range(3):
            await publisher.publish(Envelope.new("x.y", id=str(number)))
        await until(lambda: emptied(broker))
        await until(lambda: tries >= 4)
        assert not gateway.task.done()

    assert {made.epoch for made in await check(broker)} == {1}


async def test_a_lost_submission_stops_the_gateway_that_reads(broker: Broker) -> None:
    """A message that the ingress had and no longer has is told, not skipped."""
    async with sending(broker, PUBLISHER) as sender:
        for name in ("e1", "e2", "e3"):
            await sender.send(event(name))
    await broker.delete(INGRESS, 2)
    async with running(broker) as gateway:
        await asyncio.wait([gateway.task], timeout=20)

        error = gateway.task.exception()

        assert isinstance(error, LedgerGap)
        assert (error.stream, error.expected, error.found) == (INGRESS, 2, 3)
        assert gateway.status == str(error)
    assert len(await broker.records()) <= 1


async def test_an_ingress_that_begins_too_late_stops_the_gateway(broker: Broker) -> None:
    """What was purged before it was recorded is missed at the start."""
    async with sending(broker, PUBLISHER) as sender:
        for name in ("e1", "e2", "e3"):
            await sender.send(event(name))
    admin = await broker.connect(ADMIN)
    await admin.api(f"$JS.API.STREAM.PURGE.{INGRESS}", {"seq": 3})
    async with running(broker) as gateway:
        await asyncio.wait([gateway.task], timeout=20)

        assert isinstance(gateway.task.exception(), LedgerGap)
    assert await broker.records() == []


@pytest.mark.parametrize("live", [False, True])
async def test_an_ingress_that_counts_anew_stops_the_gateway(broker: Broker, live: bool) -> None:
    """Deleted and made again, it would give old numbers to new messages."""
    publisher = await broker.publisher()
    admin = await broker.connect(ADMIN)

    async def make_anew() -> None:
        await admin.api(f"$JS.API.STREAM.DELETE.{INGRESS}")
        await broker.converge()

    async with running(broker) as gateway:
        for number in range(3):
            await publisher.publish(Envelope.new("x.y", id=str(number)))
        if live:
            await make_anew()
            await asyncio.wait([gateway.task], timeout=20)
            assert isinstance(gateway.task.exception(), LedgerGap)
    if not live:
        await make_anew()
    async with running(broker) as gateway:
        await asyncio.wait([gateway.task], timeout=20)
        assert isinstance(gateway.task.exception(), LedgerGap)

    assert await length(broker) == 3


async def test_large_messages_are_read_in_their_order(broker: Broker) -> None:
    """What waits for a gateway may be more than the broker sends at once."""
    async with sending(broker, PUBLISHER) as sender:
        for number in range(300):
            await sender.send(event(f"e{number}", data="x" * 250_000))
        async with running(broker) as gateway:
            await until(lambda: settled(broker), seconds=60)
            assert not gateway.task.done()

    assert len(await check(broker)) == 300


async def test_what_takes_long_is_decided_in_turns(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each turn the gateway reads and writes, so that no sender makes it fall silent."""
    monkeypatch.setattr(gateway_module, "_TURN_SECONDS", 0.0)
    appended: list[int] = []
    append = FastAppender.append

    async def count(appender: FastAppender, entries: Sequence[Entry]) -> asyncio.Future[int]:
        appended.append(len(entries))
        return await append(appender, entries)

    monkeypatch.setattr(FastAppender, "append", count)
    async with sending(broker, PUBLISHER) as sender:
        for number in range(30):
            await sender.send(event(str(number)))
        async with running(broker) as gateway:
            await until(lambda: len(sender.receipts) == 30)
            assert not gateway.task.done()

    assert appended == [1] * 30
    assert [record.ingress.seq for record in await check(broker)] == list(range(1, 31))
