"""Pulling from a consumer through one callback subscription (ADR-13).

Requests are large and long, and no message is ever stranded by a cancelled fetch: the subscription
outlives every request. A pull consumer can fall silent after a reconnect; heartbeats that stop
coming are noticed and the requests made anew.

What is on request is counted over all requests of an inbox together: the broker serves them in
turn and a message does not say which of them it answers. A request that ends says what it left
undelivered. Across accounts the broker keeps every request in mind for minutes, for as long as its
inbox is listened to; so after some requests another inbox takes over.

An inbox does not outlive its connection: the broker keeps a request for as long as its inbox is
listened to, but forgets across accounts where the answers go, as soon as nobody listens. After a
reconnect it would deliver into such a request, and nothing would arrive before the next lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog
from nats.aio.subscription import Subscription

from tidegate_schemas import subjects
from tidegate_schemas.errors import Unavailable

from .connection import Connection, Listener
from .message import Message
from .tasks import end

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.puller")

_SECOND = 1_000_000_000
_EXPIRES_SECONDS = 30.0
_HEARTBEAT_SECONDS = 3.0
_SILENT_HEARTBEATS = 2.5
_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_INBOX_REQUESTS = 1000


@dataclass(slots=True)
class _Inbox:
    """Where answers come: how many requests it has had, and how many messages may still come."""

    subject: str
    subscription: Subscription | None = None
    requests: int = 0
    requested: int = 0


class Puller:
    """Keeps a wanted number of messages on request.

    Args:
        connection: of the principal that may pull.
        stream, consumer: where from.
        on_message: called with each message, in order.
        request_bytes: the most that one request may bring; above the largest message.
        on_lost: called once when the consumer is gone or silent, or messages may have been lost on
            the way; nothing is requested after that. Without it the same consumer is asked anew.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        on_message: Callable[[Message], None],
        on_lost: Callable[[], None] | None = None,
        request_bytes: int | None = None,
    ) -> None:
        self._connection = connection
        self._subject = subjects.pull(stream, consumer)
        self._on_message = on_message
        self._on_lost = on_lost
        self._request_bytes = request_bytes
        self._inbox = _Inbox("")
        self._before: list[_Inbox] = []  # those that still wait for something
        self._wanted = 0
        self._step = 1
        self._heard = time.monotonic()
        self._nudge = asyncio.Event()
        self._broken = False
        self._stopped = False
        self._pause = _PAUSE_SECONDS
        self._unlisten: Listener | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen; nothing is requested before `want`."""
        await self._listen()
        self._unlisten = self._connection.on_reconnect(self._lost)
        self._task = asyncio.create_task(self._keep_asking())

    async def stop(self) -> None:
        """Request nothing more. What was requested may still arrive until `close`."""
        self._wanted = 0
        self._stopped = True
        if self._unlisten:
            self._unlisten()
            self._unlisten = None
        await end(self._task)

    async def drain(self) -> None:
        """Stop; returns when all that the broker had sent by then was received."""
        await self.stop()
        await self._drain()

    async def close(self) -> None:
        """Stop, and stop listening."""
        await self.stop()
        for inbox in (*self._before, self._inbox):
            await self._connection.forget(inbox.subscription)

    def want(self, messages: int, step: int = 1) -> None:
        """Keep `messages` on request, asking anew when at least `step` are missing."""
        self._wanted, self._step = messages, step
        if self._missing():
            self._nudge.set()

    @property
    def requested(self) -> int:
        """Messages that may still arrive."""
        own = self._inbox.requested
        return own + sum(inbox.requested for inbox in self._before) if self._before else own

    def _missing(self) -> bool:
        return self._wanted - self.requested >= self._step

    async def _listen(self) -> None:
        """Go on with an inbox of its own, with nothing on request there."""
        prefix = subjects.inbox(self._connection.principal)
        inbox = _Inbox(f"{prefix}.{secrets.token_hex(8)}")
        inbox.subscription = await self._connection.hear(
            f"{inbox.subject}.*", partial(self._receive, inbox), again=False
        )
        self._inbox = inbox
        self._heard = time.monotonic()

    async def _drain(self) -> None:
        for inbox in (*self._before, self._inbox):
            await self._connection.drain(inbox.subscription)
        self._before = []

    def _receive(self, inbox: _Inbox, message: Message) -> None:
        self._heard = time.monotonic()
        headers = message.headers if message.head and not message.reply else {}
        status = headers.get("Status")
        if status is None:
            self._pause = _PAUSE_SECONDS
            inbox.requested = max(inbox.requested - 1, 0)
            try:
                self._on_message(message)
            finally:
                if self._missing():
                    self._nudge.set()
        elif status == "100":  # a heartbeat
            self._pause = _PAUSE_SECONDS
        elif "Nats-Pending-Messages" in headers:  # its time is over, or its bytes
            left = int(headers["Nats-Pending-Messages"])
            inbox.requested = max(inbox.requested - left, 0)
            self._nudge.set()
        else:
            why = headers.get("Description", "")
            _log.info("pull ended", subject=self._subject, status=status, why=why)
            self._lost()

    def _lost(self) -> None:
        self._broken = True
        self._nudge.set()

    async def _keep_asking(self) -> None:
        nats = self._connection.nats
        while not self._stopped:
            self._nudge.clear()
            if self._broken and (self._on_lost or nats.is_closed):
                if self._on_lost:
                    self._on_lost()
                return
            if nats.is_connected:  # otherwise `_lost` comes with the reconnect
                if self._broken:
                    await self._begin_anew()
                    continue
                await self._retire()
                if self._missing():
                    await self._ask(self._wanted - self.requested)
                    continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    await self._nudge.wait()
            silence = time.monotonic() - self._heard
            if self.requested and silence > _SILENT_HEARTBEATS * _HEARTBEAT_SECONDS:
                _log.info("pull is silent", subject=self._subject)
                self._broken = True

    async def _begin_anew(self) -> None:
        """Receive what is under way, then ask anew: the requests before may be alive or not."""
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        self._broken = False
        try:
            await self._drain()
            await self._listen()
        except Unavailable as error:
            _log.warning("cannot pull", subject=self._subject, error=str(error))
            self._broken = True

    async def _retire(self) -> None:
        """Let another inbox take over when it is time, and forget those that wait for nothing."""
        done = [inbox for inbox in self._before if not inbox.requested]
        for inbox in done:
            self._before.remove(inbox)
            await self._connection.forget(inbox.subscription)
        if self._inbox.requests >= _INBOX_REQUESTS:
            before = self._inbox
            try:
                await self._listen()
            except Unavailable as error:
                _log.warning("cannot pull", subject=self._subject, error=str(error))
                self._broken = True
            else:
                self._before.append(before)

    async def _ask(self, messages: int) -> None:
        inbox = self._inbox
        inbox.requests += 1
        body = {
            "batch": messages,
            "expires": int(_EXPIRES_SECONDS * _SECOND),
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * _SECOND),
        }
        if self._request_bytes:
            body["max_bytes"] = self._request_bytes
        inbox.requested += messages
        self._heard = time.monotonic()
        try:
            await self._connection.publish(
                self._subject,
                msgspec.json.encode(body),
                reply=f"{inbox.subject}.{inbox.requests:x}",
            )
        except Unavailable as error:
            _log.warning("cannot pull", subject=self._subject, error=str(error))
            self._broken = True
