"""Connections to the bus for those who call: one a principal, opened when it first sends.

The edge has no right of its own to submit. What somebody sends over HTTP is submitted over a
connection of that somebody, so the broker says who sent it, and nobody has to believe the edge.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tidegate.project import State, address, client_tls
from tidegate_bus.connection import Connection, connect
from tidegate_bus.keys import Keys
from tidegate_bus.publisher import Publisher
from tidegate_bus.tasks import end
from tidegate_schemas.errors import InvalidInput, NotConnected
from tidegate_schemas.subjects import Principal

_IDLE_SECONDS = 300.0
_SWEEP_SECONDS = 30.0
_WINDOW = 1024


@dataclass(slots=True)
class Link:
    """A principal's connection. `used` is when, by a clock that never goes back."""

    connection: Connection
    publisher: Publisher
    keys: Keys
    used: float


class Links:
    """Connections of principals; use it in `async with`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._links: dict[Principal, Link] = {}
        self._opening: dict[Principal, asyncio.Task[Link]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._clock = time.monotonic

    def open(self, principal: Principal) -> Link | None:
        """The connection of a principal, if there is one: the way of most requests."""
        link = self._links.get(principal)
        if link is None or link.connection.nats.is_closed:
            return None
        link.used = self._clock()
        return link

    async def of(self, principal: Principal) -> Link:
        """The connection of a principal.

        Raises:
            Unavailable: the broker does not answer, or does not let it in.
        """
        link = self.open(principal)
        if link is None:
            task = self._opening.get(principal)
            if task is None:
                task = self._opening[principal] = asyncio.create_task(self._open(principal))
            link = await asyncio.shield(task)  # others wait for it too
        return link

    async def _open(self, principal: Principal) -> Link:
        try:
            try:
                url, tls = address(self._state), client_tls(self._state)
                key = self._state.keyring.path(principal)
                connection = await connect(url, principal, key, tls=tls)
            except InvalidInput as error:  # no stack, or no key: it is not the client's fault
                raise NotConnected(f"{principal} cannot connect: {error}") from error
            try:
                publisher = await Publisher.start(connection, window=_WINDOW)
            except BaseException:
                await connection.close()
                raise
            now = self._clock()
            link = self._links[principal] = Link(connection, publisher, Keys(connection), now)
            return link
        finally:
            del self._opening[principal]

    async def _sweep(self) -> None:
        """Close what is not used: also the connection of who may not come any more."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            old = self._clock() - _IDLE_SECONDS
            for principal in [who for who, link in self._links.items() if link.used < old]:
                await self._links.pop(principal).connection.close()

    async def __aenter__(self) -> Self:
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await end(self._sweeper)
        for task in list(self._opening.values()):
            await end(task)
        await asyncio.gather(*(link.connection.close() for link in self._links.values()))
