"""Publishing what comes in order, some at once, and telling in the same order what became of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, Refused, Unopened
from tidegate_schemas.record import Receipt

P = TypeVar("P")

WINDOW = 256
"""How many may be on their way at once."""


@dataclass(frozen=True, slots=True)
class Item(Generic[P]):
    """One event to publish, or what could not become one.

    Attributes:
        position: where a source is up to once this is settled.
        envelope: None if there is a problem.
        problem: what is wrong with what was read.
    """

    position: P
    envelope: Envelope | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[P]):
    """What became of an item: a receipt, or an error, or its own problem."""

    item: Item[P]
    receipt: Receipt | None = None
    error: Refused | InvalidInput | Unopened | None = None

    @property
    def verdict(self) -> str:
        """That of the bus; `refused` if it said no, `bad` for what never got there."""
        if self.receipt:
            return str(self.receipt.verdict)
        return "refused" if isinstance(self.error, Refused) else "bad"

    def told(self) -> dict[str, Any]:
        """For programs: verdict, and the id, the record and the error where there is one."""
        seq = self.receipt.seq if self.receipt else getattr(self.error, "seq", None)
        envelope = self.item.envelope
        known = {"id": envelope.id if envelope else None, "seq": seq, "error": self.why or None}
        return {"verdict": self.verdict} | {k: v for k, v in known.items() if v is not None}

    @property
    def why(self) -> str:
        """What is wrong; empty where nothing is."""
        return self.item.problem or (str(self.error) if self.error else "")


@dataclass(slots=True, eq=False)
class _Slot(Generic[P]):
    item: Item[P]
    outcome: Outcome[P] | None = None


class Pump(Generic[P]):
    """Publishes items, at most a window of them at once. Use it in `async with`.

    Args:
        publish: publishes an envelope and returns its receipt. What it raises other than that
            this one message is wrong or refused ends the pump.
        on_settled: called with each outcome, in the order in which the items were put.
        window: how many may be on their way.
    """

    def __init__(
        self,
        publish: Callable[[Envelope], Awaitable[Receipt]],
        on_settled: Callable[[Outcome[P]], None],
        window: int = WINDOW,
    ) -> None:
        self._publish = publish
        self._on_settled = on_settled
        self._free = asyncio.Semaphore(window)
        self._slots: deque[_Slot[P]] = deque()
        self._tasks = asyncio.TaskGroup()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """How many are put and not settled."""
        return len(self._slots)

    async def put(self, item: Item[P]) -> None:
        """Publish one more; waits while the window is full."""
        await self._free.acquire()
        slot = _Slot(item)
        self._slots.append(slot)
        self._empty.clear()
        if item.envelope is None:
            self._settle(slot, Outcome(item))
        else:
            self._tasks.create_task(self._send(slot, item.envelope))

    async def drain(self) -> None:
        """Wait until all that was put is settled."""
        await self._empty.wait()

    async def _send(self, slot: _Slot[P], envelope: Envelope) -> None:
        try:
            outcome = Outcome(slot.item, await self._publish(envelope))
        except (Refused, InvalidInput, Unopened) as error:
            outcome = Outcome(slot.item, error=error)
        self._settle(slot, outcome)

    def _settle(self, slot: _Slot[P], outcome: Outcome[P]) -> None:
        slot.outcome = outcome
        self._free.release()
        while self._slots and (first := self._slots[0].outcome):
            self._slots.popleft()
            self._on_settled(first)
        if not self._slots:
            self._empty.set()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._tasks.__aexit__(kind, error, traceback)
