"""HTTP from strangers: who is slow, sends too much or nothing is let go, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from support import until
from tidegate.edge.app import Application
from tidegate.edge.bodies import Bodies
from tidegate.edge.exchange import Exchange
from tidegate.edge.protocol import Bounds, EdgeProtocol
from tidegate.web import WebServer

BOUNDS = Bounds(
    connections=6,
    connections_each=6,
    head_bytes=2000,
    headers=20,
    head_seconds=0.4,
    body_seconds=0.4,
    body_rate=100_000,
    unread=500_000,
    idle_seconds=0.4,
    write_seconds=0.4,
)
LIMIT, BODIES = 100_000, 240_000


class Quick(EdgeProtocol):
    """With little patience."""

    bounds = BOUNDS


class Server:
    """An application that answers with what it got."""

    def __init__(self, folder: Path, protocol: type[EdgeProtocol]) -> None:
        self.go = asyncio.Event()
        self.waiting = 0
        self.left = 0
        self.clients: list[Client] = []
        self._strangers = Bodies(BODIES)
        app = Application(
            [
                ("POST", "/echo", self._echo),
                ("POST", "/strange", self._strange),
                ("GET", "/wait", self._wait),
                ("GET", "/stay", self._stay),
                ("GET", "/big", _big),
            ],
            BODIES,
        )
        self.web = WebServer(app, "127.0.0.1", 0, folder / "url", protocol=protocol)
        self.port = int(self.web.url.rpartition(":")[2])

    async def _echo(self, exchange: Exchange) -> None:
        body = await exchange.body(LIMIT)
        names = [name.decode() for name, _ in exchange.scope["headers"]]
        await exchange.answer(200, json.dumps({"size": len(body), "headers": names}).encode())

    async def _strange(self, exchange: Exchange) -> None:
        await exchange.body(LIMIT, self._strangers)
        await exchange.answer(200)

    async def _wait(self, exchange: Exchange) -> None:
        self.waiting += 1
        await self.go.wait()
        await exchange.answer(200, b'"waited"')

    async def _stay(self, exchange: Exchange) -> None:
        await exchange.begin([(b"content-type", b"text/event-stream")])
        await exchange.send({"type": "http.response.body", "body": b"here", "more_body": True})
        await exchange.left()
        self.left += 1


async def _big(exchange: Exchange) -> None:
    await exchange.begin([(b"content-type", b"text/plain")])
    for _ in range(500):
        await exchange.send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await exchange.send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def serving(folder: Path, protocol: type[EdgeProtocol] = Quick) -> AsyncGenerator[Server]:
    """A server for the length of a test; it ends by itself when it is told to."""
    server = Server(folder, protocol)
    running = asyncio.create_task(server.web.run())
    try:
        yield server
    finally:
        server.go.set()
        server.web.stop()
        for client in server.clients:
            await client.close()
        await asyncio.wait_for(running, 10)


class Client:
    """Says what it is told to, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, server: Server, address: str = "127.0.0.1") -> Client:
        """Connect, from an address of this machine."""
        own = (address, 0)
        client = cls(*await asyncio.open_connection("127.0.0.1", server.port, local_addr=own))
        server.clients.append(client)
        return client

    async def close(self) -> None:
        """Disconnect."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def say(self, data: bytes) -> None:
        """Send some."""
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def hear(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split()[1]), headers, body

    async def problem(self) -> tuple[int, str]:
        """The next answer, which is the last one: status, and the word of its type."""
        status, headers, body = await self.hear()
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert await self.reader.read() == b""
        document: dict[str, Any] = json.loads(body)
        assert document["status"] == status
        return status, document["type"].rpartition(":")[2]

    async def over(self) -> bytes:
        """What comes until the connection ends."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""


def _cut(why: str) -> float:
    return REGISTRY.get_sample_value("tidegate_edge_cut_total", {"why": why}) or 0.0


def post(body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    """A request."""
    size = len(body) if length is None else length
    lines = [b"POST /echo HTTP/1.1", b"Host: x", b"Content-Length: %d" % size, *headers]
    return b"\r\n".join([*lines, b"", body])


async def test_a_connection_goes_on_after_each_answer(tmp_path: Path) -> None:
    """Requests may follow each other, also without waiting for answers; they come in order."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(post(b"a") + post(b"bc") + post(b"def"))

        sizes = [json.loads((await client.hear())[2])["size"] for _ in range(3)]
        assert sizes == [1, 2, 3]


@pytest.mark.parametrize("head", [b"P", b"POST /echo HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
async def test_who_does_not_finish_the_headers_is_let_go(tmp_path: Path, head: bytes) -> None:
    """Slow loris: a byte now and then does not help."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(head)

        async def drip() -> None:
            while True:
                await asyncio.sleep(0.05)
                await client.say(b"A")

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(5):
            answer = await client.over()
        dripping.cancel()

        assert answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))


