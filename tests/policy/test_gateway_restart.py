"""Starting is recovering: after an end, a crash of the broker, and beside another gateway."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest

from policy.rig import (
    LEDGER,
    Running,
    check,
    event,
    ingress_state,
    length,
    limit,
    running,
    sending,
    settled,
)
from support import ADMIN, LIMITS, OTHER, PUBLISHER, Broker, until
from tidegate_bus import appender, ledger
from tidegate_bus import publisher as publishing
from tidegate_bus.broker import topology
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.publisher import Publisher
from tidegate_policy import gateway as module
from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Fenced, LedgerError, LedgerGap, Unavailable
from tidegate_schemas.record import Ingress, Receipt, encode_record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import GATEWAY


async def publish(publisher: Publisher, *names: str) -> list[Receipt]:
    """Publish events with these ids side by side, as often as it takes."""
    envelopes = [Envelope.new("x.y", id=name) for name in names]
    return await asyncio.gather(*(publisher.publish(one, timeout=60) for one in envelopes))


def names(begin: int, end: int) -> list[str]:
    """Ids of messages."""
    return [f"m{number}" for number in range(begin, end)]


async def end(gateway: Running) -> Exception | None:
    """How a gateway ended by itself."""
    await asyncio.wait([gateway.task], timeout=20)
    error = gateway.task.exception()
    assert error is None or isinstance(error, Exception)
    return error


async def test_each_start_goes_on_where_the_ledger_ends(broker: Broker) -> None:
    """The next submission is the next one recorded, and the epoch counts the starts."""
    publisher = await broker.publisher()
    for start in range(3):
        async with running(broker):
            await publish(publisher, *names(start * 10, start * 10 + 10))
        async with running(broker):
            pass  # a start that writes nothing is not counted

    records = await check(broker)
    assert [made.ingress.seq for made in records] == list(range(1, 31))
    assert [made.epoch for made in records] == [1] * 10 + [2] * 10 + [3] * 10
    assert all(
        parse_rfc3339(one.time) <= parse_rfc3339(other.time) for one, other in pairwise(records)
    )


async def test_what_was_submitted_meanwhile_is_not_forgotten(broker: Broker) -> None:
    """Messages that came while no gateway ran get their records in the order of arrival."""
    async with sending(broker, PUBLISHER) as sender:
        for name in names(0, 1_200):
            await sender.send(event(name))
        async with running(broker):
            await until(lambda: len(sender.receipts) == 1_200)

    assert [receipt.id for receipt in sender.receipts] == names(0, 1_200)
    assert [receipt.seq for receipt in sender.receipts] == list(range(1, 1_201))
    await check(broker)


async def test_the_memory_of_ids_survives_a_restart(broker: Broker) -> None:
    """A repetition is one also for the next gateway: messages, denials and strange white space."""
    async with sending(broker, OTHER) as sender:
        payloads = [event("e1"), event("e2", "secret"), b"\n " + event("e3") + b"\n"]
        async with running(broker):
            for payload in payloads:
                await sender.send(payload)
            await until(lambda: len(sender.receipts) == 3)
        async with running(broker):
            for payload in payloads:
                await sender.send(payload)
            await until(lambda: len(sender.receipts) == 6)

    assert [(r.verdict, r.seq, r.was) for r in sender.receipts[3:]] == [
        (Verdict.DUPLICATE, 1, Verdict.ALLOW),
        (Verdict.DUPLICATE, 2, Verdict.DENY),
        (Verdict.DUPLICATE, 3, Verdict.ALLOW),
    ]
    await check(broker)


async def test_the_memory_of_ids_ends_by_the_clock(broker: Broker) -> None:
    """What is older than the window is new for the gateway that wrote it and for the next one."""
    now = 1_800_000_000_000_000_000
    publisher = await broker.publisher()
    async with running(broker, clock=lambda: now, dedupe_window=10.0):
        (first,) = await publish(publisher, "m0")
        now += 10_000_000_000 - 1
        (repeated,) = await publish(publisher, "m0")
    async with running(broker, clock=lambda: now, dedupe_window=10.0):
        (repeated_again,) = await publish(publisher, "m0")
        now += 1
        (second,) = await publish(publisher, "m0")

    assert (first.verdict, second.verdict) == (Verdict.ALLOW, Verdict.ALLOW)
    assert (repeated.verdict, repeated.seq) == (Verdict.DUPLICATE, first.seq)
    assert (repeated_again.verdict, repeated_again.seq) == (Verdict.DUPLICATE, first.seq)
    assert second.seq == 4


async def test_a_gateway_survives_the_death_of_the_broker(broker: Broker) -> None:
    """The broker is killed under load and comes back; the gateway goes on by itself."""
    publisher = await broker.publisher()
    async with running(broker) as gateway:
        sent = 0
        for _ in range(3):
            load = asyncio.create_task(publish(publisher, *names(sent, sent + 600)))
            sent += 600
            before = await length(broker)
            await until(lambda before=before: longer(broker, before))
            await broker.kill()
            await broker.restart()
            receipts = await load
            assert {r.was or r.verdict for r in receipts} == {Verdict.ALLOW}
            assert not gateway.task.done()
        await until(lambda: settled(broker))
        await until(lambda: gateway.status == "ok")

    await check(broker)


async def longer(broker: Broker, than: int) -> bool:
    """Whether the ledger has grown."""
    return await length(broker) > than


async def test_an_idle_gateway_tells_that_the_broker_is_away(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health says so while there is no connection, and that it is well again afterwards."""
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.05)
    async with running(broker) as gateway:
        await broker.kill()
        await until(lambda: gateway.status != "ok")
        await broker.restart()
        await until(lambda: gateway.status == "ok")
        await publish(await broker.publisher(), "m0")


