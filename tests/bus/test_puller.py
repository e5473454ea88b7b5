"""Pulling: as much as is wanted, never more, and again after whatever happened."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from support import ADMIN, INTRUDER, Broker, until
from tidegate_bus import puller as module
from tidegate_bus.appender import FastAppender
from tidegate_bus.connection import Connection
from tidegate_bus.message import Message
from tidegate_bus.puller import Puller
from tidegate_schemas.subjects import parse_ack
from tidegate_schemas.vocabulary import GATEWAY

CONSUMER: dict[str, Any] = {
    "stream_name": "LEDGER_0",
    "config": {"durable_name": "test", "ack_policy": "none", "deliver_policy": "all"},
}
CREATE = "$JS.API.CONSUMER.CREATE.LEDGER_0.test"


@pytest.fixture
async def consumer(broker: Broker) -> Connection:
    """A consumer of the whole ledger; the connection may change it."""
    admin = await broker.connect(ADMIN)
    await admin.api(CREATE, CONSUMER)
    return admin


@pytest.fixture
async def appender(broker: Broker) -> FastAppender:
    """Writes to the ledger."""
    return await FastAppender.open(await broker.connect(GATEWAY), last=0)


class Taker:
    """Takes messages of the consumer `test`, from the account of the agents."""

    def __init__(
        self,
        connection: Connection,
        on_message: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.got: list[int] = []
        self.deliveries: list[int] = []
        self._on_message = on_message
        self.puller = Puller(connection, "LEDGER_0", "test", self._take, on_lost)

    def _take(self, message: Message) -> None:
        self.got.append(int(message.data))
        self.deliveries.append(parse_ack(message.reply).delivered)
        self._on_message()

    async def __aenter__(self) -> Taker:
        await self.puller.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.puller.close()


@pytest.fixture
async def taker(broker: Broker, consumer: Connection) -> AsyncGenerator[Taker]:
    """One that has not asked for anything yet."""
    async with Taker(await broker.connect(INTRUDER)) as taker:
        yield taker


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests end after a fifth of a second."""
    monkeypatch.setattr(module, "_EXPIRES_SECONDS", 0.2)
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "_SILENT_HEARTBEATS", 1000.0)


async def write(appender: FastAppender, *numbers: int) -> None:
    """Append a message for each number."""
    await (await appender.append([("ledger.0.allow.event.x", b"%d" % n) for n in numbers]))


async def test_nothing_comes_that_is_not_wanted(
    broker: Broker, consumer: Connection, appender: FastAppender
) -> None:
    """With three hands and nothing finished three come; one hand freed brings one more."""

    def take() -> None:
        mine.puller.want(3 - len(mine.got))

    async with Taker(await broker.connect(INTRUDER), take) as mine:
        await write(appender, *range(10))
        mine.puller.want(3)
        await until(lambda: len(mine.got) == 3)
        assert mine.puller.requested == 0

        mine.puller.want(1)
        await until(lambda: len(mine.got) == 4)
        await mine.puller.drain()
        assert mine.got == [0, 1, 2, 3]


async def test_everything_comes_in_order_and_once(taker: Taker, appender: FastAppender) -> None:
    """A standing wish for a hundred brings two thousand, in large requests."""
    for begin in range(0, 2000, 500):
        await write(appender, *range(begin, begin + 500))
    taker.puller.want(100, step=50)
    await until(lambda: len(taker.got) == 2000)

    assert taker.got == list(range(2000))


@pytest.mark.parametrize("seed", range(4))
async def test_hands_are_never_overfilled(
    broker: Broker, consumer: Connection, appender: FastAppender, hasty: None, seed: int
) -> None:
    """Whatever is free is said after each message, and more than that never comes.

    Hands are taken and freed at random while requests overlap, are answered in turn and expire;
    at the end nothing is left on request that the broker has forgotten, or it would be missed.
    """
    chance = random.Random(seed)
    hands, busy, most = chance.randint(1, 7), 0, 0
    loop = asyncio.get_running_loop()

    def take() -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        taker.puller.want(hands - busy)
        loop.call_later(chance.random() * 0.004, free)

    def free() -> None:
        nonlocal busy
        busy -= 1
        taker.puller.want(hands - busy)

    async with Taker(await broker.connect(INTRUDER), take) as taker:
        taker.puller.want(hands)
        written = 0
        while written < 300:
            count = chance.randint(1, 30)
            await write(appender, *range(written, written + count))
            written += count
            if chance.random() < 0.7:
                await until(lambda: len(taker.got) == written)  # noqa: B023 - at once
        await until(lambda: len(taker.got) == written and busy == 0)

        assert taker.got == list(range(written))
        assert most <= hands
        taker.puller.want(0)
        await until(lambda: taker.puller.requested == 0, seconds=5.0)