async def test_who_does_not_finish_the_body_is_let_go(tmp_path: Path) -> None:
    """Also while the handler waits for it."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(post(b"some", length=50))

        async with asyncio.timeout(5):
            assert await client.problem() == (408, "too-slow")


async def test_a_body_has_as_much_more_time_as_it_brings_bytes(tmp_path: Path) -> None:
    """What comes at a good rate is not cut, though it takes longer than a body may idle."""
    piece = b"x" * 10_000
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(post(b"", length=10 * len(piece)))
        for _ in range(10):
            await asyncio.sleep(0.08)
            await client.say(piece)

        status, _, body = await client.hear()
        assert (status, json.loads(body)["size"]) == (200, 10 * len(piece))


@pytest.mark.parametrize(
    "head",
    [
        b"POST /echo HTTP/1.1\r\n" + b"".join(b"h%d: 1\r\n" % n for n in range(30)) + b"\r\n",
        b"POST /echo HTTP/1.1\r\nh: " + b"x" * 3000,
        b"POST /echo?" + b"x" * 3000 + b" HTTP/1.1\r\n",
        b"x" * 3000,
    ],
)
async def test_more_headers_than_there_may_be_end_the_connection(
    tmp_path: Path, head: bytes
) -> None:
    """Whether they are many or long; who does not come to their end is not waited for."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(head)

        assert await client.problem() in {(431, "headers"), (400, "http")}


async def test_what_is_no_http_is_told_so(tmp_path: Path) -> None:
    """With a problem document too."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(b"\x16\x03\x01 hello\r\n\r\n")

        assert await client.problem() == (400, "http")


@pytest.mark.parametrize("name", ["authorization", "content-type", "host"])
async def test_a_header_that_decides_something_is_given_once(tmp_path: Path, name: str) -> None:
    """A proxy may have read the first where the edge would read the last; others may repeat."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        twice = [f"{name}: {text}".encode() for text in "ab"]
        await client.say(post(b"a", *twice))
        assert (await client.hear())[0] == 400

        await client.say(post(b"a", b"Prefer: a", b"Prefer: b"))
        assert (await client.hear())[0] == 200


async def test_what_follows_a_body_is_no_header(tmp_path: Path) -> None:
    """A trailer cannot say who calls, or what an event is."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.say(head + b"2\r\nhi\r\n0\r\nAuthorization: Bearer x\r\n\r\n")

        _, _, body = await client.hear()
        assert json.loads(body) == {"size": 2, "headers": ["host", "transfer-encoding"]}


@pytest.mark.parametrize(
    "end", [b"0\r\nh: " + b"x" * 3000, b"0\r\n" + b"h: 1\r\n" * 600, b"1;" + b"x" * 3000]
)
async def test_what_follows_or_frames_a_body_is_bounded(tmp_path: Path, end: bytes) -> None:
    """A trailer or a chunk's extension without end is not kept; bytes one by one are a body."""
    async with serving(tmp_path) as server:
        client, bytewise = await Client.of(server), await Client.of(server)
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await bytewise.say(head + b"1;a=b\r\nx\r\n" * 3000 + b"0\r\n\r\n")
        assert json.loads((await bytewise.hear())[2])["size"] == 3000

        await client.say(head + b"2\r\nhi\r\n")
        for start in range(0, len(end), 500):
            await client.say(end[start : start + 500])
        assert await client.problem() == (431, "headers")


async def test_a_head_that_comes_with_earlier_requests_is_not_too_long(tmp_path: Path) -> None:
    """What is counted is the head, not what came together with its first bytes."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        whole = post(b"x" * 5000) + post(b"last")
        await client.say(whole[:-30])
        assert (await client.hear())[0] == 200
        await client.say(whole[-30:])
        assert json.loads((await client.hear())[2])["size"] == 4


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    """Before the first request, and after an answer."""
    async with serving(tmp_path) as server:
        fresh, used = await Client.of(server), await Client.of(server)
        await used.say(post(b"a"))
        await used.hear()

        async with asyncio.timeout(5):
            assert [await fresh.over(), await used.over()] == [b"", b""]


async def test_a_request_may_take_its_time_to_be_answered(tmp_path: Path) -> None:
    """No deadline is for the server."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        asyncio.get_running_loop().call_later(3 * BOUNDS.idle_seconds, server.go.set)

        assert (await client.hear())[0] == 200


