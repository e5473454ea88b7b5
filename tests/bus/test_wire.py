"""The protocol by hand: what somebody publishes is no answer of the broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from support import AGENT, INTRUDER, Broker
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.watch.wire import Wire
from tidegate_schemas.errors import InvalidInput, Unavailable


@contextlib.asynccontextmanager
async def stranger(*lines: bytes) -> AsyncGenerator[str]:
    """Somebody who listens, says these lines to each and waits; its address."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(line + b"\r\n" for line in lines))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def wire(broker: Broker) -> AsyncGenerator[Wire]:
    """A wire of somebody who may hear everything in its account."""
    async with await Wire.dial(broker.url) as dialled:
        credentials = Credentials(broker.keyring.seed(INTRUDER))
        assert (await dialled.connect(dialled.login(credentials))).done
        yield dialled


@pytest.mark.parametrize("payload", [b"PONG\r\n", b"-ERR 'no'\r\nPONG\r\n", b"MSG a 1 9\r\n", b""])
async def test_a_payload_is_no_answer_whatever_stands_in_it(wire: Wire, payload: bytes) -> None:
    """It comes as a payload, and the answers around it are found."""
    said = await wire.say(
        b"SUB news 1",
        b"PUB news %d" % len(payload),
        payload,
        b"HPUB news 16 %d" % (16 + len(payload)),
        b"NATS/1.0\r\nA:b\r\n\r\n"[:16] + payload,
    )
    while len(said.payloads) < 2:
        said.payloads.append(await wire.hear())

    assert said.payloads == [payload, payload]
    assert (said.errors, said.done) == ([], True)
    assert (await wire.say()).done


async def test_errors_come_in_order_with_what_they_answer(broker: Broker) -> None:
    """Before the pong of the ping that was written after it."""
    async with await Wire.dial(broker.url) as wire:
        await wire.connect(wire.login(Credentials(broker.keyring.seed(AGENT))))
        said = await wire.say(b"PUB in.team.other 0", b"")
        fine = await wire.say(b"SUB receipt.team.agent 1")

    assert said.errors == ['Permissions Violation for Publish to "in.team.other"']
    assert (said.done, fine.done, fine.errors) == (True, True, [])


async def test_a_login_that_is_refused_is_not_done(broker: Broker) -> None:
    """The broker's last words are heard."""
    async with await Wire.dial(broker.url) as wire:
        said = await wire.connect(wire.login(Credentials(new_seed())))

    assert (said.errors, said.done) == (["Authorization Violation"], False)


async def test_a_broker_that_goes_away_is_no_answer(broker: Broker, wire: Wire) -> None:
    """Neither a refusal nor its opposite."""
    await broker.kill()

    said = await wire.say()
    assert (said.errors, said.done) == ([], False)
    with pytest.raises(Unavailable):
        await wire.hear()


@pytest.mark.parametrize(
    "lines", [(), (b"HTTP/1.1 400 Bad Request",), (b"INFO []",), (b"x" * 99_999,)]
)
async def test_what_is_no_broker_is_unavailable(lines: tuple[bytes, ...]) -> None:
    """Whatever it says first."""
    async with stranger(*lines) as url:
        with pytest.raises(Unavailable):
            await Wire.dial(url)


@pytest.mark.parametrize("line", [b"MSG a 1 x", b"HMSG a 1", b"MSG a 1 -9", b"x" * 99_999])
async def test_what_speaks_another_protocol_is_unavailable(line: bytes) -> None:
    """Nothing else is raised, and nothing is waited for."""
    async with stranger(b"INFO {}", line) as url, await Wire.dial(url) as wire:
        with pytest.raises(Unavailable):
            await wire.say()


async def test_a_broker_that_asks_for_tls_is_unavailable_without_it() -> None:
    """No login goes out in clear text by accident."""
    async with stranger(b'INFO {"tls_required":true}') as url:
        with pytest.raises(Unavailable, match="TLS"):
            await Wire.dial(url)


async def test_what_is_no_address_is_invalid_input() -> None:
    """A retry does not help."""
    with pytest.raises(InvalidInput):
        await Wire.dial("nothing")
