"""Keeps the live figures fresh: what the ledger says, what waits before it, how processes are."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog
from nats.aio.msg import Msg

from tidegate.processes import running
from tidegate.project import State
from tidegate.vitals import Vital, ask
from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.connection import Connection
from tidegate_schemas import subjects
from tidegate_schemas.errors import TidegateError

from .flow import Flow

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.console")

_STEP_SECONDS = 0.2
"""Between two looks at a ledger that grows; each takes all that is new."""
_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 1.0
_HEALTH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the stack.

    Attributes:
        name: `gateway`, or the `team.name` of an agent.
        pid: of it.
        vital: what it says of itself.
    """

    name: str
    pid: int
    vital: Vital


class Follower:
    """Follows the ledger of a stack.

    Args:
        access: how to read the ledger.
        connection: on which to hear that it grew, and to look at the ingress.
        state: where processes write down that they are there.

    Attributes:
        sample: the figures, as of the last look.
        looked: notified with each look.
        processes: those that run.
        backlog: submissions without a record; None while that cannot be told.
        trouble: why nothing is read; empty while it is.
        caught_up: whether it has come to the end of the ledger once.
    """

    def __init__(
        self, access: Access, hints: Connection, connection: Connection, state: State
    ) -> None:
        self.sample = Flow().sample(time.time_ns())
        self.looked = asyncio.Condition()
        self.processes: tuple[Process, ...] = ()
        self.backlog: int | None = None
        self.trouble = ""
        self.caught_up = False
        self._flow = Flow()
        self._reader = BulkReader(access)
        self._hints = hints
        self._connection = connection
        self._state = state

    def seen(self, sender: str) -> tuple[int, int] | None:
        """Sequence and time (ns since 1970) of the last record of a sender."""
        return self._flow.seen.get(sender)

    async def run(self) -> None:
        """Follow for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._look())
        finally:
            self._reader.close()

    async def _follow(self) -> None:
        hint = asyncio.Event()

        async def grown(_: Msg) -> None:
            hint.set()

        await self._hints.listen(subjects.tail(0), grown)
        while True:
            hint.clear()
            try:
                await asyncio.to_thread(self._read)
                self.trouble, self.caught_up = "", True
            except TidegateError as error:
                if str(error) != self.trouble:
                    _log.error("the ledger is not followed", error=str(error))
                self.trouble = str(error)
                await asyncio.sleep(_AGAIN_SECONDS)
            async with self.looked:
                self.looked.notify_all()
            await asyncio.sleep(_STEP_SECONDS)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await hint.wait()
            except TimeoutError:
                pass

    def _read(self) -> None:
        """All that is new. In a thread: others see what it left behind, never the fold at work."""
        for entries in self._reader.read(self._flow.seq + 1):
            self._flow.add(entries)
            self.sample = self._flow.sample(time.time_ns())
        self.sample = self._flow.sample(time.time_ns())

    async def _look(self) -> None:
        due = 0.0
        while True:
            try:
                ingress = await self._connection.stream_state(subjects.ingress_stream(0))
                self.backlog = max(ingress.last_seq - self.sample.submitted, 0)
            except TidegateError:
                self.backlog = None
            if time.monotonic() >= due:
                due = time.monotonic() + _HEALTH_SECONDS
                self.processes = await asyncio.to_thread(_processes, self._state)
            await asyncio.sleep(_STEP_SECONDS * 2)


def _processes(state: State) -> tuple[Process, ...]:
    return tuple(Process(info.name, info.pid, ask(info.telemetry)) for info in running(state))