async def test_one_connection_too_many_is_told_to_come_later(tmp_path: Path) -> None:
    """Those that are there are served."""
    async with serving(tmp_path) as server:
        first = [await Client.of(server) for _ in range(BOUNDS.connections)]
        for client in first:
            await client.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server.waiting == len(first))
        late = await Client.of(server)

        status, headers, _ = await late.hear()
        assert (status, headers["retry-after"]) == (503, "1")
        server.go.set()
        assert [(await client.hear())[0] for client in first] == [200] * len(first)


async def test_who_does_nothing_makes_room_for_others(tmp_path: Path) -> None:
    """The one that was idle for longest goes; who waits for an answer stays."""
    async with serving(tmp_path) as server:
        busy = await Client.of(server)
        await busy.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server.waiting == 1)
        idle = [await Client.of(server) for _ in range(BOUNDS.connections - 1)]
        for client in idle:
            await client.say(post(b"a"))
            await client.hear()
        late = await Client.of(server)
        await late.say(post(b"late"))

        assert (await late.hear())[0] == 200
        assert await idle[0].over() == b""
        server.go.set()
        assert (await busy.hear())[0] == 200


class Shared(Quick):
    """Of which one address has only some places."""

    bounds = replace(BOUNDS, connections_each=2)


async def test_one_address_does_not_take_all_places(tmp_path: Path) -> None:
    """Who has its share is told to come later, or lets its own idle one go; others get in."""
    async with serving(tmp_path, Shared) as server:
        greedy = [await Client.of(server) for _ in range(2)]
        for client in greedy:
            await client.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server.waiting == 2)
        idle = await Client.of(server, "127.0.0.2")
        await idle.say(post(b"a"))
        await idle.hear()
        more = await Client.of(server)

        assert await more.problem() == (503, "connections")
        second, third = [await Client.of(server, "127.0.0.2") for _ in range(2)]
        assert await idle.over() == b""
        for client in (second, third):
            await client.say(post(b"a"))
            assert (await client.hear())[0] == 200
        server.go.set()
        assert [(await client.hear())[0] for client in greedy] == [200, 200]


async def test_bodies_share_the_memory_that_there_is_for_them(tmp_path: Path) -> None:
    """One address leaves some to others, who is over it comes again; answers give it back."""
    async with serving(tmp_path) as server:
        first, second = await Client.of(server), await Client.of(server)
        other = await Client.of(server, "127.0.0.2")
        await first.say(post(b"x" * 99_000, length=99_001))
        await second.say(post(b"x" * 60_000, length=60_001))
        status, headers, body = await second.hear()
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body)["type"] == "urn:tidegate:problem:bodies"

        await other.say(post(b"x" * 60_000))
        assert (await other.hear())[0] == 200
        await first.say(b"x")
        assert (await first.hear())[0] == 200
        again = await Client.of(server)
        await again.say(post(b"x" * 99_000))
        assert (await again.hear())[0] == 200


async def test_strangers_take_no_room_from_those_who_are_known(tmp_path: Path) -> None:
    """Who signs nothing can fill the memory for webhooks; who goes away gives it back."""
    async with serving(tmp_path) as server:
        large = post(b"x" * 99_000, length=99_001)
        strange = large.replace(b"/echo", b"/strange")
        strangers = [await Client.of(server, f"127.0.0.{n}") for n in (1, 2, 3)]
        for client in strangers:
            await client.say(strange)
        assert (await strangers[2].hear())[0] == 503
        known = await Client.of(server)
        await known.say(large + b"x")
        assert (await known.hear())[0] == 200

        for client in strangers:
            await client.close()
        again = await Client.of(server, "127.0.0.3")

        async def taken() -> bool:
            await again.say(strange + b"x")
            return (await again.hear())[0] == 200

        await until(taken)


async def test_every_answer_says_when_it_was_made(tmp_path: Path) -> None:
    """RFC 9110, 6.6.1; also one that the protocol gives by itself."""
    async with serving(tmp_path) as server:
        for status, said in ((200, post(b"a")), (400, b"no HTTP\r\n\r\n")):
            client = await Client.of(server)
            await client.say(said)
            found, headers, _ = await client.hear()
            made = parsedate_to_datetime(headers["date"]).timestamp()
            assert found == status
            assert abs(made - time.time()) < 10


