"""The gateway against a real broker: verdicts, receipts, and what senders may do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from prometheus_client import REGISTRY

from policy.rig import Sender, check, event, running, sending, settled
from support import AGENT, CAPABILITY, OTHER, PUBLISHER, Broker, until
from support.broker import PERMIT_ALL, ROSTER
from tidegate_bus.appender import Entry, FastAppender
from tidegate_bus.broker.accounts import MAX_PAYLOAD
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Denied, InvalidPolicy, Rejected
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict

POLICIES = """
@id("open") permit (principal, action, resource) unless { context.to == "closed" };
@id("no-secrets") forbid (principal, action, resource == Topic::"secret");
"""
PAST = rfc3339(0)


def heard(sender: Sender, number: int) -> Callable[[], bool]:
    """Whether so many receipts have come."""
    return lambda: len(sender.receipts) >= number


async def test_every_verdict_comes_back_to_its_sender(broker: Broker) -> None:
    """Each submission gets a record and one receipt that says the same, with its sequence."""
    async with sending(broker, AGENT) as sender:
        cases: list[tuple[bytes, Verdict, str]] = [
            (event("e1"), Verdict.ALLOW, "permitted"),
            (event("e2", kind="task", to=CAPABILITY), Verdict.ALLOW, "permitted"),
            (
                event("e3", kind="result", to=str(AGENT), causationid="e2", answers="2"),
                Verdict.ALLOW,
                "permitted",
            ),
            (event("e4", kind="control", to="run.start"), Verdict.ALLOW, "permitted"),
            (event("e1"), Verdict.DUPLICATE, "permitted"),
            (event("e5", "secret"), Verdict.DENY, "forbidden"),
            (event("e5", "secret"), Verdict.DUPLICATE, "forbidden"),
            (event("e6", "closed"), Verdict.DENY, "not_permitted"),
            (event("e7", expirytime=PAST), Verdict.DENY, "expired"),
            (event("e8", kind="task", to="work.none"), Verdict.DENY, "unknown_destination"),
            (event("e9", data="x" * 300_000), Verdict.REJECT, "oversized"),
            (event("e10", data="x" * 300_000)[:200_000], Verdict.REJECT, "malformed"),
            (b"", Verdict.REJECT, "malformed"),
            (b" \n" + event("e11") + b"\n", Verdict.ALLOW, "permitted"),
        ]
        async with running(broker, POLICIES):
            for payload, _, _ in cases:
                await sender.send(payload)
            await until(heard(sender, len(cases)))

        records = await check(broker)
        assert [(r.verdict, r.reason) for r in sender.receipts] == [case[1:] for case in cases]
        for made, answer in zip(records, sender.receipts, strict=True):
            message = made.message()
            assert (answer.ingress, answer.verdict) == (made.ingress.seq, made.verdict)
            assert answer.id == (message.id if message else "")
            assert answer.seq == (made.first or made.seq)
            assert answer.policies == records[answer.seq - 1].why.policies
            assert (made.by, made.log, made.epoch) == (str(AGENT), "test/0", 1)


async def test_a_publisher_gets_its_verdict_as_an_error(broker: Broker) -> None:
    """Denials and rejections are raised with the sequence of the record, also when repeated."""
    publisher = await broker.publisher()
    secret = Envelope.new("secret", id="s")
    large = Envelope.new("large", "x" * 300_000)
    async with running(broker):
        admitted = await publisher.publish(Envelope.new("x.y"))
        with pytest.raises(Denied) as denied:
            await publisher.publish(secret)
        with pytest.raises(Denied) as again:
            await publisher.publish(secret)
        with pytest.raises(Rejected) as rejected:
            await publisher.publish(large)

    assert (admitted.seq, denied.value.seq, again.value.seq, rejected.value.seq) == (1, 2, 2, 4)
    assert denied.value.policies == again.value.policies == ("no-secrets",)


async def test_a_stranger_hears_that_it_is_one(broker: Broker) -> None:
    """Whom the broker knows and the roster does not gets a denial, not silence."""
    async with sending(broker, OTHER) as stranger:
        roster = [member for member in ROSTER if member.principal != str(OTHER)]
        async with running(broker, PERMIT_ALL, roster):
            await stranger.send(event("e1"))
            await stranger.send(event("e1"))
            await until(heard(stranger, 2))

        assert [(r.verdict, r.reason, r.seq) for r in stranger.receipts] == [
            (Verdict.DENY, "unknown_sender", 1),
            (Verdict.DENY, "unknown_sender", 2),
        ]
        assert str(OTHER) in stranger.receipts[0].detail


async def test_garbage_is_answered_by_its_number(broker: Broker) -> None:
    """What has no id that could be read is told by its place in the ingress."""
    async with sending(broker, OTHER) as sender:
        async with running(broker):
            await sender.send(event("e1"))
            await sender.send(b"\x00\xff garbage")
            await until(heard(sender, 2))

        garbage = sender.receipts[1]
        assert garbage == Receipt(
            "", Verdict.REJECT, 2, "malformed", 2, detail=garbage.detail, policies=()
        )
        assert garbage.detail


HEADERS = [
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0",
    b"\xff\xfe\x00",
    b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
    b"NATS/1.0 503 \xff\xff\r\n\r\n",
    b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n: no name\r\n\r\n",
    b"NATS/1.0\r\nStatus: 404\r\nDescription: x\r\n\r\n",
    b"NATS/1.0\r\nStatus: 100\r\nNats-Pending-Messages: -9\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0\r\nNats-Expected-Last-Sequence: 7\r\n\r\n",
    b"NATS/1.0\r\nNats-TTL: 1s\r\nNats-Rollup: all\r\n\r\n",
]


async def test_no_header_harms_the_gateway(broker: Broker) -> None:
    """Headers are the sender's to choose; whatever they are, the next message gets its verdict."""
    publisher = await broker.publisher()
    async with sending(broker, OTHER) as attacker, running(broker) as gateway:
        for number, headers in enumerate(HEADERS):
            await attacker.send(b"", headers)
            await attacker.send(event(f"e{number}"), headers)
            admitted = await publisher.publish(Envelope.new("x.y"), timeout=10)
            assert admitted.verdict is Verdict.ALLOW, headers
        await until(lambda: settled(broker))
        assert not gateway.task.done()

    assert {made.epoch for made in await check(broker)} == {1}


