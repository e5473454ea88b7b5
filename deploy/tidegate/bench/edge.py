"""The HTTP edge beside an application that does nothing: requests a second, and how long each took.

The same requests, of the same clients, on the same server with the same settings, in the same run.
Rounds take turns: what else the machine does hits all alike. Each begins when the gateway has
nothing left to do of the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tidegate.bus import Bus
from tidegate.figures import percentile
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate.tokens import Tokens
from tidegate_bus.broker.lifeline import share_evenly
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import OPERATOR

from . import PROJECT
from .load import LOAD, Figure, OnProgress
from .machine import processor_seconds
from .requests import Answer, Client, request

_WARM = 200
_START_SECONDS = 20.0
_LOOK_SECONDS = 0.05


@dataclass(slots=True)
class Rounds:
    """What was measured of one of them.

    Attributes:
        rates: requests a second, of each round.
        seconds: that each request took.
        used: seconds of processor time of the server, without what the bus does with an event.
            Where cores are few, the rate tells of both.
    """

    rates: list[float] = field(default_factory=list[float])
    seconds: list[float] = field(default_factory=list[float])
    used: float = 0.0

    @property
    def rate(self) -> float:
        """Of the round in the middle."""
        return statistics.median(self.rates)

    def figures(self, name: str) -> list[Figure]:
        """Rate, p50, p99 and processor time a request."""
        took = [percentile(self.seconds, percent) for percent in (50, 99)]
        p50, p99 = (math.nan if s is None else s * 1000 for s in took)
        return [
            Figure(name, self.rate, "requests/s"),
            Figure(f"{name}, p50", p50, "ms"),
            Figure(f"{name}, p99", p99, "ms"),
            Figure(f"{name}, server's time", self.used / len(self.seconds) * 1e6, "µs/request"),
        ]


async def edge(
    state: Path,
    requests: int,
    rounds: int,
    clients: int,
    size: int,
    on_progress: OnProgress,
) -> list[Figure]:
    """Post events to the edge and to a bare application, in turns.

    Args:
        state: an empty folder.
        requests: of a round.
        rounds: of each.
        clients: connections that post at once, one request each at a time.
        size: bytes of data an event.
        on_progress: told how many requests are answered.

    Raises:
        Unavailable: one of them answered otherwise than it should.
    """
    share_evenly()  # who asks takes the processor from nobody either
    project = load_project(PROJECT, state)
    async with (
        _bare(state / "bare.url") as (bare, bare_pid),
        Stack(project, agents=set(), faces=("edge",)) as stack,
        await Bus.of_project(str(OPERATOR), PROJECT, state) as operator,
    ):
        own = project.state.edge_url.read_text().strip()
        _, token = Tokens(project.state.tokens).add(Principal.parse(LOAD), now=time.time_ns())
        load = _Load(token, size, clients)
        own_pid = next(child.pid for child in stack.children if child.name == "edge")
        assert own_pid
        waits = {
            "bare": (bare, bare_pid, "accepted", 202),
            "edge, accepted": (own, own_pid, "accepted", 202),
            "edge, verdict": (own, own_pid, "verdict", 200),
        }
        found = {name: Rounds() for name in waits}
        done = 0
        for url, _, wait, status in waits.values():
            await load.post(url, wait, status, _WARM)
        for _ in range(rounds):
            for name, (url, pid, wait, status) in waits.items():
                await _quiet(operator)
                before = processor_seconds(pid)
                found[name].seconds += await load.post(url, wait, status, requests)
                found[name].rates.append(requests / load.took)
                await _quiet(operator)  # what follows an answer is a part of it
                found[name].used += processor_seconds(pid) - before
                done += requests
                on_progress(done)
    figures = [figure for name, measured in found.items() for figure in measured.figures(name)]
    return figures + [
        Figure(f"{name} / bare", measured.rate / found["bare"].rate, "")
        for name, measured in found.items()
        if name != "bare"
    ]


class _Poster(Client):
    """Posts one request after the other, without a task that wakes up for each."""

    def __init__(self) -> None:
        """Strictly private: use `open`."""
        super().__init__()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def post(
        self, post: Callable[[], bytes], left: Iterator[int], status: int, seconds: list[float]
    ) -> asyncio.Future[None]:
        """Begin.

        Args:
            post: makes a request.
            left: as many as there are requests for all.
            status: of each answer.
            seconds: gets what each took.

        Returns:
            Done when nothing is left; fails with `Unavailable` if an answer is another one.
        """
        self._post, self._left, self._status, self._seconds = post, left, status, seconds
        self._done = asyncio.get_running_loop().create_future()
        self._next()
        return self._done

    def _next(self) -> None:
        if next(self._left, None) is None:
            self._done.set_result(None)
            return
        what = self._post()
        self._began = time.perf_counter()
        self.send(what)

    def answered(self, answer: Answer) -> None:
        """Go on."""
        self._seconds.append(time.perf_counter() - self._began)
        if self._done.done():
            return
        if answer.status == self._status:
            self._next()
        else:
            said = f"it said {answer.status}: {answer.body[:200]!r}"
            self._done.set_exception(Unavailable(said))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody answers any more."""
        if not self._done.done():
            self._done.set_exception(Unavailable("the connection was lost"))