async def test_a_gateway_can_be_stopped_while_the_broker_is_away(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation ends it, whatever it is waiting for."""
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.05)
    publisher = await broker.publisher()
    async with running(broker) as gateway:
        await publish(publisher, "m0")
        await broker.kill()
        await until(lambda: gateway.status != "ok")
        gateway.task.cancel()
        done, _ = await asyncio.wait([gateway.task], timeout=5)
        assert done
        assert gateway.task.cancelled()


async def test_a_broker_that_is_late_does_not_fence_the_gateway(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given up and is stored all the same is the gateway's own, and it goes on."""
    at_the_gate, gate = asyncio.Event(), asyncio.Event()
    append = appender.FastAppender.append

    async def append_when_open(
        to: appender.FastAppender, entries: Sequence[tuple[str, bytes]]
    ) -> asyncio.Future[int]:
        at_the_gate.set()
        await gate.wait()
        return await append(to, entries)

    monkeypatch.setattr(appender.FastAppender, "append", append_when_open)
    monkeypatch.setattr(appender, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(ledger, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(publishing, "_RESEND_SECONDS", 0.5)
    publisher = await broker.publisher()
    async with running(broker) as gateway:
        for number in range(2):
            at_the_gate.clear()
            gate.clear()
            load = asyncio.create_task(publish(publisher, *names(number * 100, number * 100 + 100)))
            await at_the_gate.wait()
            async with broker.paused():
                gate.set()
                await until(lambda: gateway.status != "ok")
            await load
            assert not gateway.task.done()
        await until(lambda: settled(broker))

    await check(broker)


async def test_of_two_gateways_one_stops(broker: Broker) -> None:
    """Both write where they believe the ledger ends; who is wrong is fenced, and says so."""
    publisher = await broker.publisher()
    async with running(broker) as one, running(broker) as other:
        receipts = await publish(publisher, *names(0, 300))
        await asyncio.wait([one.task, other.task], return_when=asyncio.FIRST_COMPLETED, timeout=20)
        loser, winner = (one, other) if one.task.done() else (other, one)

        assert isinstance(await end(loser), Fenced)
        assert not winner.task.done()
        assert "the ledger did not end" in loser.status
        receipts += await publish(publisher, *names(300, 400))

    assert {r.was or r.verdict for r in receipts} == {Verdict.ALLOW}
    await check(broker)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("good", [False, True])
async def test_a_foreign_write_stops_the_gateway(broker: Broker, good: bool, busy: bool) -> None:
    """Somebody with the gateway's own key writes to the ledger: nothing follows it, loudly."""
    publisher = await broker.publisher()
    foreign = await broker.connect(GATEWAY)
    async with running(broker) as gateway:
        await publish(publisher, "m0")
        first = (await broker.records())[0]
        load = asyncio.create_task(publish(publisher, *names(1, 500))) if busy else None
        seq = await length(broker) + 1
        forged = msgspec.structs.replace(first, seq=seq, ingress=Ingress(seq, 0, first.time))
        payload = encode_record(forged) if good else b"forged"
        await foreign.publish(subjects.ledger(0, Verdict.ALLOW, Kind.EVENT, "x.y"), payload)
        after = asyncio.create_task(publish(publisher, "after"))  # the load may be over by now

        error = await end(gateway)

        assert isinstance(error, LedgerError)
        assert gateway.status == str(error)
        for task in filter(None, (load, after)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert (await broker.stored(LEDGER))[-1][1] == payload


@pytest.mark.parametrize("payload", [b"", b"forged", b'{"v":1}', "later", "damaged", "timeless"])
async def test_a_ledger_that_ends_in_something_else_is_not_gone_on_with(
    broker: Broker, payload: bytes | str
) -> None:
    """A gateway that starts on a foreign record raises that the ledger is not what it should be."""
    async with running(broker):
        await publish(await broker.publisher(), "m0")
    record = encode_record((await broker.records())[0])
    if payload == "later":  # a record, but not of this place
        payload = record.replace(b'"seq":1', b'"seq":7', 1)
    elif payload == "damaged":
        payload = record.replace(b'"seq":1', b'"seq":2', 1).replace(b'"id":"m0",', b"")
    elif payload == "timeless":
        forged = msgspec.structs.replace((await broker.records())[0], seq=2, time="noon")
        payload = encode_record(forged)
    assert isinstance(payload, bytes)
    foreign = await broker.connect(GATEWAY)
    await foreign.publish(subjects.ledger(0, Verdict.ALLOW, Kind.EVENT, "x.y"), payload)
    await foreign.nats.flush()
    shutil.rmtree(broker.folder / "writer")  # of this gateway nothing is written down

    async with running(broker) as gateway:
        error = await end(gateway)

    assert isinstance(error, LedgerError)
    assert "ledger record 2 is not of a gateway" in str(error)
    assert gateway.status == str(error)


async def test_a_ledger_that_lost_records_stops_the_gateway(broker: Broker) -> None:
    """What the broker once confirmed and no longer has is never written a second time."""
    publisher = await broker.publisher()
    admin = await broker.connect(ADMIN)
    async with running(broker) as gateway:
        await publish(publisher, *names(0, 10))
        await admin.api(f"$JS.API.STREAM.DELETE.{LEDGER}")
        await topology.converge(await broker.connect(REGISTRAR), LIMITS)
        load = asyncio.create_task(publish(publisher, "m10"))

        error = await end(gateway)

        assert isinstance(error, LedgerGap)
        assert (error.stream, error.expected, error.found) == (LEDGER, 10, 0)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    assert await length(broker) == 0


async def test_a_full_ledger_admits_nothing_until_there_is_room(broker: Broker) -> None:
    """Nothing is lost and nothing moves; health tells it, and with room the gateway goes on."""
    publisher = await broker.publisher()
    large = [Envelope.new("x.y", "x" * 10_000, id=name) for name in names(0, 40)]
    await limit(broker, LEDGER, max_bytes=200_000)
    async with running(broker) as gateway:
        loads = [asyncio.create_task(publisher.publish(one, timeout=60)) for one in large]
        await until(lambda: "maximum bytes exceeded" in gateway.status)
        full = await length(broker)
        seen = len(gateway.health.reports)
        await until(lambda: len(gateway.health.reports) > seen + 2)
        assert None not in gateway.health.reports[seen:]
        assert 0 < full < 20
        assert await length(broker) == full
        assert not gateway.task.done()

        await limit(broker, LEDGER, max_bytes=10_000_000)
        receipts = await asyncio.gather(*loads)
        await until(lambda: gateway.status == "ok")

    assert {r.was or r.verdict for r in receipts} == {Verdict.ALLOW}
    await check(broker)


async def test_a_closed_connection_ends_the_gateway(broker: Broker) -> None:
    """Who closes its connection does not leave it trying for ever."""
    async with running(broker) as gateway:
        await gateway.connection.close()
        load = asyncio.create_task(publish(await broker.publisher(), "m0"))

        assert isinstance(await end(gateway), Unavailable)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    assert (await ingress_state(broker))[1] <= 1
