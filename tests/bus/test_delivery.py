"""Admitted messages for a worker: only those, each under a lease, each settled at the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support import (
    ADMIN,
    AGENT,
    CAPABILITY,
    INTRUDER,
    OTHER,
    TOPIC,
    Broker,
    running_broker,
    until,
)
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_bus.message import Message
from tidegate_bus.publisher import Publisher
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Denied
from tidegate_schemas.record import encode_record
from tidegate_schemas.subjects import Kind, Verdict

LEASE = 0.5


class Worker:
    """An inbox and what came into it."""

    def __init__(self, inbox: Inbox, got: list[Delivery]) -> None:
        self.inbox = inbox
        self.got = got

    @classmethod
    async def start(cls, broker: Broker) -> Worker:
        """One that wants nothing yet."""
        got: list[Delivery] = []
        inbox = Inbox(await broker.connect(AGENT), got.append)
        await inbox.start()
        return cls(inbox, got)

    @property
    def ids(self) -> list[str]:
        """Ids of the envelopes that came."""
        return [envelope_id(delivery) for delivery in self.got]

    @property
    def address(self) -> str:
        """Where its deliveries arrive, which nobody else knows."""
        puller = self.inbox._puller  # pyright: ignore[reportPrivateUsage]
        return puller._inbox.subject  # pyright: ignore[reportPrivateUsage]


def envelope_id(delivery: Delivery) -> str:
    """The id of the envelope in a delivery."""
    envelope = delivery.record.message()
    assert envelope is not None
    return envelope.id


@pytest.fixture
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Broker]:
    """A broker with streams; with a true parameter, everybody is in one account."""
    async with running_broker(tmp_path, together=getattr(request, "param", False)) as running:
        yield running


in_one_account = pytest.mark.parametrize("broker", [True], indirect=True, ids=["one account"])
"""As in operator mode, where others can aim an answer at our inbox. In an account of its own
nothing of others comes to a worker at all."""


@pytest.fixture
async def worker(broker: Broker) -> AsyncGenerator[Worker]:
    """A worker with a short lease."""
    await broker.converge(Subscription(AGENT, (CAPABILITY,), (), LEASE))
    worker = await Worker.start(broker)
    yield worker
    await worker.inbox.close()


@pytest.fixture
async def publisher(broker: Broker) -> AsyncGenerator[Publisher]:
    """A publisher, with a gateway at work."""
    async with broker.gateway():
        yield await broker.publisher()


def task(name: str, to: str = CAPABILITY) -> Envelope:
    """A task for the worker, or for another."""
    return Envelope.new("task", id=name, kind="task", to=to)


async def pending(broker: Broker) -> tuple[int, int]:
    """Deliveries without an answer, and messages that were not delivered yet."""
    admin = await broker.connect(ADMIN)
    info = await admin.api("$JS.API.CONSUMER.INFO.LEDGER_0.team_agent")
    return info["num_ack_pending"], info["num_pending"]


async def settled(broker: Broker) -> bool:
    """Whether the broker has nothing left for the worker."""
    return await pending(broker) == (0, 0)


async def test_a_worker_gets_what_was_admitted_for_it_and_nothing_else(
    broker: Broker, worker: Worker, publisher: Publisher
) -> None:
    """No other destination, no other kind, nothing that was denied."""
    worker.inbox.want(10)
    with pytest.raises(Denied):
        await publisher.publish(task("unknown", to="work.else"))
    with pytest.raises(Denied):
        await publisher.publish(Envelope.new("secret"))
    await publisher.publish(Envelope.new(CAPABILITY, id="event"))
    await publisher.publish(Envelope.new(TOPIC, id="for other"))
    receipt = await publisher.publish(task("mine"))
    await until(lambda: bool(worker.got))
    (delivery,) = worker.got

    assert (envelope_id(delivery), delivery.delivered) == ("mine", 1)
    assert (delivery.record.seq, delivery.record.by) == (receipt.seq, "outside.source")
    assert (delivery.record.kind, delivery.record.verdict) == (Kind.TASK, Verdict.ALLOW)


async def test_done_settles_it_at_the_broker(
    broker: Broker, worker: Worker, publisher: Publisher
) -> None:
    """Nothing is pending any more, and it does not come again when its lease would be over."""
    worker.inbox.want(1)
    await publisher.publish(task("1"))
    await until(lambda: bool(worker.got))
    assert await pending(broker) == (1, 0)

    await worker.got[0].done()
    await until(lambda: settled(broker))


async def test_without_an_answer_it_comes_again_when_the_lease_is_over(
    worker: Worker, publisher: Publisher
) -> None:
    """The same record, counted as the second delivery, not before its time."""
    worker.inbox.want(2)
    await publisher.publish(task("1"))
    clock = asyncio.get_running_loop().time
    began = clock()
    await until(lambda: len(worker.got) == 2)

    assert clock() - began > LEASE * 0.9
    assert worker.ids == ["1", "1"]
    assert [delivery.delivered for delivery in worker.got] == [1, 2]


async def test_extend_keeps_the_lease(worker: Worker, publisher: Publisher) -> None:
    """As long as it is extended in time nobody else gets it; then the lease runs out."""
    worker.inbox.want(2)
    await publisher.publish(task("1"))
    await until(lambda: bool(worker.got))
    clock = asyncio.get_running_loop().time
    until_when = clock() + 3 * LEASE

    async def extended() -> bool:
        await worker.got[0].extend()
        return clock() > until_when

    await until(extended)
    assert len(worker.got) == 1
    await until(lambda: len(worker.got) == 2)


async def test_postpone_gives_it_back_for_a_while(worker: Worker, publisher: Publisher) -> None:
    """After the pause, and neither at once nor with the lease."""
    pause = 2 * LEASE
    worker.inbox.want(2)
    await publisher.publish(task("1"))
    await until(lambda: bool(worker.got))
    clock = asyncio.get_running_loop().time
    began = clock()
    await worker.got[0].postpone(pause)
    await until(lambda: len(worker.got) == 2)

    assert clock() - began > 0.9 * pause
    assert worker.got[1].delivered == 2


async def test_postponed_for_no_time_it_comes_at_once(
    broker: Broker, worker: Worker, publisher: Publisher
) -> None:
    """That is how a draining worker hands over to another."""
    await broker.converge(Subscription(AGENT, (CAPABILITY,), (), 60.0))
    worker.inbox.want(1)
    await publisher.publish(task("1"))
    await until(lambda: bool(worker.got))
    other = await Worker.start(broker)
    other.inbox.want(1)
    await worker.got[0].postpone(0)
    await until(lambda: other.ids == ["1"])
    await other.inbox.close()


async def test_each_delivery_takes_a_hand_until_more_are_said_to_be_free(
    worker: Worker, publisher: Publisher
) -> None:
    """With two hands two come, however many wait; one that is freed brings one."""
    await asyncio.gather(*(publisher.publish(task(str(n))) for n in range(10)))
    worker.inbox.want(2)
    await until(lambda: len(worker.got) == 2)
    for delivery in worker.got:
        await delivery.done()
    worker.inbox.want(1)
    await until(lambda: len(worker.got) == 3)
    await worker.inbox.drain()

    assert len(worker.got) == 3


async def test_two_workers_share_the_work(
    broker: Broker, worker: Worker, publisher: Publisher
) -> None:
    """Each message goes to one of them."""
    other = await Worker.start(broker)
    for one in (worker, other):
        one.inbox.want(20)
    await asyncio.gather(*(publisher.publish(task(str(n))) for n in range(20)))
    await until(lambda: len(worker.got) + len(other.got) >= 20)
    for delivery in (*worker.got, *other.got):
        await delivery.done()
    await until(lambda: settled(broker))
    await other.inbox.close()

    assert sorted((*worker.ids, *other.ids), key=int) == [str(n) for n in range(20)]


async def test_an_answer_given_while_the_broker_is_away_arrives_later(
    broker: Broker, worker: Worker, publisher: Publisher
) -> None:
    """The broker remembers the delivery, and hears of its end after the reconnect."""
    await broker.converge(Subscription(AGENT, (CAPABILITY,), (), 60.0))
    worker.inbox.want(1)
    await publisher.publish(task("1"))
    await until(lambda: bool(worker.got))
    await broker.kill()
    await worker.got[0].done()
    await broker.restart()
    await until(lambda: settled(broker))


async def test_an_answer_on_a_closed_connection_is_logged_and_no_error(
    worker: Worker, publisher: Publisher
) -> None:
    """The lease runs out and another worker gets it."""
    worker.inbox.want(1)
    await publisher.publish(task("1"))
    await until(lambda: bool(worker.got))
    delivery = worker.got[0]
    await delivery._connection.close()  # pyright: ignore[reportPrivateUsage]
    with capture_logs() as logs:
        await delivery.done()

    assert logs[0]["event"] == "cannot settle"
    assert logs[0]["seq"] == delivery.record.seq


async def test_drain_takes_no_more(broker: Broker, worker: Worker, publisher: Publisher) -> None:
    """What was sent before it is there; what comes later goes to another worker."""
    worker.inbox.want(5)
    await publisher.publish(task("1"))
    await until(lambda: worker.ids == ["1"])
    await worker.inbox.drain()
    await publisher.publish(task("2"))
    other = await Worker.start(broker)
    other.inbox.want(5)
    await until(lambda: "2" in other.ids)
    await other.inbox.close()

    assert worker.ids == ["1"]


def forgeries(record: Any, denied: Any) -> dict[str, tuple[str, bytes]]:
    """Ack subject and payload of messages that somebody puts into an inbox."""
    good = encode_record(record)
    seq = record.seq
    return {
        "without an ack subject": ("", good),
        "of another consumer": (f"$JS.ACK.LEDGER_0.team_other.1.{seq}.1.1.0", good),
        "of another stream": (f"$JS.ACK.INGRESS_0.team_agent.1.{seq}.1.1.0", good),
        "of another partition": (f"$JS.ACK.LEDGER_1.team_agent.1.{seq}.1.1.0", good),
        "under another sequence": (f"$JS.ACK.LEDGER_0.team_agent.1.{seq + 1}.1.1.0", good),
        "of the second form": (f"$JS.ACK._.h.LEDGER_0.team_agent.1.{seq}.1.1.0.x", good),
        "without numbers": ("$JS.ACK.LEDGER_0.team_agent.1.x.1.1.0", good),
        "some other reply": ("somewhere.else", good),
        "no record": (f"$JS.ACK.LEDGER_0.team_agent.1.{seq}.1.1.0", b'{"verdict":"allow"}'),
        "no JSON": (f"$JS.ACK.LEDGER_0.team_agent.1.{seq}.1.1.0", b"\xff\0"),
        "a denied record": (
            f"$JS.ACK.LEDGER_0.team_agent.1.{denied.seq}.1.1.0",
            encode_record(denied),
        ),
    }


@in_one_account
async def test_what_others_put_into_the_inbox_is_ignored(
    broker: Broker, worker: Worker, publisher: Publisher
) -> None:
    """A delivery counts by what it says and proves, not by where it arrives.

    Here somebody has more rights than any agent and even knows the secret address. The broker lets
    nobody name an ack subject, so those forgeries are also handed over behind its back.
    """
    with pytest.raises(Denied):
        await publisher.publish(Envelope.new("secret"))
    await publisher.publish(task("real"))
    denied, real = await broker.records()
    intruder = await broker.connect(INTRUDER)
    worker.inbox.want(2)
    await until(lambda: worker.ids == ["real"])
    await worker.got[0].done()
    puller = worker.inbox._puller  # pyright: ignore[reportPrivateUsage]
    receive, inbox = puller._receive, puller._inbox  # pyright: ignore[reportPrivateUsage]
    ignored, refused, address = 0, 0, f"{worker.address}.1"
    with capture_logs() as logs:
        for ack, payload in forgeries(real, denied).values():
            await intruder.publish(address, payload, reply=ack)
            if ack.startswith("$JS.ACK."):
                refused += 1
                receive(inbox, Message(address, ack, payload))
            ignored += 1
        await until(lambda: len(logs) == ignored + refused)
    await publisher.publish(task("next"))
    await until(lambda: worker.ids == ["real", "next"])

    events = [entry["event"] for entry in logs]
    assert events.count("forged or damaged delivery ignored") == ignored
    assert events.count("connection") == refused  # the intruder's, a permissions violation each


@in_one_account
async def test_another_agent_cannot_direct_its_deliveries_into_the_inbox(
    broker: Broker, worker: Worker, publisher: Publisher
) -> None:
    """Its own pull with this inbox as reply brings a real record, of the wrong consumer."""
    await publisher.publish(Envelope.new(TOPIC, id="for other"))
    other = await broker.connect(OTHER)
    worker.inbox.want(1)
    with capture_logs() as logs:
        await other.publish(
            "$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.team_other", b"1", reply=f"{worker.address}.1"
        )
        await until(lambda: bool(logs))
    await publisher.publish(task("mine"))
    await until(lambda: bool(worker.got))

    assert worker.ids == ["mine"]
    assert "team_other" in logs[0]["error"]
