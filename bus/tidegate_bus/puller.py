"""Pulling from a consumer through one callback subscription (ADR-13).

Requests are large and long, and no message is ever stranded by a cancelled fetch: the subscription
outlives every request. A pull consumer can fall silent after a reconnect; heartbeats that stop
coming are noticed and the requests made anew.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tidegate_schemas import subjects

from .connection import Connection

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.puller")

_SECOND = 1_000_000_000
_EXPIRES = 30 * _SECOND
_HEARTBEAT_SECONDS = 3.0
_SILENCE_SECONDS = 2.5 * _HEARTBEAT_SECONDS
_PAUSE_SECONDS = 0.1


class Puller:
    """Keeps a wanted number of messages on request.

    Args:
        connection: of the principal that may pull.
        stream, consumer: where from.
        on_message: called with each message, in order.
        on_lost: called when the consumer is gone or silent, before it is asked again.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        on_message: Callable[[Msg], None],
        on_lost: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._connection = connection
        self._subject = subjects.pull(stream, consumer)
        self._inbox = f"{subjects.inbox(connection.principal)}.{secrets.token_hex(8)}"
        self._on_message = on_message
        self._on_lost = on_lost
        self._open: OrderedDict[str, int] = OrderedDict()  # request -> messages still to come
        self._requests = 0
        self._wanted = 0
        self._step = 1
        self._heard = time.monotonic()
        self._nudge = asyncio.Event()
        self._broken = False
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen; nothing is requested before `want`."""
        self._subscription = await self._connection.listen(f"{self._inbox}.*", self._receive)
        self._connection.on_reconnect(self._lost)
        self._task = asyncio.create_task(self._keep_asking())

    async def stop(self) -> None:
        """Request nothing more. What was requested may still arrive until `close`."""
        self._wanted = 0
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def drain(self) -> None:
        """Stop; returns when all that the broker had sent by then was received."""
        await self.stop()
        if self._subscription and self._connection.nats.is_connected:
            await self._subscription.drain()  # type: ignore[no-untyped-call]  # nats-py
            self._subscription = None

    async def close(self) -> None:
        """Stop, and stop listening."""
        await self.stop()
        await self._connection.forget(self._subscription)

    def want(self, messages: int, step: int = 1) -> None:
        """Keep `messages` on request, asking anew when at least `step` are missing."""
        self._wanted, self._step = messages, step
        self._nudge.set()

    @property
    def requested(self) -> int:
        """Messages that may still arrive."""
        return sum(self._open.values())

    async def _receive(self, message: Msg) -> None:
        self._heard = time.monotonic()
        status = message.headers.get("Status") if message.headers else None
        if status is None or message.reply:
            if self._open:  # the broker serves the oldest request first
                request, left = next(iter(self._open.items()))
                if left <= 1:
                    del self._open[request]
                else:
                    self._open[request] = left - 1
            self._on_message(message)
        elif status == "100":  # a heartbeat
            return
        else:
            request = message.subject.rpartition(".")[2]
            self._open.pop(request, None)
            why = (message.headers or {}).get("Description", "")
            if status not in ("404", "408") and "Leadership" not in why:
                _log.info("pull ended", subject=self._subject, status=status, why=why)
                self._broken = True
        if self.requested + self._step <= self._wanted or self._broken:
            self._nudge.set()

    def _lost(self) -> None:
        self._broken = True
        self._nudge.set()

    async def _keep_asking(self) -> None:
        while True:
            missing = self._wanted - self.requested
            if self._broken:
                await self._mend()
            elif missing >= self._step:
                await self._ask(missing)
            self._nudge.clear()
            if self._broken or self._wanted - self.requested >= self._step:
                continue
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    await self._nudge.wait()
            except TimeoutError:
                if self._open and time.monotonic() - self._heard > _SILENCE_SECONDS:
                    self._broken = True

    async def _mend(self) -> None:
        await asyncio.sleep(_PAUSE_SECONDS)
        self._broken = False
        self._open.clear()
        self._heard = time.monotonic()
        if self._on_lost:
            try:
                await self._on_lost()
            except Exception as error:
                _log.warning("consumer lost", subject=self._subject, error=str(error))
                self._broken = True

    async def _ask(self, messages: int) -> None:
        self._requests += 1
        request = f"{self._requests:x}"
        self._open[request] = messages
        self._heard = time.monotonic()
        body = {
            "batch": messages,
            "expires": _EXPIRES,
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * _SECOND),
        }
        try:
            await self._connection.nats.publish(
                self._subject, msgspec.json.encode(body), reply=f"{self._inbox}.{request}"
            )
        except nats.errors.Error as error:
            _log.warning("cannot pull", subject=self._subject, error=str(error))
            self._broken = True
