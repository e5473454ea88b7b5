"""A connection of a principal: made, lost, found again, closed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from support import ADMIN, AGENT, INTRUDER, PUBLISHER, Broker, nothing_left, until
from tidegate_bus import connection as module
from tidegate_bus.broker.accounts import MAX_PAYLOAD
from tidegate_bus.connection import ApiError, Connection, connect
from tidegate_bus.identity.keyring import Keyring
from tidegate_bus.tasks import end
from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidInput, NotConnected, Unavailable

Callback = Callable[[Msg], Coroutine[Any, Any, None]]

STREAM_INFO = subjects.stream_info(subjects.ingress_stream(0))


def collector(into: list[bytes]) -> Callback:
    """A callback that keeps what it is given."""

    async def collect(message: Msg) -> None:
        into.append(message.data)

    return collect


async def test_a_key_that_the_broker_does_not_know_is_not_connected(broker: Broker) -> None:
    """The error names the principal, and what the broker said."""
    stranger = Keyring(broker.folder / "strange")
    stranger.ensure(AGENT)

    with pytest.raises(NotConnected, match=r"team\.agent.*Authorization Violation"):
        await connect(broker.url, AGENT, stranger.seed(AGENT), timeout=0.5)


async def test_a_place_where_nobody_listens_is_not_connected(broker: Broker) -> None:
    """The error names the address, after the timeout."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(NotConnected, match=f"{url} as .* failed"):
            await connect(url, AGENT, broker.keyring.seed(AGENT), timeout=0.2)


async def test_a_broker_that_says_nothing_is_not_connected(broker: Broker) -> None:
    """A broker that stands still does not hold up the caller."""
    async with broker.paused():
        with pytest.raises(NotConnected):
            await connect(broker.url, AGENT, broker.keyring.seed(AGENT), timeout=0.2)


@pytest.mark.parametrize("url", ["", "nats://", "127.0.0.1:4222", "nats://host:port", "http://h"])
async def test_what_is_no_address_is_invalid_input(tmp_path: Path, url: str) -> None:
    """A retry does not help, so it is not called unavailable."""
    keyring = Keyring(tmp_path)
    keyring.ensure(AGENT)
    with pytest.raises(InvalidInput, match="no address"):
        await connect(url, AGENT, keyring.seed(AGENT))


async def test_what_is_no_seed_is_invalid_input() -> None:
    """Nothing of nkeys' own errors comes out."""
    with pytest.raises(InvalidInput, match="not an nkey seed"):
        await connect("nats://127.0.0.1:4222", AGENT, "SUANOTHING")