class _Load:
    """Clients that post events, each another one as soon as it has its answer."""

    def __init__(self, token: str, size: int, clients: int) -> None:
        text = "x" * max(0, size - len('{"payload":""}'))
        event = Envelope.new("bench.event", {"payload": text}, source="tidegate:bench", id="@" * 12)
        self._before, self._after = encode(event).split(b"@" * 12)
        self._token = token
        self._clients = clients
        self._numbers = count()
        self.took = 0.0
        """Seconds of the last round."""

    async def post(self, url: str, wait: str, status: int, requests: int) -> list[float]:
        """The seconds that each of so many requests took."""
        post = self._requests(url, wait)
        seconds: list[float] = []
        posters: list[_Poster] = []
        try:
            for _ in range(self._clients):
                posters.append(await _Poster.open(url))  # noqa: PERF401 - some may be open already
            for one in posters:  # the server takes its connections, which is no part of it
                await one.post(post, iter(range(1)), status, [])
            left = iter(range(requests))
            began = time.perf_counter()
            await asyncio.gather(*(one.post(post, left, status, seconds) for one in posters))
            self.took = time.perf_counter() - began
        finally:
            for one in posters:
                one.close()
        return seconds

    def _requests(self, url: str, wait: str) -> Callable[[], bytes]:
        whole = request(
            f"/v1/events?wait={wait}",
            self._before + b"@" * 12 + self._after,
            ("host", url.removeprefix("http://")),
            ("authorization", f"Bearer {self._token}"),
            ("content-type", "application/cloudevents+json"),
        )
        before, after = whole.split(b"@" * 12)
        return lambda: before + b"%012d" % next(self._numbers) + after


async def _quiet(operator: Bus) -> None:
    """Wait until the ledger does not grow any more."""
    before = -1
    while (now := last.seq if (last := await operator.ledger.last()) else 0) != before:
        before = now
        await asyncio.sleep(10 * _LOOK_SECONDS)


def _written(url: Path) -> str:
    """What a server has written of itself; nothing if it did not yet."""
    return url.read_text().strip() if url.exists() else ""


@contextlib.asynccontextmanager
async def _bare(written: Path) -> AsyncGenerator[tuple[str, int]]:
    """Run the application that does nothing; where it listens, and its pid."""
    command = (sys.executable, "-m", "tidegate.bench.bare", str(written))
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not (url := _written(written)):
                if process.returncode is not None:
                    raise Unavailable("the application that does nothing has ended")
                await asyncio.sleep(_LOOK_SECONDS)
        yield url, process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
