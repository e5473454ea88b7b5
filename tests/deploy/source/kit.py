"""Sources at work on a bus of the test's own, which remembers ids as the gateway does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from support import until
from tidegate.source.feed import Feed, Source
from tidegate.source.pump import Outcome
from tidegate_bus.telemetry import Health
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict


class Ledger:
    """What was published: one entry an id."""

    def __init__(self) -> None:
        self.events: dict[str, Envelope] = {}
        self.repeats = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.outcomes: list[Outcome[Any]] = []

    async def publish(self, envelope: Envelope) -> Receipt:
        """As a publisher does it; waits while it does not answer."""
        repeated = envelope.id in self.events
        self.repeats += repeated
        self.events.setdefault(envelope.id, envelope)
        await self.answers.wait()
        verdict = Verdict.DUPLICATE if repeated else Verdict.ALLOW
        return Receipt(envelope.id, verdict, len(self.events), "", 1)

    @property
    def data(self) -> list[Any]:
        """Of the events, in the order in which they came first."""
        return [event.payload() for event in self.events.values()]

    @contextlib.asynccontextmanager
    async def fed(self, source: Source[Any]) -> AsyncGenerator[None]:
        """Run a source, and stop it as SIGTERM does."""
        feed = Feed(source, self.publish, Health(), self.outcomes.append)
        running = asyncio.create_task(feed.run())
        try:
            yield
        finally:
            feed.stop()
            await running

    async def killed(self, source: Source[Any], events: int = 0) -> None:
        """Let a source publish so many; it is killed before it saves anything of that.

        With none, it is killed once it has looked.
        """
        async with contextlib.aclosing(source.items()) as items:
            async for item in items:
                if item and item.envelope:
                    await self.publish(item.envelope)
                    events -= 1
                if events <= 0:
                    return

    async def has(self, *data: Any) -> None:
        """Wait until exactly these are published."""
        await until(lambda: len(self.data) >= len(data))
        assert list(data) == self.data