async def test_connecting_can_be_cancelled(broker: Broker) -> None:
    """Nothing stays open of a connection that was given up."""
    async with broker.paused():
        attempt = asyncio.create_task(connect(broker.url, AGENT, broker.keyring.seed(AGENT)))
        await until(lambda: len(asyncio.all_tasks()) > 1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt


async def test_what_a_principal_may_not_do_is_logged_and_unavailable(broker: Broker) -> None:
    """The broker tells only the connection; the log names subject and principal."""
    connection = await broker.connect(PUBLISHER)
    with capture_logs() as logs:
        with pytest.raises(Unavailable, match=r"STREAM\.INFO.*outside\.source"):
            await connection.api(STREAM_INFO, timeout=0.2)
        await until(lambda: bool(logs))

    assert logs[0]["principal"] == "outside.source"
    assert f'permissions violation for publish to "{STREAM_INFO.lower()}"' in logs[0]["error"]


async def test_an_error_of_jetstream_has_its_code(broker: Broker) -> None:
    """ApiError tells a missing stream from other faults; it is Unavailable to everybody else."""
    connection = await broker.connect(ADMIN)
    with pytest.raises(ApiError, match=r"NOWHERE.*not found") as caught:
        await connection.api(subjects.stream_info("NOWHERE"))

    assert caught.value.code == 10059
    assert isinstance(caught.value, Unavailable)


async def test_a_question_that_nobody_is_there_to_answer_is_unavailable_soon(
    broker: Broker,
) -> None:
    """It is asked again for a moment; the timeout is not waited for."""
    connection = await broker.connect(ADMIN)
    async with asyncio.timeout(10.0):
        with pytest.raises(Unavailable, match=r"nobody\.at\.home"):
            await connection.api("nobody.at.home", timeout=60.0)


async def test_a_question_is_answered_by_who_comes_a_moment_later(broker: Broker) -> None:
    """Nobody has got it before, so that it is asked again."""
    connection = await broker.connect(INTRUDER)
    asking = asyncio.create_task(connection.api("nobody.yet"))
    await until(lambda: connection.nats.stats["in_msgs"] > 0)

    async def answer(message: Msg) -> None:
        await connection.publish(message.reply, b'{"is": "here"}')

    await connection.listen("nobody.yet", answer)

    assert await asking == {"is": "here"}


async def test_a_question_is_answered_also_while_the_configuration_is_read_again(
    broker: Broker,
) -> None:
    """nats-server says meanwhile that nobody is there: it takes JetStream from the account."""
    connection = await broker.connect(ADMIN)
    file = broker.folder / "nats.conf"
    document = json.loads(file.read_text())
    document["accounts"] |= {f"many{number}": {} for number in range(1000)}  # it takes longer then

    async def read_again() -> None:
        for number in range(20):
            document["accounts"][f"guest{number}"] = {}
            file.write_text(json.dumps(document))
            await broker.server.reload()

    reading = asyncio.create_task(read_again())
    while not reading.done():
        await asyncio.gather(*(connection.api(STREAM_INFO) for _ in range(20)))
    await reading


async def test_a_question_over_a_lost_connection_is_not_waited_for(broker: Broker) -> None:
    """Its answer may have been lost too: the caller hears it with the reconnect, and asks again."""
    connection = await broker.connect(ADMIN)
    async with broker.paused():
        asking = asyncio.create_task(connection.api(STREAM_INFO, timeout=60.0))
        await until(lambda: connection.nats.stats["out_msgs"] > 0)
        await broker.kill()
    await broker.restart()
    async with asyncio.timeout(5.0):
        with pytest.raises(Unavailable, match="reconnected"):
            await asking


async def test_a_question_over_a_new_connection_is_not_taken_for_one_over_the_old(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be asked before the news of the reconnect is told."""
    connection, back = await broker.connect(ADMIN), asyncio.Event()
    flush, asked = connection.nats.flush, list[asyncio.Task[Any]]()
    connection.on_reconnect(back.set)
    async with contextlib.AsyncExitStack() as standing_still:

        async def flush_and_ask(timeout: float = 10) -> None:
            await flush(timeout)
            await standing_still.enter_async_context(broker.paused())
            before = connection.nats.stats["out_msgs"]
            asked.append(asyncio.create_task(connection.api(STREAM_INFO)))
            await until(lambda: connection.nats.stats["out_msgs"] > before)

        monkeypatch.setattr(connection.nats, "flush", flush_and_ask)
        await connection.nats.force_reconnect()
        await back.wait()
        monkeypatch.undo()
    (asking,) = asked

    assert (await asking)["state"]["messages"] == 0


async def test_listeners_hear_of_each_reconnect_until_they_are_taken_off(broker: Broker) -> None:
    """After a kill and a start on the same port the connection is there again by itself."""
    connection = await broker.connect(ADMIN)
    heard: list[str] = []
    connection.on_reconnect(lambda: heard.append("one"))
    unlisten = connection.on_reconnect(lambda: heard.append("two"))
    await broker.kill()
    await broker.restart()
    await until(lambda: heard == ["one", "two"])
    assert (await connection.stream_state(subjects.ingress_stream(0))).messages == 0

    unlisten()
    await broker.kill()
    await broker.restart()
    await until(lambda: heard == ["one", "two", "one"])


async def test_what_is_sent_while_the_broker_is_away_arrives_later(broker: Broker) -> None:
    """Messages are kept and subscriptions renewed, also those that were made meanwhile."""
    sender, listener = await broker.connect(INTRUDER), await broker.connect(INTRUDER)
    got: list[bytes] = []
    await broker.kill()
    await until(lambda: not sender.nats.is_connected and not listener.nats.is_connected)

    await listener.listen("news", collector(got))
    await broker.restart()
    await until(lambda: listener.nats.is_connected)
    await listener.nats.flush()
    await sender.publish("news", b"kept")
    await until(lambda: got == [b"kept"])


async def test_what_is_kept_has_an_end(broker: Broker) -> None:
    """Over 2 MiB are refused as Unavailable while the broker is away, not kept in memory."""
    connection = await broker.connect(INTRUDER)
    await broker.kill()
    await until(lambda: not connection.nats.is_connected)

    with pytest.raises(Unavailable, match="cannot send"):
        for _ in range(3):
            await connection.publish("news", bytes(MAX_PAYLOAD))


async def test_what_is_too_large_for_the_broker_is_invalid_input(broker: Broker) -> None:
    """The broker would cut the connection; nothing is sent."""
    connection = await broker.connect(INTRUDER)
    with pytest.raises(InvalidInput, match=f"takes {MAX_PAYLOAD}"):
        await connection.publish("news", bytes(MAX_PAYLOAD + 1))


async def test_drain_receives_what_was_sent_before_it(broker: Broker) -> None:
    """Of a thousand messages under way none is lost, and none comes later."""
    sender, listener = await broker.connect(INTRUDER), await broker.connect(INTRUDER)
    got: list[bytes] = []
    subscription = await listener.listen("news", collector(got))
    await listener.nats.flush()
    for number in range(1000):
        await sender.publish("news", b"%d" % number)
    await sender.nats.flush()
    await listener.drain(subscription)
    assert got == [b"%d" % number for number in range(1000)]

    await sender.publish("news", b"late")
    await sender.nats.flush()
    await listener.nats.flush()
    assert len(got) == 1000


@pytest.mark.parametrize("reconnecting", [False, True])
async def test_closing_can_be_cancelled_at_any_moment(broker: Broker, reconnecting: bool) -> None:
    """Nothing stays open, nothing goes on, and listeners hear of the end."""
    for turns in range(1, 12):
        heard: list[int] = []
        async with nothing_left():
            connection = await connect(broker.url, AGENT, broker.keyring.seed(AGENT))
            connection.on_reconnect(functools.partial(heard.append, turns))
            await connection.listen(f"{subjects.inbox(AGENT)}.news", collector([]))
            if reconnecting:
                await connection.nats.force_reconnect()
            closing = asyncio.create_task(connection.close())
            for _ in range(turns):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait({closing})

        assert connection.nats.is_closed
        assert heard == [turns]


async def test_who_is_ended_while_it_closes_leaves_nothing_open(broker: Broker) -> None:
    """The broker stands still, so that its owner waits for it, and is cancelled again."""
    async with nothing_left():
        connection = await connect(broker.url, AGENT, broker.keyring.seed(AGENT))

        async def own() -> None:
            async with connection:
                await asyncio.Event().wait()

        owner = asyncio.create_task(own())
        await asyncio.sleep(0)
        async with broker.paused():
            await end(owner)

    assert connection.nats.is_closed


async def test_closing_ends_although_the_broker_takes_nothing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has not taken after some seconds is lost."""
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.1)
    async with nothing_left():
        connection = await connect(broker.url, INTRUDER, broker.keyring.seed(INTRUDER))

        async def send() -> None:
            while True:
                await connection.publish("news", bytes(MAX_PAYLOAD))

        async with broker.paused():
            sender = asyncio.create_task(send())
            await until(lambda: connection.nats.pending_data_size > 2 * MAX_PAYLOAD)
            await end(sender)
            async with asyncio.timeout(10.0):
                await connection.close()


async def closed(broker: Broker) -> Connection:
    """A connection that was closed by its owner."""
    connection = await broker.connect(ADMIN)
    await connection.close()
    return connection


async def test_a_closed_connection_is_unavailable_for_everything(broker: Broker) -> None:
    """No error of nats-py comes out."""
    connection = await closed(broker)
    for use in (
        connection.publish("news", b""),
        connection.listen("news", collector([])),
        connection.api(STREAM_INFO),
    ):
        with pytest.raises(Unavailable):
            await use


async def test_closing_and_forgetting_twice_is_harmless(broker: Broker) -> None:
    """Whoever cleans up need not know what others have cleaned already."""
    connection = await broker.connect(ADMIN)
    subscription = await connection.listen("news", collector([]))
    await connection.forget(subscription)
    await connection.forget(subscription)
    await connection.close()
    await connection.close()
    await connection.forget(subscription)
    await connection.drain(subscription)
    await connection.forget(None)
