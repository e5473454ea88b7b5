"""Finding records by what they hold: the index of the ledger, kept while somebody asks for it.

Keeping it costs as much as reading the ledger. Who only sends events does not pay for that, and
where the console runs, it keeps the index anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tidegate.index import IndexKeeper, LedgerIndex, Row
from tidegate_bus.bulk import Access
from tidegate_bus.connection import Connection
from tidegate_bus.tasks import end
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.subjects import Principal, Verdict

_PAUSE_SECONDS = 0.25
"""Between two looks at the ledger, which hold up requests; what was accepted here is known anyway.
"""
_KEPT_SECONDS = 60.0
_PATIENCE_SECONDS = 5.0

Found = TypeVar("Found")


class Lookups:
    """Looks records up; use it in `async with`.

    Args:
        access: to the ledger.
        connection: hears that it grew.
        path: of the index.
    """

    def __init__(self, access: Access, connection: Connection, path: Path) -> None:
        self._make = partial(IndexKeeper, access, connection, path, _PAUSE_SECONDS)
        self._index = LedgerIndex(path)
        self._asking = asyncio.Lock()  # one connection to the file, one thread that uses it
        self._keeper = self._make()
        self._keeping: asyncio.Task[None] | None = None
        self._used = 0.0

    async def message(self, by: str, id: str, source: str | None) -> Row | None:
        """What says how a message stands: its first record, or what ended its wait.

        Raises:
            Unavailable: the index is not there yet, or cannot be read.
        """

        def look() -> Row | None:
            row = self._index.find(by, id, source)
            if row is None or row.verdict is not Verdict.HOLD:
                return row
            return self._index.end(row.seq) or row

        return await self._ask(look)

    async def answer(self, to: Principal, causation: str) -> Row | None:
        """The result of a task, by who asked and the id of the envelope.

        Raises:
            Unavailable: see `message`.
        """
        return await self._ask(lambda: self._index.answer(to, causation))

    async def _ask(self, look: Callable[[], Found]) -> Found:
        self._used = asyncio.get_running_loop().time()
        if self._keeping is None or self._keeping.done():
            self._keeper = self._make()
            self._keeping = asyncio.create_task(self._keep(self._keeper))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._keeper.caught_up()
        except TimeoutError:
            why = self._keeper.trouble or self._keeper.unwritten or "it is being made"
            raise Unavailable(f"the index of the ledger is not there: {why}") from None
        async with self._asking:
            return await asyncio.to_thread(look)

    async def _keep(self, keeper: IndexKeeper) -> None:
        """Keep it until nobody has asked for a while."""
        loop = asyncio.get_running_loop()
        running = asyncio.create_task(keeper.run())
        try:
            while not running.done() and (left := self._used + _KEPT_SECONDS - loop.time()) > 0:
                await asyncio.wait({running}, timeout=left)
        finally:
            await end(running)
            keeper.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await end(self._keeping)
        self._index.close()
