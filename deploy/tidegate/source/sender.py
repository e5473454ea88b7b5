"""A publisher that outlives the broker: it waits, and finds a stack that was started again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

import structlog

from tidegate.bus import Bus
from tidegate.project import State, address
from tidegate_bus.telemetry import Health
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, Unavailable
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Principal

from .pump import WINDOW

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.source")

_HEARD_SECONDS = 5.0
_AGAIN_SECONDS = 0.5


class Sender:
    """Publishes as a principal of a project, for as long as that takes. Use it in `async with`.

    Args:
        state: of the stack.
        principal: whose key is there.
        health: told while the bus does not answer.
    """

    def __init__(self, state: State, principal: Principal, health: Health) -> None:
        self._state = state
        self._principal = principal
        self._health = health
        self._bus: Bus | None = None
        self._url = ""
        self._connecting = asyncio.Lock()
        self._away = False

    async def publish(self, envelope: Envelope) -> Receipt:
        """Publish an envelope and wait for its verdict, however long the bus is away.

        Raises:
            Refused, Unopened: the bus said no.
            InvalidInput: the envelope cannot be sent.
        """
        while True:
            try:
                bus = await self._connected()
                receipt = await bus.publish(envelope, timeout=_HEARD_SECONDS)
            except Unavailable as error:
                self._tell(str(error))
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self._tell(None)
                return receipt

    async def close(self) -> None:
        """Disconnect."""
        bus, self._bus = self._bus, None
        if bus:
            await bus.close()

    async def _connected(self) -> Bus:
        """The bus of the stack that runs now, which need not be where it was."""
        async with self._connecting:
            try:
                url = address(self._state)
                if self._bus is None or url != self._url:
                    await self.close()
                    self._bus = await self._connect()
                    self._url = url
            except InvalidInput as error:
                # No stack runs: perhaps it is being started. Nothing is wrong with any event.
                raise Unavailable(str(error)) from None
            return self._bus

    async def _connect(self) -> Bus:
        folder = self._state.folder
        return await Bus.of_project(str(self._principal), folder.parent, folder, window=WINDOW)

    def _tell(self, trouble: str | None) -> None:
        if trouble and not self._away:
            _log.warning("the bus does not answer; waiting", error=trouble)
        if self._away and not trouble:
            _log.info("the bus answers again")
        self._away = bool(trouble)
        self._health.fail(f"the bus does not answer: {trouble}" if trouble else None)

    async def __aenter__(self) -> Self:
        # Whoever has no key in a stack that runs is told so, and not waited for.
        if self._state.address.exists():
            with contextlib.suppress(Unavailable):
                self._url, self._bus = address(self._state), await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(Unavailable):
            await self.close()