async def test_who_takes_nothing_of_the_answer_is_let_go(tmp_path: Path) -> None:
    """What waits to be sent does not wait for ever."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        before = _cut("write")
        await client.say(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")

        await until(lambda: _cut("write") == before + 1, seconds=5)


async def test_compressed_bodies_are_not_read(tmp_path: Path) -> None:
    """What a small body would grow to is nobody's guess."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(post(b"\x1f\x8b", b"Content-Encoding: gzip"))

        status, headers, _ = await client.hear()
        assert (status, headers["accept-encoding"]) == (415, "identity")


async def test_bodies_in_a_transfer_coding_of_their_own_are_not_read(tmp_path: Path) -> None:
    """What is inside is not what was meant (RFC 9112, 6.1); named once or twice."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        chunks = b"\r\n1\r\na\r\n0\r\n\r\n"
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
        coding = b"Transfer-Encoding: "
        await client.say(head + coding + b"gzip, chunked\r\n" + chunks)
        assert (await client.hear())[0] == 501
        await client.say(head + coding + b"gzip\r\n" + coding + b"chunked\r\n" + chunks)
        assert (await client.hear())[0] == 400
        await client.say(head + coding + b"Chunked\r\n" + chunks)
        assert (await client.hear())[0] == 200


async def test_a_request_names_its_host(tmp_path: Path) -> None:
    """Of HTTP/1.1; that of 1.0 knew none."""
    async with serving(tmp_path) as server:
        for version, status in ((b"1.1", 400), (b"1.0", 200)):
            client = await Client.of(server)
            await client.say(b"POST /echo HTTP/%s\r\nContent-Length: 1\r\n\r\na" % version)
            assert (await client.hear())[0] == status


async def test_a_body_over_the_limit_is_told_so_also_to_who_still_sends(tmp_path: Path) -> None:
    """With its length or without; the client gets the answer, not a reset."""
    async with serving(tmp_path) as server:
        sized, chunked = await Client.of(server), await Client.of(server)
        large = b"x" * (LIMIT + 1)
        await sized.say(post(large))
        assert (await sized.hear())[0] == 413
        await sized.say(post(b"small"))
        assert (await sized.hear())[0] == 200

        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await chunked.say(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large))
        assert (await chunked.hear())[0] == 413


async def test_a_body_that_nobody_reads_is_not_read_for_ever(tmp_path: Path) -> None:
    """The answer is there at once; who goes on sending is let go after a while."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(post(b"x" * 1000, length=10_000_000))
        assert (await client.hear())[0] == 413
        for _ in range(60):
            await client.say(b"x" * 10_000)

        async with asyncio.timeout(5):
            assert await client.over() == b""


async def test_a_wish_for_another_protocol_is_not_heard(tmp_path: Path) -> None:
    """As curl wishes for HTTP/2: it is answered in HTTP/1.1."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        server.go.set()
        wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
        await client.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n" + wish + b"\r\n")

        assert (await client.hear())[0] == 200


async def test_a_wish_for_another_protocol_takes_no_body_away(tmp_path: Path) -> None:
    """As Java's client wishes with every request: the body is the request's, and so is the next."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        wish = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")
        await client.say(post(b"a body", *wish) + post(b"next", *wish)[:-1])
        await client.say(b"t" + post(b"last"))

        sizes = [json.loads((await client.hear())[2])["size"] for _ in range(3)]
        assert sizes == [6, 4, 4]


async def test_a_stream_ends_with_its_connection_also_where_a_request_waits_behind_it(
    tmp_path: Path,
) -> None:
    """Or its place would be taken for ever."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(b"GET /stay HTTP/1.1\r\nHost: x\r\n\r\n" + post(b"behind"))
        await client.reader.readuntil(b"here")
        client.writer.transport.abort()

        await until(lambda: server.left == 1, seconds=5)


async def test_what_is_wrong_with_a_request_is_not_told_of_an_earlier_one(tmp_path: Path) -> None:
    """Whoever sends without waiting takes the answers in order."""
    async with serving(tmp_path) as server:
        client = await Client.of(server)
        await client.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" + b" no HTTP\r\n\r\n")
        await until(lambda: server.waiting == 1)
        server.go.set()

        status, headers, body = await client.hear()
        assert (status, headers["connection"], body) == (200, "close", b'"waited"')
        assert await client.over() == b""


async def test_what_is_on_its_way_is_answered_when_the_server_stops(tmp_path: Path) -> None:
    """And nobody new comes in."""
    async with serving(tmp_path) as server:
        client, idle = await Client.of(server), await Client.of(server)
        await client.say(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server.waiting == 1)
        server.web.stop()

        assert await idle.over() == b""
        with pytest.raises(ConnectionError):
            await Client.of(server)
        server.go.set()
        status, headers, _ = await client.hear()
        assert (status, headers["connection"]) == (200, "close")