async def test_receipts_of_a_batch_may_be_larger_than_a_message(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long ids and long details of many messages at once reach the sender in several messages."""
    everything_read = asyncio.Event()
    append = FastAppender.append

    async def append_later(to: FastAppender, entries: Sequence[Entry]) -> asyncio.Future[int]:
        await everything_read.wait()
        return await append(to, entries)

    monkeypatch.setattr(FastAppender, "append", append_later)
    names = [f"{number:04}{'💥' * 252}" for number in range(1_100)]
    async with sending(broker, OTHER) as sender:
        for name in names:
            await sender.send(event(name, expirytime=f"2020-01-01T00:00:00.{'0' * 1003}Z"))
        async with running(broker) as gateway:
            await until(lambda: gateway.connection.nats.stats["in_msgs"] > len(names))
            everything_read.set()
            await until(heard(sender, len(names)))

    assert [receipt.id for receipt in sender.receipts] == names
    assert max(sender.sizes) < MAX_PAYLOAD
    assert sum(sender.sizes) > 2 * MAX_PAYLOAD


async def test_without_policy_there_is_no_gateway(broker: Broker) -> None:
    """A bundle that does not load admits nothing: what was submitted waits for one that does."""
    async with sending(broker, PUBLISHER) as sender:
        await sender.send(event("e1"))
        with pytest.raises(InvalidPolicy):
            async with running(broker, "permit ("):
                raise AssertionError("it runs")
        assert await broker.records() == []

        async with running(broker):
            await until(heard(sender, 1))


async def test_health_tells_the_bundle(broker: Broker) -> None:
    """Who asks a gateway how it is hears which policies it goes by."""
    async with running(broker) as gateway:
        await until(lambda: "bundle" in gateway.health.report()[1])
        healthy, report = gateway.health.report()

        assert healthy
        assert report["bundle"].startswith("sha256:")
        publisher = await broker.publisher()
        await publisher.publish(Envelope.new("x.y"))
        assert (await broker.records())[0].why.bundle == report["bundle"]


async def test_metrics_tell_what_is_remembered_of_the_policies(broker: Broker) -> None:
    """How many decisions Cedar made, how many were remembered, and the memory that takes."""

    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    async with running(broker):
        publisher = await broker.publisher()
        for number in range(5):
            await publisher.publish(Envelope.new("x.y", id=str(number)))
        await until(lambda: value("tidegate_policy_decisions", how="hits") == 4)
        assert value("tidegate_policy_decisions", how="misses") == 1
        assert value("tidegate_policy_memory_bytes") > 0
