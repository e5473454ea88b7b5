"""Deliveries that stand still: what a paused consumer does, and what ends the pause."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import pytest
from structlog.testing import capture_logs

from support import AGENT, CAPABILITY, LIMITS, OTHER, TOPIC, Broker, until
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.pauses import Feed, feeds, pause, resume
from tidegate_bus.broker.topology import Subscription, converge, drift
from tidegate_bus.connection import Connection
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.subjects import Principal

WORK = Subscription(AGENT, (CAPABILITY,), (), 2.0)
HEARS = Subscription(OTHER, (), (TOPIC,), 2.0)


@contextlib.asynccontextmanager
async def receiving(broker: Broker, who: Principal = AGENT) -> AsyncGenerator[list[int]]:
    """The records that come to an agent; it settles nothing."""
    got: list[int] = []

    def receive(delivery: Delivery) -> None:
        got.append(delivery.record.seq)
        inbox.want(10)

    inbox = Inbox(await broker.connect(who), receive)
    await inbox.start()
    inbox.want(10)
    try:
        yield got
    finally:
        await inbox.close()


async def ask(broker: Broker, times: int) -> None:
    """Ask the agent for work."""
    publisher = await broker.publisher()
    for _ in range(times):
        await publisher.publish(Envelope.new(CAPABILITY, kind="task", to=CAPABILITY))


async def of_agent(registrar: Connection) -> Feed:
    """The consumer of the agent."""
    (found,) = [feed for feed in await feeds(registrar) if feed.principal == AGENT]
    return found


async def test_nothing_is_delivered_until_the_pause_ends(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing new, nothing again; who waits notices nothing, and gets all of it in order."""
    monkeypatch.setattr("tidegate_bus.puller._HEARTBEAT_SECONDS", 0.3)
    registrar = await broker.connect(REGISTRAR)
    with capture_logs() as logs:
        async with broker.gateway(), receiving(broker) as got:
            await ask(broker, 2)
            await until(lambda: got == [1, 2])
            await pause(registrar, AGENT)
            await ask(broker, 3)
            async with receiving(broker, OTHER) as others:
                await (await broker.publisher()).publish(Envelope.new(TOPIC))
                await until(lambda: len(others) > 1)  # a lease is over, and longer than a silence
            assert got == [1, 2]
            assert await of_agent(registrar) == Feed(AGENT, True, 3, 2)
            await resume(registrar, AGENT)
            await until(lambda: sorted(got) == [1, 1, 2, 2, 3, 4, 5])

    assert [seq for seq in got[2:] if seq > 2] == [3, 4, 5]
    assert not [line for line in logs if line["event"].startswith("pull")]


async def test_a_pause_outlives_the_broker_and_every_update(broker: Broker) -> None:
    """It is no drift, and nobody else stands still."""
    registrar = await broker.connect(REGISTRAR)
    await pause(registrar, AGENT)
    assert await drift(registrar, LIMITS, [WORK, HEARS]) == []
    await converge(registrar, LIMITS, [Subscription(AGENT, (CAPABILITY,), (TOPIC,), 3.0), HEARS])
    await broker.kill()
    await broker.restart()

    async def back() -> bool:
        with contextlib.suppress(Unavailable):
            return [(f.principal, f.paused) for f in await feeds(registrar)] == [
                (AGENT, True),
                (OTHER, False),
            ]
        return False

    await until(back)
    await resume(registrar, AGENT)
    await until(lambda: _free(registrar))
    await converge(registrar, LIMITS, [WORK, HEARS])

    assert await _free(registrar)


async def _free(registrar: Connection) -> bool:
    return not (await of_agent(registrar)).paused


async def test_pausing_twice_is_pausing_once(broker: Broker) -> None:
    """And whoever has no consumer is left alone."""
    registrar = await broker.connect(REGISTRAR)
    for _ in range(2):
        await pause(registrar, AGENT)
        await pause(registrar, Principal("no", "body"))
    assert (await of_agent(registrar)).paused
    for _ in range(2):
        await resume(registrar, AGENT)
        await resume(registrar, Principal("no", "body"))
    await until(lambda: _free(registrar))


async def test_all_consumers_are_listed_page_by_page(broker: Broker) -> None:
    """More than the broker names in one answer."""
    registrar = await broker.connect(REGISTRAR)
    many = [Subscription(Principal("many", f"a{n}"), (f"x.{n}",), (), 2.0) for n in range(300)]
    await converge(registrar, LIMITS, [WORK, HEARS, *many])

    found = {feed.principal for feed in await feeds(registrar)}

    assert found == {AGENT, OTHER, *(one.principal for one in many)}