async def test_an_idle_puller_asks_again_when_its_time_is_over(
    taker: Taker, appender: FastAppender, hasty: None
) -> None:
    """After several requests have expired, a message still comes."""
    asked = note_requests(taker)
    taker.puller.want(5)
    await until(lambda: len(asked) == 4)
    await write(appender, 1)
    await until(lambda: taker.got == [1])

    assert asked[:4] == [5] * 4


async def test_what_an_expired_request_left_over_is_asked_for_again(
    taker: Taker, appender: FastAppender, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker answers requests in turn, so the older one ends with some of its part unserved.

    Counted as if it had been served first, that part would be missing from then on.
    """
    asked = note_requests(taker)
    taker.puller.want(2)
    await until(lambda: asked == [2])
    monkeypatch.setattr(module, "_EXPIRES_SECONDS", 30.0)
    taker.puller.want(4)
    await until(lambda: asked == [2, 2])
    taker.puller.want(2)
    await write(appender, 1, 2)
    await until(lambda: taker.got == [1, 2])

    await until(lambda: asked == [2, 2, 1], seconds=5.0)
    assert taker.puller.requested == 2


def note_requests(taker: Taker) -> list[int]:
    """Sizes of the requests that a puller makes from now on."""
    asked: list[int] = []
    ask = taker.puller._ask  # pyright: ignore[reportPrivateUsage]

    async def noted(messages: int) -> None:
        asked.append(messages)
        await ask(messages)

    taker.puller._ask = noted  # type: ignore[method-assign]  # pyright: ignore
    return asked


@pytest.mark.parametrize("hands", [1, 3])
async def test_another_inbox_takes_over_after_some_requests(
    taker: Taker, appender: FastAppender, monkeypatch: pytest.MonkeyPatch, hands: int
) -> None:
    """Nothing is lost or comes twice, and of the inboxes before none is listened to any more.

    Across accounts the broker keeps each request in mind for as long as somebody listens.
    """
    monkeypatch.setattr(module, "_INBOX_REQUESTS", 4)
    listened: list[str] = []
    connection = taker.puller._connection  # pyright: ignore[reportPrivateUsage]
    hear = connection.hear

    async def noted(subject: str, callback: Any, **options: Any) -> Any:
        listened.append(subject)
        return await hear(subject, callback, **options)

    monkeypatch.setattr(connection, "hear", noted)
    for number in range(60):
        taker.puller.want(hands)
        await write(appender, number)
        await until(lambda number=number: len(taker.got) == number + 1)

    assert taker.got == list(range(60))
    assert len(listened) >= 10
    assert taker.puller.requested <= hands
    subscriptions = connection.nats._subs  # pyright: ignore[reportPrivateUsage]
    await until(lambda: len(subscriptions) <= 2)


async def test_messages_come_again_after_a_restart_of_the_broker(
    broker: Broker, taker: Taker, appender: FastAppender
) -> None:
    """The requests that died with the broker are made anew."""
    taker.puller.want(5)
    await write(appender, 1)
    await until(lambda: taker.got == [1])
    await broker.kill()
    await broker.restart()
    later = await FastAppender.open(await broker.connect(GATEWAY), last=1)
    await write(later, 2, 3)
    await until(lambda: taker.got[-2:] == [2, 3])


async def test_a_reconnect_does_not_double_what_is_on_request(
    broker: Broker, taker: Taker, appender: FastAppender
) -> None:
    """Requests from before it, alive at the broker or not, bring nothing any more."""
    taker.puller.want(3)
    await until(lambda: taker.puller.requested == 3)
    asked = note_requests(taker)
    connection = taker.puller._connection  # pyright: ignore[reportPrivateUsage]
    await connection.nats.force_reconnect()
    await until(lambda: asked == [3])
    taker.puller.want(0)
    await write(appender, *range(20))
    await until(lambda: taker.got == [0, 1, 2])

    assert taker.puller.requested == 0


async def test_requests_from_before_a_reconnect_swallow_nothing(
    taker: Taker, consumer: Connection, appender: FastAppender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written before the puller has asked anew waits for that, as its first delivery."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.5)

    async def two_wait() -> bool:
        info = await consumer.api("$JS.API.CONSUMER.INFO.LEDGER_0.test")
        return bool(info["num_waiting"] == 2)

    taker.puller.want(3)
    await write(appender, 1)
    await until(lambda: taker.got == [1])
    await until(two_wait)  # for what is left of three, and for one more
    connection = taker.puller._connection  # pyright: ignore[reportPrivateUsage]
    back = asyncio.Event()
    connection.on_reconnect(back.set)
    await connection.nats.force_reconnect()
    await back.wait()
    await write(appender, 2)
    await until(lambda: taker.got[1:] == [2])

    assert taker.deliveries == [1, 1]


async def test_a_consumer_that_is_made_anew_is_found_again(
    taker: Taker, consumer: Connection, appender: FastAppender
) -> None:
    """While it is missing the log says so, at a slowing pace; then messages come."""
    taker.puller.want(5)
    await until(lambda: taker.puller.requested == 5)
    with capture_logs() as logs:
        await consumer.api("$JS.API.CONSUMER.DELETE.LEDGER_0.test")
        await until(lambda: len(logs) >= 3)
    await consumer.api(CREATE, CONSUMER)
    await write(appender, 1)
    await until(lambda: taker.got == [1])

    assert logs[0]["why"] == "Consumer Deleted"
    assert {entry["event"] for entry in logs} == {"pull ended"}


async def test_a_silent_consumer_is_asked_anew(
    broker: Broker, taker: Taker, appender: FastAppender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats that stop coming are noticed, also where no error comes instead."""
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "_EXPIRES_SECONDS", 30.0)
    taker.puller.want(5)
    await until(lambda: taker.puller.requested == 5)
    asked = note_requests(taker)
    with capture_logs() as logs:
        async with broker.paused():
            await until(lambda: any(entry["event"] == "pull is silent" for entry in logs))
        await until(lambda: asked == [5])
    await write(appender, 1)
    await until(lambda: taker.got == [1])


