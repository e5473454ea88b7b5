"""A source at work: what it reads is published, and where it is up to is saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import structlog
from prometheus_client import Counter, Gauge

from tidegate_bus.tasks import end
from tidegate_bus.telemetry import Health
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Receipt

from .pump import Item, Outcome, Pump

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.source")

EVENTS = Counter("tidegate_source_events", "What sources published, by what became of it", ["is"])
WAITING = Gauge("tidegate_source_waiting", "Events on their way to the bus")

_SAVE_SECONDS = 0.5
_DRAIN_SECONDS = 5.0

P = TypeVar("P")


class Source(Protocol[P]):
    """Where events come from."""

    def items(self) -> AsyncGenerator[Item[P] | None]:
        """What there is, in order, for ever.

        After None it goes on when everything before it is settled.
        """
        ...

    def settled(self, position: P) -> None:
        """Everything up to there has its verdict."""
        ...

    def save(self) -> None:
        """Keep what is settled; when this returns it is on the disk."""
        ...

    def facts(self) -> dict[str, Any]:
        """What `/healthz` shows of it."""
        ...


class Feed(Generic[P]):
    """Publishes what a source gives, until it is stopped.

    Args:
        source: where events come from.
        publish: waits for the verdict, however long the bus is away.
        health: beats while it runs.
        on_outcome: told what became of each event.
    """

    def __init__(
        self,
        source: Source[P],
        publish: Callable[[Envelope], Awaitable[Receipt]],
        health: Health,
        on_outcome: Callable[[Outcome[P]], None],
    ) -> None:
        self._source = source
        self._publish = publish
        self._health = health
        self._on_outcome = on_outcome
        self._reading: asyncio.Task[None] | None = None
        self._counts: dict[str, int] = {}
        self._unsaved = self._stopped = False

    async def run(self) -> None:
        """Read and publish. What was on its way at the end is published again the next time."""
        pump: Pump[P] = Pump(self._publish, self._settled)
        saving = asyncio.create_task(self._keep_saving(pump))
        working = asyncio.create_task(self._work(pump))
        try:
            await asyncio.wait({saving, working}, return_when=asyncio.FIRST_COMPLETED)
            for task in (saving, working):
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            await end(working)
            await end(saving)
            self._save()

    def stop(self) -> None:
        """Read no more; `run` returns when what was read is settled, or after some seconds."""
        self._stopped = True
        if self._reading:
            self._reading.cancel()

    async def _work(self, pump: Pump[P]) -> None:
        async with pump:
            self._reading = asyncio.create_task(self._read(pump))
            if self._stopped:
                self._reading.cancel()
            try:
                await asyncio.wait({self._reading})
            finally:
                await end(self._reading)
            if not self._reading.cancelled():
                self._reading.result()
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await pump.drain()
            except TimeoutError:
                _log.warning("not settled; published again the next time", events=len(pump))
                raise asyncio.CancelledError from None

    async def _read(self, pump: Pump[P]) -> None:
        async for item in self._source.items():
            if item is None:
                await pump.drain()
                self._save()
            else:
                await pump.put(item)

    async def _keep_saving(self, pump: Pump[P]) -> None:
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            self._save()
            WAITING.set(len(pump))
            self._health.beat(waiting=len(pump), **self._counts, **self._source.facts())

    def _settled(self, outcome: Outcome[P]) -> None:
        self._source.settled(outcome.item.position)
        self._unsaved = True
        self._counts[outcome.verdict] = self._counts.get(outcome.verdict, 0) + 1
        EVENTS.labels(outcome.verdict).inc()
        if outcome.why:
            envelope = outcome.item.envelope
            _log.warning(
                "not published", error=outcome.why, **({"id": envelope.id} if envelope else {})
            )
        self._on_outcome(outcome)

    def _save(self) -> None:
        if self._unsaved:
            self._unsaved = False
            self._source.save()
