"""Keeps the live figures fresh: what the ledger says, what waits before it, how processes are."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass

from tidegate.index import Batch, IndexKeeper, LedgerIndex
from tidegate.processes import running
from tidegate.project import State
from tidegate.vitals import Vital, ask
from tidegate_bus.connection import Connection
from tidegate_schemas import subjects
from tidegate_schemas.errors import TidegateError, Unavailable

from .flow import Flow

_STEP_SECONDS = 0.2
"""Between two looks at a ledger that grows; each takes all that is new."""
_LOOK_SECONDS = 1.0
_HEALTH_SECONDS = 2.0
_UNTIL_SECONDS = 2.0


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
        keeper: of the index; tells of every record, also to this.
        flow: the figures so far.
        index: that pages search in.
        connection: on which to look at the ingress.
        state: where processes write down that they are there.

    Attributes:
        sample: the figures, as of the last look.
        looked: notified with each look.
        processes: those that run.
        backlog: submissions without a record; None while that cannot be told.
        behind: why what was recorded last is not found by searches; empty while it is.
    """

    def __init__(
        self,
        keeper: IndexKeeper,
        flow: Flow,
        index: LedgerIndex,
        connection: Connection,
        state: State,
    ) -> None:
        self.sample = flow.sample(time.time_ns())
        self.looked = asyncio.Condition()
        self.processes: tuple[Process, ...] = ()
        self.backlog: int | None = None
        self.behind = ""
        self._flow = flow
        self._index = index
        self._heard = 0
        self._measuring = threading.Lock()
        self._keeper = keeper
        self._connection = connection
        self._state = state

    @property
    def trouble(self) -> str:
        """Why nothing is read; empty while it is."""
        return self._keeper.trouble

    @property
    def caught_up(self) -> bool:
        """Whether it has come to the end of the ledger once."""
        return self._keeper.ready

    def seen(self, sender: str) -> tuple[int, int] | None:
        """Sequence and time (ns since 1970) of the last record of a sender."""
        return self._flow.seen.get(sender)

    async def until(self, seq: int) -> None:
        """Wait until a record is in the figures, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_UNTIL_SECONDS), self.looked:
                await self.looked.wait_for(lambda: self.sample.seq >= seq)

    async def run(self) -> None:
        """Follow for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._look())

    async def _follow(self) -> None:
        due = 0.0
        while True:
            if self._flow.seq != self.sample.seq or time.monotonic() >= due:
                due = time.monotonic() + _LOOK_SECONDS  # rates fall also when nothing comes
                await asyncio.to_thread(self._measure)
                async with self.looked:
                    self.looked.notify_all()
            await asyncio.sleep(_STEP_SECONDS)

    def __call__(self, batch: Batch) -> None:
        """All that is new. In a thread: others see what it left behind, never the fold at work."""
        with self._measuring:
            self._flow.add(batch.entries)

    def _measure(self) -> None:
        with self._measuring:
            self.sample = self._flow.sample(time.time_ns())

    async def _look(self) -> None:
        due = 0.0
        while True:
            try:
                ingress = await self._connection.stream_state(subjects.ingress_stream(0))
                behind = max(ingress.last_seq - self.sample.submitted, 0)
                self.backlog = behind if self.caught_up else None
            except TidegateError:
                self.backlog = None
            if time.monotonic() >= due:
                due = time.monotonic() + _HEALTH_SECONDS
                self.processes = await asyncio.to_thread(_processes, self._state)
                self.behind = self._behind()
            await asyncio.sleep(_STEP_SECONDS * 2)

    def _behind(self) -> str:
        """What the index lacks of what was there at the look before: it has had the time."""
        heard, self._heard = self._heard, self._keeper.seq
        try:
            missing = heard - self._index.seq()
        except Unavailable as error:
            return f"the index cannot be read: {error}"
        if missing <= 0:
            return ""
        records = "record is" if missing == 1 else "records are"
        why = f"; it cannot be written: {self._keeper.unwritten}" if self._keeper.unwritten else ""
        return f"{missing:,} {records} not in the index yet{why}"


def _processes(state: State) -> tuple[Process, ...]:
    return tuple(Process(info.name, info.pid, ask(info.telemetry)) for info in running(state))