async def test_heartbeats_keep_an_idle_consumer_from_being_taken_for_silent(
    taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that lives through many heartbeats is left alone."""
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "_EXPIRES_SECONDS", 30.0)
    asked = note_requests(taker)
    with capture_logs() as logs:
        taker.puller.want(5)
        connection = taker.puller._connection  # pyright: ignore[reportPrivateUsage]
        before = connection.nats.stats["in_msgs"]
        await until(lambda: connection.nats.stats["in_msgs"] >= before + 8)

    assert (asked, logs) == ([5], [])


async def test_who_is_told_of_the_loss_asks_no_more(
    broker: Broker, consumer: Connection, appender: FastAppender
) -> None:
    """With `on_lost` it is called once, and the puller leaves the rest to whoever made it."""
    lost: list[None] = []
    taker = Taker(await broker.connect(INTRUDER), on_lost=lambda: lost.append(None))
    async with taker:
        taker.puller.want(5)
        await until(lambda: taker.puller.requested == 5)
        await consumer.api("$JS.API.CONSUMER.DELETE.LEDGER_0.test")
        await until(lambda: bool(lost))
        asked = note_requests(taker)
        await consumer.api(CREATE, CONSUMER)
        taker.puller.want(50)
        await write(appender, 1)

        assert (lost, asked, taker.got) == ([None], [], [])


async def test_drain_receives_what_the_broker_had_sent(
    broker: Broker, taker: Taker, consumer: Connection, appender: FastAppender
) -> None:
    """It returns when that is done and nothing comes after it; the rest goes to others.

    What the broker had taken up but not sent yet comes to them when its lease is over.
    """
    await consumer.api("$JS.API.CONSUMER.DELETE.LEDGER_0.test")
    leased = {"ack_policy": "explicit", "ack_wait": 500_000_000, "max_ack_pending": 5000}
    await consumer.api(CREATE, {**CONSUMER, "config": {**CONSUMER["config"], **leased}})
    for begin in range(0, 2000, 500):
        await write(appender, *range(begin, begin + 500))
    taker.puller.want(300, step=100)
    await until(lambda: len(taker.got) > 50)
    await taker.puller.drain()
    drained = list(taker.got)
    assert drained == list(range(len(drained)))

    async with Taker(await broker.connect(INTRUDER)) as other:
        other.puller.want(500)
        await until(lambda: {*drained, *other.got} == set(range(2000)))
    assert taker.got == drained


async def test_requests_of_a_puller_that_was_drained_swallow_nothing(
    broker: Broker, taker: Taker, appender: FastAppender
) -> None:
    """A message that comes later goes to another puller at once, as its first delivery."""
    taker.puller.want(5)
    await until(lambda: taker.puller.requested == 5)
    await taker.puller.drain()
    async with Taker(await broker.connect(INTRUDER)) as other:
        other.puller.want(1)
        await write(appender, 1, 2, 3)
        await until(lambda: other.got == [1, 2, 3])

        assert (taker.got, other.deliveries) == ([], [1, 1, 1])


async def test_an_error_of_the_receiver_does_not_stop_the_pulling(
    broker: Broker, consumer: Connection, appender: FastAppender
) -> None:
    """It is logged, and the next message comes."""

    def fail() -> None:
        raise ValueError("of the receiver")

    await write(appender, 1, 2, 3)
    with capture_logs() as logs:
        async with Taker(await broker.connect(INTRUDER), fail) as taker:
            taker.puller.want(1)
            await until(lambda: taker.got == [1, 2, 3])

    assert [entry["event"] for entry in logs] == ["a message was not taken"] * 3


async def test_stop_requests_nothing_more(taker: Taker, appender: FastAppender) -> None:
    """Also where somebody still says how much is wanted; what was requested may come."""
    taker.puller.want(2)
    await until(lambda: taker.puller.requested == 2)
    await taker.puller.stop()
    taker.puller.want(100)
    await write(appender, *range(10))
    await until(lambda: taker.got == [0, 1])
    await taker.puller.drain()

    assert taker.got == [0, 1]
