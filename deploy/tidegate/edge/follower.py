"""The newest records of the ledger, for all who wait for some: read once, kept for a moment.

It reads only while somebody waits, and a little longer: the next one may come soon. Nobody has a
queue of their own here, so a slow reader costs nothing: it finds that what it wants is not kept any
more, and reads it from the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Generator
from typing import NamedTuple

import msgspec
import structlog

from tidegate.index.glance import Glance, glance
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_bus.tasks import end
from tidegate_schemas.errors import LedgerError, TidegateError, Unavailable
from tidegate_schemas.subjects import Kind, Principal, Verdict

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.edge")

_KEPT_BYTES = 16 * 1024 * 1024
_KEPT = 8192
_SOME = 256
_LINGER_SECONDS = 10.0
_AGAIN_SECONDS = 1.0


class Seen(NamedTuple):
    """A record, and what it says at a glance."""

    stored: StoredRecord
    glance: Glance


def look(stored: StoredRecord) -> Seen:
    """A record at a glance.

    Raises:
        LedgerError: it is none.
    """
    try:
        return Seen(stored, glance(stored.payload))
    except msgspec.MsgspecError as error:
        raise LedgerError(f"record {stored.seq} of the ledger is none: {error}") from error


class Follower:
    """Follows the ledger while somebody attends.

    Args:
        reader: of the ledger.

    Attributes:
        last: sequence of the newest record that it has seen; 0 before the first look.
    """

    def __init__(self, reader: LedgerReader) -> None:
        self.last = 0
        self._reader = reader
        self._attending = 0
        self._kept: deque[Seen] = deque()
        self._bytes = 0
        self._grown = asyncio.Event()
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._results: dict[tuple[str, str], list[asyncio.Future[Seen]]] = {}

    @contextlib.asynccontextmanager
    async def attend(self, patience: float) -> AsyncGenerator[None]:
        """Have it follow meanwhile; whatever is written from now on will be seen.

        Args:
            patience: seconds to wait for the first look.

        Raises:
            Unavailable: the ledger does not answer.
        """
        self._attending += 1
        try:
            if self._leaving:
                self._leaving.cancel()
                self._leaving = None
            if self._task is None:
                self._task = asyncio.create_task(self._follow())
            try:
                async with asyncio.timeout(patience):
                    await self._ready.wait()
            except TimeoutError:
                raise Unavailable("the ledger does not answer") from None
            yield
        finally:
            self._attending -= 1
            if not self._attending:
                loop = asyncio.get_running_loop()
                self._leaving = loop.call_later(_LINGER_SECONDS, self._stop)

    def after(self, seq: int) -> list[Seen] | None:
        """The next records after one, some at a time; None where they are not kept any more.

        Args:
            seq: of a record; 0 for the first one.
        """
        if seq >= self.last:
            return []
        if not self._kept or self._kept[0].stored.seq > seq + 1:
            return None
        begin = seq + 1 - self._kept[0].stored.seq
        return [self._kept[index] for index in range(begin, min(begin + _SOME, len(self._kept)))]

    async def grow(self, seq: int, patience: float) -> None:
        """Wait for a record after one, for `wake`, or until patience is over (seconds)."""
        if self.last <= seq:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._grown.wait()

    def wake(self) -> None:
        """Let all who wait look."""
        self._grown.set()
        self._grown = asyncio.Event()

    @contextlib.contextmanager
    def result(self, to: Principal, causation: str) -> Generator[asyncio.Future[Seen]]:
        """The answer to a task, once it comes while somebody attends.

        Args:
            to: who has sent the task.
            causation: id of its envelope.
        """
        future: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        key = (str(to), causation)
        self._results.setdefault(key, []).append(future)
        try:
            yield future
        finally:
            waiting = self._results[key]
            waiting.remove(future)
            if not waiting:
                del self._results[key]

    async def close(self) -> None:
        """Follow no more."""
        if self._leaving:
            self._leaving.cancel()
        task, self._task = self._task, None
        await end(task)

    def _stop(self) -> None:
        task, self._task, self._leaving = self._task, None, None
        if task:
            task.cancel()
        self._ready.clear()
        self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        self._bytes = 0

    async def _follow(self) -> None:
        while True:
            try:
                newest = await self._reader.last()
                self.last = newest.seq if newest else 0
                self._forget()
                self._ready.set()
                async for stored in self._reader.read(self.last + 1, follow=True):
                    self._take(look(stored))
            except TidegateError as error:
                _log.error("the ledger is not followed", error=str(error))
            await asyncio.sleep(_AGAIN_SECONDS)

    def _take(self, seen: Seen) -> None:
        self._kept.append(seen)
        self._bytes += len(seen.stored.payload)
        while len(self._kept) > _KEPT or self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._kept.popleft().stored.payload)
        self.last = seen.stored.seq
        found = seen.glance
        if found.kind is Kind.RESULT and found.verdict is Verdict.ALLOW and self._results:
            message = found.envelope
            for future in self._results.get((found.to, message.causationid or ""), ()):
                if message.causationsource is None and not future.done():  # else it is of an event
                    future.set_result(seen)
        self.wake()
