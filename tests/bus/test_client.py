"""What nats-py gets wrong, mended: each test hangs or fails with the client as it comes."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from support import ADMIN, INTRUDER, PUBLISHER, Broker, nothing_left, until
from tidegate_bus.broker.accounts import MAX_PAYLOAD
from tidegate_bus.connection import Connection, connect
from tidegate_bus.identity.keyring import Keyring
from tidegate_bus.message import Message
from tidegate_schemas.subjects import ingress_stream, submission


async def test_a_flush_comes_after_what_was_sent_before_it(broker: Broker) -> None:
    """When it returns, the broker has the messages, and has answered them.

    nats-py writes the ping first, so neither a flush nor a drain waits for anything.
    """
    connection = await broker.connect(INTRUDER)
    got: list[bytes] = []

    async def collect(message: Msg) -> None:
        got.append(message.data)

    subscription = await connection.listen("news", collect)
    for number in range(100):
        await connection.publish("news", b"%d" % number)
    await connection.nats.flush()

    assert subscription.delivered == 100
    await until(lambda: len(got) == 100)


async def test_who_hears_gets_messages_as_they_are_read(broker: Broker) -> None:
    """In order, with their headers; an error is logged, and the next one comes."""
    connection = await broker.connect(INTRUDER)
    got: list[Message] = []

    def take(message: Message) -> None:
        got.append(message)
        if message.data == b"1":
            raise ValueError("of the hearer")

    subscription = await connection.hear("news", take)
    with capture_logs() as logs:
        for number in range(3):
            headers = {"Number": str(number)}
            await connection.publish("news", b"%d" % number, reply="there", headers=headers)
        await connection.nats.flush()

    assert [message.data for message in got] == [b"0", b"1", b"2"]
    assert [message.headers for message in got] == [{"Number": str(n)} for n in range(3)]
    assert {(message.subject, message.reply) for message in got} == {("news", "there")}
    assert [entry["event"] for entry in logs] == ["a message was not taken"]
    await connection.forget(subscription)
    await connection.publish("news", b"not any more")
    await connection.nats.flush()
    assert len(got) == subscription.delivered == 3


async def test_who_hears_still_does_after_a_reconnect(broker: Broker) -> None:
    """Unless it shall not; what was sent meanwhile is kept, and sent in order."""
    connection = await broker.connect(INTRUDER)
    got: list[bytes] = []
    passing: list[bytes] = []
    await connection.hear("news", lambda message: got.append(message.data))
    await connection.hear("news", lambda message: passing.append(message.data), again=False)
    await broker.kill()
    await until(lambda: not connection.nats.is_connected)
    for number in range(3):
        await connection.publish("news", b"%d" % number)
    await broker.restart()
    await until(lambda: connection.nats.is_connected)
    await connection.publish("news", b"3")
    await until(lambda: len(got) == 4)

    assert got == [b"0", b"1", b"2", b"3"]
    assert passing == []


async def test_a_sender_waits_while_the_broker_takes_nothing(broker: Broker) -> None:
    """What is kept has a bound, however much is sent; all of it arrives in the end, in order."""
    connection = await broker.connect(INTRUDER)
    got: list[int] = []
    await connection.hear("news", lambda message: got.append(int(message.data[:8])))

    async def send() -> None:
        for number in range(300):
            await connection.publish("news", b"%08d" % number + bytes(100_000))

    sending = asyncio.create_task(send())
    async with broker.paused():
        await until(lambda: connection.nats.pending_data_size > 1024 * 1024)
        assert connection.nats.pending_data_size < 4 * 1024 * 1024
        assert not sending.done()
    await sending
    await until(lambda: len(got) == 300)

    assert got == list(range(300))


async def test_a_pong_that_nobody_waits_for_any_more_does_no_harm(broker: Broker) -> None:
    """After a flush was given up the connection still reads.

    nats-py sets the result of a cancelled future there, and its reading task dies of it.
    """
    connection = await broker.connect(ADMIN)
    async with broker.paused():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.nats.flush()

    assert (await connection.stream_state(ingress_stream(0))).messages == 0


async def test_a_sender_that_waits_for_the_socket_can_be_cancelled(broker: Broker) -> None:
    """A cancellation is not swallowed while the buffer is full.

    A task group around such a sender would never end.
    """
    connection = await broker.connect(PUBLISHER)

    async def send() -> None:
        while True:
            await connection.nats.publish(submission(PUBLISHER), bytes(MAX_PAYLOAD))

    async with broker.paused():
        sender = asyncio.create_task(send())
        await until(lambda: connection.nats.pending_data_size > 2 * MAX_PAYLOAD)
        sender.cancel()
        await asyncio.wait({sender}, timeout=5.0)

        assert sender.cancelled()


async def test_a_cancellation_that_comes_with_the_answer_is_not_swallowed(broker: Broker) -> None:
    """Whoever asks can be cancelled at any moment.

    `asyncio.wait_for` of Python 3.11, which nats-py uses, gives out the answer instead.
    """
    connection = await broker.connect(ADMIN)
    async with broker.paused():
        asking = asyncio.create_task(connection.nats.request("$JS.API.INFO", timeout=60.0))
        await until(lambda: bool(open_questions(connection)))
        open_questions(connection)[0].set_result(Msg(connection.nats))
        asking.cancel()
        await asyncio.wait({asking})

    assert asking.cancelled()


def open_questions(connection: Connection) -> list[asyncio.Future[Msg]]:
    """What a connection waits for answers with."""
    return list(connection.nats._resp_map.values())  # pyright: ignore


async def test_a_connection_can_be_closed_with_messages_that_cannot_be_sent(
    broker: Broker,
) -> None:
    """Closing is complete and raises nothing when the broker is gone and the buffer is not empty.

    nats-py raises ConnectionResetError half-way; its tasks and its socket stay.
    """
    connection = await broker.connect(PUBLISHER)
    await broker.kill()
    await until(lambda: not connection.nats.is_connected)
    await connection.publish(submission(PUBLISHER), b"never to arrive")

    await connection.close()
    assert connection.nats.is_closed
    assert connection.nats.pending_data_size == 0


@pytest.mark.parametrize("turns", range(6))
async def test_a_closed_connection_stays_closed_when_a_reconnect_comes_through(
    broker: Broker, turns: int
) -> None:
    """Nothing of an attempt goes on whose last answer comes together with the end.

    nats-py begins to read then, takes the end of the stream for an error, and reconnects for ever.
    """
    async with nothing_left():
        connection = await connect(broker.url, PUBLISHER, broker.keyring.seed(PUBLISHER))
        async with broker.paused():
            await connection.nats.force_reconnect()
            await until(lambda: connection.nats.is_connecting)
            answer(connection, b'INFO {"nonce":"once","max_payload":1000}\r\n')
            await until(lambda: connection.nats.max_payload == 1000)
            answer(connection, b"PONG\r\n")
            for _ in range(turns):
                await asyncio.sleep(0)
            await connection.close()

    assert connection.nats.is_closed


def answer(connection: Connection, line: bytes) -> None:
    """Say something in place of the broker."""
    reader = connection.nats._stream._io_reader  # pyright: ignore
    assert reader
    reader.feed_data(line)


async def test_attempts_to_reconnect_that_fail_leave_nothing_open(broker: Broker) -> None:
    """Each stream is closed before the next one is opened; nats-py forgets it, and Python warns."""
    came, ended, known = 0, 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came, ended
        assert came == ended
        came += 1
        if came == 1:
            writer.write(b'INFO {"nonce":"once","max_payload":1000}\r\n')
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            await known.wait()
        else:
            writer.write(b"Who is there?\r\n")
            await reader.read()
        writer.close()
        ended += 1

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with await connect(url, PUBLISHER, broker.keyring.seed(PUBLISHER)):
            known.set()
            await until(lambda: came == 5)
        await until(lambda: ended == came)


async def test_an_error_of_the_broker_does_not_close_the_connection_for_good(
    broker: Broker,
) -> None:
    """A message that is larger than the broker takes by now costs a reconnect, no more.

    nats-py closes for good after any error of the broker that it does not know.
    """
    connection = await broker.connect(PUBLISHER)
    file = broker.folder / "nats.conf"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_payload": 1000}))
    os.kill(broker.server.pid, signal.SIGHUP)
    await until(lambda: "Reloaded: max_payload" in broker.server.log.read_text())

    await connection.publish(submission(PUBLISHER), bytes(2000))
    await until(lambda: connection.nats.stats["reconnects"] == 1)
    await until(lambda: connection.nats.is_connected)
    assert connection.nats.max_payload == 1000


async def test_a_principal_that_comes_back_is_connected_again(broker: Broker) -> None:
    """Taken out of the configuration it is cut off; put back, its connection heals."""
    connection = await broker.connect(PUBLISHER)
    file = broker.folder / "nats.conf"
    configured = file.read_text()
    other_key = Keyring(broker.folder / "other").ensure(PUBLISHER)
    file.write_text(configured.replace(broker.keyring.ensure(PUBLISHER), other_key))
    os.kill(broker.server.pid, signal.SIGHUP)
    await until(lambda: not connection.nats.is_connected)

    file.write_text(configured)
    os.kill(broker.server.pid, signal.SIGHUP)
    await until(lambda: connection.nats.is_connected)
