"""HTTP/1.1 from strangers: uvicorn's reader, with bounds on what it takes and how long.

Whoever sends slowly, too much or nothing is let go. One timer a connection, which looks only when
something would be late: a request costs no timer.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import Any, ClassVar, cast
from urllib.parse import unquote

import httptools
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from .bodies import peer
from .exchange import REPLY
from .problems import KIND, Problem
from .tls import subject_shown

CUT = Counter("tidegate_edge_cut", "Connections that were let go, by the reason", ["why"])


_FRAMES = 16
"""Bytes that a byte of a body may come with at most, in a chunk of its own; itself is one."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a connection, and of all of them together. Times are seconds.

    Attributes:
        connections: at most so many; for a further one the one that was idle for longest is let
            go, and where none is idle it is told to come later.
        connections_each: of one address, or one network of IPv6 (/64), so that others get in.
        head_bytes: of the request line and all headers.
        headers: how many.
        head_seconds: from the first byte of a request to the end of its headers.
        body_seconds: for the body, and one more for each `body_rate` bytes that have come.
        body_rate: bytes.
        unread: bytes of a body that are read after the answer, so that a client that still sends
            gets to see it; then the connection ends.
        idle_seconds: between two requests, and before the first.
        write_seconds: for which a client may take nothing of what is sent to it.
    """

    connections: int = 2048
    connections_each: int = 1024
    head_bytes: int = 32 * 1024
    headers: int = 100
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    body_rate: int = 16 * 1024
    unread: int = 8 * 1024 * 1024
    idle_seconds: float = 75.0
    write_seconds: float = 30.0


class _TooMuch(Exception):
    pass


class EdgeProtocol(HttpToolsProtocol):
    """One connection."""

    bounds: ClassVar[Bounds] = Bounds()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.peer = ""
        self._certificate: str | None = None
        self._due: float | None = None
        self._late = "idle"
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._unread = 0
        self._framing = 0
        self._ended = False
        self._unwritten: float | None = None
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered; others may wait behind it."""
        self._wishes = False
        self._app: Any = self.app

    def connection_made(  # type: ignore[override]  # as in uvicorn
        self, transport: asyncio.Transport
    ) -> None:
        """Take a connection, if there is room for it."""
        super().connection_made(transport)
        self.peer = peer(self.client)
        crowd = self._crowd()
        if crowd and not _make_room(crowd):
            detail = f"{len(crowd) - 1} are open"
            problem = Problem(503, "connections", "Too many connections", detail, retry_after=1)
            self._refuse(problem, "connections")
            return
        self._certificate = subject_shown(transport)
        self._wait("idle", self.bounds.idle_seconds)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._answered:  # uvicorn tells only the last request, and this may be an earlier one
            self._answered.disconnected = True
            self._answered.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def _crowd(self) -> list[EdgeProtocol]:
        """Those of whom one has to go, so that this one can stay."""
        everybody, bounds = cast("set[EdgeProtocol]", self.connections), self.bounds
        if len(everybody) > bounds.connections_each:
            own = [one for one in everybody if one.peer == self.peer]
            if len(own) > bounds.connections_each:
                return own
        return list(everybody) if len(everybody) > bounds.connections else []

    def due(self) -> float:
        """When it is let go, by the clock of the event loop."""
        return self._due or 0.0

    def is_idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""
        return self._due is not None and self._late == "idle" and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """Read some of a request."""
        if self.transport.is_closing():
            return
        assert self.parser, "it is there as long as the connection"
        if not self._in_head and not self._in_body:
            self._begin_head()
        try:
            self._ended = False
            self._feed(data)
            if not self._ended:  # else some of it was of earlier requests
                self._count(len(data))
        except (httptools.HttpParserError, _TooMuch) as error:
            self._refuse(_refusal(error, self.bounds), "head" if self._in_head else "malformed")

    def _count(self, size: int) -> None:
        """Bound what is kept of a head, and of that which is in a body and none of it.

        The parser keeps a trailer until it is complete, and for each byte of a body there may be
        a line that says so.
        """
        if self._in_head:
            self._head_bytes += size
            if self._head_bytes > self.bounds.head_bytes:
                raise _TooMuch
        else:
            self._framing += size
            if self._framing > self.bounds.head_bytes:
                raise _TooMuch

    def _feed(self, data: bytes) -> None:
        """Parse some, and where a client wishes for another protocol, as if it did not.

        It is answered in HTTP/1.1 (RFC 9110, 7.8), with the body that it has sent: the parser
        takes what follows such a head for the other protocol, so it is given it once more.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as wish:
                if not self._wishes:
                    raise httptools.HttpParserError("no such method here") from None
                data = self._head() + data[wish.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            else:
                return

    def _head(self) -> bytes:
        """The head of a request again, without the wish."""
        version = self.parser.get_http_version().encode()
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        kept = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([line, *kept, b"\r\n"])

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._begin_head()
        self._in_body = False

    def on_headers_complete(self) -> None:
        """Hand the request over."""
        parser, headers = self.parser, self.headers
        size = len(self.url)
        for name, value in headers:
            size += len(name) + len(value)
        if size > self.bounds.head_bytes or len(headers) > self.bounds.headers:
            raise _TooMuch
        method, version = parser.get_method(), parser.get_http_version()
        self._wishes = parser.should_upgrade() and method != b"CONNECT"
        if self._wishes:
            return
        path, raw_path, query = _target(self.url)
        state = self.app_state.copy()
        if self._certificate is not None:
            state["certificate"] = self._certificate
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "root_path": "",
            "headers": headers,
            "state": state,
            "method": method.decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
        }
        self.scope = scope
        self.headers = []  # what follows a body is no header
        self._in_head, self._in_body = False, True
        self._wait("body", self.bounds.body_seconds)
        before = self.cycle
        cycle = self.cycle = _Cycle(self, version != "1.0" and parser.should_keep_alive())
        state[REPLY] = cycle.reply
        if not before or before.response_complete:  # it is None before the first
            self._answered = cycle
            self._answer(cycle)
        else:  # one after the other
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self._app))

    def _answer(self, cycle: RequestResponseCycle) -> None:
        task = self._doing = self.loop.create_task(self._run(cycle))
        self.tasks.add(task)

    async def _run(self, cycle: RequestResponseCycle) -> None:
        task = self._doing  # it begins before the next one is made
        await cycle.run_asgi(self._app)
        self.tasks.discard(task)

    def on_body(self, body: bytes) -> None:
        """Take some of the body, and give it time for some more."""
        if self._due is not None:
            self._due += len(body) / self.bounds.body_rate
        self._framing -= _FRAMES * len(body)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > self.bounds.unread:
                CUT.labels("unread").inc()
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here; how long the answer takes is not for the client to say."""
        if self._wishes:
            return
        self._in_head = self._in_body = False
        self._head_bytes = self._unread = self._framing = 0
        self._ended = True
        self._due = None
        if self.cycle.response_complete:
            self._wait("idle", self.bounds.idle_seconds)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with a request that is here already, or wait for the next one.

        As in uvicorn, but for its timer: here one looks after everything.
        """
        self.server_state.total_requests += 1
        self._answered = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._answered, _ = self.pipeline.pop()
            self._answer(self._answered)
        elif not self._in_head and not self._in_body:
            self._wait("idle", self.bounds.idle_seconds)

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        super().pause_writing()
        self._unwritten = self.loop.time() + self.bounds.write_seconds

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._unwritten = None

    def _begin_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._wait("head", self.bounds.head_seconds)

    def _wait(self, late: str, seconds: float) -> None:
        self._late, self._due = late, self.loop.time() + seconds

    def _look(self) -> None:
        """Let go of who is late; come again when something else would be."""
        now, bounds = self.loop.time(), self.bounds
        if self._unwritten is not None and now >= self._unwritten:
            CUT.labels("write").inc()
            self.transport.abort()
            return
        # Where reading is paused it is not the client who is late.
        if self._due is not None and now >= self._due and not self.flow.read_paused:
            if self._late == "idle" or (self._in_body and self.cycle.response_complete):
                self.transport.close()
            else:
                detail = f"the {self._late} of the request did not come in time"
                self._refuse(Problem(408, "too-slow", "Too slow", detail), self._late)
            return
        soon = min(bounds.head_seconds, bounds.body_seconds, bounds.write_seconds) / 4
        self._timer = self.loop.call_later(soon, self._look)

    def _refuse(self, problem: Problem, why: str) -> None:
        """Say what is wrong, and close; but an earlier request gets its own answer."""
        CUT.labels(why).inc()
        earlier = self._answered
        if (
            earlier
            and not earlier.response_started
            and (self._in_head or earlier is not self.cycle)
        ):
            self._due = None
            self.pipeline.clear()
            earlier.keep_alive = False
            self.flow.pause_reading()
            return
        if self.cycle and not self.cycle.response_complete:  # it is None before the first
            self.cycle.disconnected = True  # nobody else answers now
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        body = problem.body()
        lines = [STATUS_LINE[problem.status]]
        headers = [("content-type", KIND), ("content-length", str(len(body))), *problem.headers]
        headers.append(("connection", "close"))
        lines += [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers]
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        self.transport.close()


def _make_room(crowd: list[EdgeProtocol]) -> bool:
    """Let go of who was idle for longest, so that nobody keeps others out by doing nothing."""
    idle = [one for one in crowd if one.is_idle()]
    if not idle:
        return False
    CUT.labels("room").inc()
    min(idle, key=EdgeProtocol.due).transport.close()
    return True


def _refusal(error: Exception, bounds: Bounds) -> Problem:
    """What is told of a request that cannot be read."""
    if _TooMuch in (type(error), type(error.__context__)):
        detail = f"at most {bounds.headers} headers, of {bounds.head_bytes} bytes in all"
        return Problem(431, "headers", "Too many headers", detail)
    return Problem(400, "http", "Not HTTP", "the request cannot be read as HTTP/1.1")


@functools.lru_cache(maxsize=256)
def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, the same as it was sent, and query."""
    parsed = httptools.parse_url(url)
    return unquote(parsed.path.decode("ascii")), parsed.path, parsed.query or b""


class _Cycle(RequestResponseCycle):
    """A request and its answer."""

    def __init__(self, protocol: EdgeProtocol, keep_alive: bool) -> None:
        super().__init__(
            protocol.scope,
            protocol.transport,
            protocol.flow,
            protocol.logger,
            protocol.access_logger,
            protocol.access_log,
            protocol.server_state.default_headers,
            asyncio.Event(),
            protocol.expect_100_continue,
            keep_alive,
            protocol.on_response_complete,
        )

    def reply(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send an answer in one piece, which costs a third of what two messages of ASGI cost.

        See `send`, which it stands for.
        """
        if self.disconnected or self.response_started or self.flow.write_paused:
            return False
        lines = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            if HEADER_VALUE_RE.search(value):
                return False  # it is told why not
            if name == b"connection":
                self.keep_alive = False
            else:
                lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if self.scope["method"] != "HEAD":
            lines.append(body)
        self.transport.write(b"".join(lines))
        self.response_started = self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True
