"""`GET /v1/stream`: records as they are written, as server-sent events (HTML, section 9.2).

id: 4711                    the ledger sequence; `Last-Event-ID` resumes after it
event: allow                the verdict
data: {"v":1,…}             the record
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Iterable
from dataclasses import dataclass

from tidegate_bus.ledger import LedgerReader
from tidegate_bus.tasks import end
from tidegate_schemas.errors import NotAdmitted, TidegateError, Unauthenticated
from tidegate_schemas.subjects import Kind, Principal, Verdict

from .callers import Caller, Callers
from .exchange import Exchange
from .follower import Follower, Seen, look
from .messages import visible
from .problems import Problem, unfit

_STREAMS = 256
_OF_ONE = 16
_READ = 512
_BEAT_SECONDS = 15.0
_LEDGER_SECONDS = 5.0
_RETRY = b"retry: 1000\n\n"
_PARAMETERS = ("after", "by", "kind", "to", "verdict", "correlation")
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects would keep them
]
_SEQUENCE = re.compile(r"0|[1-9][0-9]{0,18}")
_LINE = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records; of what is None, any.

    Attributes:
        to: a destination, or what it begins with, and `.>`.
        correlation: the correlation id, or the id of what began it.
    """

    by: str | None = None
    kind: Kind | None = None
    to: str | None = None
    verdict: Verdict | None = None
    correlation: str | None = None

    @classmethod
    def parse(cls, query: dict[str, str]) -> Wanted:
        """Read the parameters of a query.

        Raises:
            Problem: 400; one is none of the words that it may be.
        """
        kind, verdict = query.get("kind"), query.get("verdict")
        if kind is not None and kind not in [*Kind]:
            raise _unknown("kind", kind, Kind)
        if verdict is not None and verdict not in [*Verdict]:
            raise _unknown("verdict", verdict, Verdict)
        return cls(
            query.get("by"),
            Kind(kind) if kind else None,
            query.get("to"),
            Verdict(verdict) if verdict else None,
            query.get("correlation"),
        )

    def matches(self, seen: Seen) -> bool:
        """Whether this is one of them."""
        found = seen.glance
        return (
            self.by in (None, found.by)
            and self.kind in (None, found.kind)
            and self.verdict in (None, found.verdict)
            and (self.to is None or _under(self.to, found.to))
            and (
                self.correlation is None
                or self.correlation in (found.envelope.correlationid, found.envelope.id)
            )
        )


class Stream:
    """Streams records.

    Args:
        callers: who listens.
        reader: of the ledger.
        follower: of its end.
        stopping: set when the edge is to end.
    """

    def __init__(
        self,
        callers: Callers,
        reader: LedgerReader,
        follower: Follower,
        stopping: asyncio.Event,
    ) -> None:
        self._callers = callers
        self._reader = reader
        self._follower = follower
        self._stopping = stopping
        self._open: Counter[Principal] = Counter()
        self._reading = asyncio.Lock()

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request, for as long as the client stays."""
        caller = await self._callers.of(exchange.header(b"authorization"), exchange.certificate)
        query = exchange.query(_PARAMETERS)
        wanted, after = Wanted.parse(query), _after(exchange, query)
        with self._place(caller.principal):
            async with self._follower.attend(_LEDGER_SECONDS):
                position = self._follower.last if after is None else after
                if position > self._follower.last:
                    detail = f"the ledger ends at {self._follower.last}"
                    raise unfit(detail, "parameter", "after")
                await self._serve(exchange, caller, wanted, position)

    async def _serve(
        self, exchange: Exchange, caller: Caller, wanted: Wanted, position: int
    ) -> None:
        send, loop = exchange.send, asyncio.get_running_loop()
        await exchange.begin(_HEADERS)
        if exchange.scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.body", "body": _RETRY, "more_body": True})
        gone = asyncio.create_task(exchange.left())
        gone.add_done_callback(lambda _: self._follower.wake())
        asked = loop.time()
        try:
            async for seen in self._from(position):
                if gone.done() or self._stopping.is_set():
                    break
                if loop.time() - asked > _BEAT_SECONDS:
                    asked = loop.time()
                    if not await self._still(exchange):
                        break
                shown = [_event(s) for s in seen if wanted.matches(s) and _may_see(caller, s)]
                if seen:
                    position = seen[-1].stored.seq
                if shown or not seen:  # a beat moves on where a client would resume
                    text = b"".join(shown) or b": beat\nid: %d\n\n" % position
                    await send({"type": "http.response.body", "body": text, "more_body": True})
            if not gone.done():
                await send({"type": "http.response.body", "body": b""})
        finally:
            await end(gone)

    async def _from(self, position: int) -> AsyncGenerator[list[Seen]]:
        """The records after one, some at a time; an empty list when there was none for long."""
        while True:
            seen = self._follower.after(position)
            if seen is None:
                async with self._reading:  # history costs: one at a time reads it
                    seen = await self._read(position)
            elif not seen:
                await self._follower.grow(position, _BEAT_SECONDS)
                seen = self._follower.after(position) or []
            if seen:
                position = seen[-1].stored.seq
            yield seen

    async def _read(self, position: int) -> list[Seen]:
        """Some records out of the ledger."""
        found: list[Seen] = []
        async for stored in self._reader.read(position + 1, batch=_READ):
            found.append(look(stored))
            if len(found) == _READ:
                break
        return found

    async def _still(self, exchange: Exchange) -> bool:
        """Whether who listens may still come in."""
        try:
            await self._callers.of(exchange.header(b"authorization"), exchange.certificate)
        except (Unauthenticated, NotAdmitted):
            return False
        except TidegateError:
            pass  # too often, or it cannot be found out now
        return True

    @contextlib.contextmanager
    def _place(self, principal: Principal) -> Generator[None]:
        """One of the places that there are."""
        if self._open.total() >= _STREAMS or self._open[principal] >= _OF_ONE:
            detail = f"{_OF_ONE} of a principal, {_STREAMS} in all"
            raise Problem(429, "streams", "Too many streams", detail, retry_after=_BEAT_SECONDS)
        self._open[principal] += 1
        try:
            yield
        finally:
            self._open[principal] -= 1


def _after(exchange: Exchange, query: dict[str, str]) -> int | None:
    """Where to resume: what a client has seen last goes before what its address says."""
    last, parameter = exchange.header(b"last-event-id"), query.get("after")
    text = last or parameter
    if text is None:
        return None
    if not _SEQUENCE.fullmatch(text):
        detail = f"{text[:40]!r} is no sequence of the ledger"
        raise (
            unfit(detail, "header", "Last-Event-ID")
            if last
            else unfit(detail, "parameter", "after")
        )
    return int(text)


def _event(seen: Seen) -> bytes:
    lines = _LINE.sub(b"\ndata: ", seen.stored.payload)  # senders may break lines in their JSON
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        seen.stored.seq,
        seen.glance.verdict.encode(),
        lines,
    )


def _may_see(caller: Caller, seen: Seen) -> bool:
    return visible(caller, seen.glance.by, seen.glance.kind, seen.glance.to)


def _under(pattern: str, to: str) -> bool:
    return to.startswith(pattern[:-1]) if pattern.endswith(".>") else to == pattern


def _unknown(name: str, value: str, words: Iterable[str]) -> Problem:
    detail = f"{name}={value[:40]}; it is one of {', '.join(words)}"
    return unfit(detail, "parameter", name)
