"""The client of nats-py, with faults of its version 2.16 mended, and keys that can change.

`tests/bus/test_client.py` and `test_tls.py` show them against a real broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Callable, Generator
from typing import Any, cast
from urllib.parse import ParseResult
from weakref import WeakSet

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from .broker.tls import disagreement
from .identity.credentials import Credentials
from .message import Message
from .tasks import end

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.connection")

_ROOM_BYTES = 1024 * 1024
"""What may wait to be sent before a sender has to wait; nats-py's own bound is twice that."""

_SPARED = ("permissions violation", "stale connection")


class NatsClient(Client):
    """A connection that survives pings and errors, can be flushed, cancelled and closed.

    Args:
        credentials: asked before each attempt to connect, so that a rotated key takes effect
            with the next one.
        tls: asked in the same way for whom to trust and what to show. Nothing is sent in clear
            text then, nor to an address with `tls://`.
    """

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        super().__init__()
        self._credentials = credentials
        self._tls = tls
        self._stream = self._transport = _Transport()
        self._passing: WeakSet[Subscription] = WeakSet()

    @property
    def link(self) -> object:
        """What is connected now: another thing after each reconnect, and None in between."""
        return self._stream.writer if self.is_connected else None

    def let_pass(self, subscription: Subscription) -> None:
        """Do not subscribe to it again after a reconnect; what has arrived is still received."""
        self._passing.add(subscription)

    async def hear(self, subject: str, hearer: Callable[[Message], None]) -> Subscription:
        """Subscribe; messages are handed over as they are read, without a queue and a task."""
        # One that waits for a single answer has neither.
        return await self.subscribe(subject, future=_Ear(hearer))

    def post(self, subject: str, payload: bytes, reply: str, head: bytes = b"") -> bool:
        """Put a message among what is sent next; `publish` does so at 1.6 times the cost.

        Args:
            subject: where to; nobody looks at it again.
            payload: what.
            reply: where to answer.
            head: headers as they are sent, or nothing.

        Returns:
            Whether it was; `publish` tells why not, or waits.
        """
        flushing, flusher = self._flush_queue, cast("asyncio.Task[None] | None", self._flusher_task)
        if (
            self._status != Client.CONNECTED
            or self._pending_data_size > _ROOM_BYTES
            or len(payload) > self._max_payload
            or flushing is None
            or flusher is None
            or flusher.done()
        ):
            return False
        if head:
            size, all_ = len(head), len(head) + len(payload)
            line = f"HPUB {subject} {reply} {size} {all_}\r\n".encode()
            self._pending.append(b"%b%b%b\r\n" % (line, head, payload))
        else:
            line = f"PUB {subject} {reply} {len(payload)}\r\n".encode()
            self._pending.append(b"%b%b\r\n" % (line, payload))
        self._pending_data_size += len(self._pending[-1])
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        if flushing.empty():
            flushing.put_nowait(self._nobody)
        return True

    @functools.cached_property
    def _nobody(self) -> asyncio.Future[None]:
        """Stands where the flusher has somebody who waits for it."""
        nobody: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nobody.set_result(None)
        return nobody

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Of the next handshake."""
        return self._tls() if self._tls else super().ssl_context

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # The first INFO comes in clear text: whoever stands between wrote it, perhaps. nats-py
        # believes it, and goes on in clear text, or to other brokers that it names.
        if initial_connection:
            assert self._current_server
            wanted = self._tls is not None or self._current_server.uri.scheme == "tls"
            if why := disagreement(wanted, bool(info.get("tls_required"))):
                raise nats.errors.Error(why)
            if wanted:
                info = {**info, "connect_urls": None}
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        found = self._credentials()
        self._auth_configured = True
        self._public_nkey = found.public_key
        self._signature_cb = found.sign
        self._user_jwt_cb = found.jwt.encode if found.jwt else None  # asked for bytes
        return super()._connect_command()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        subscription = self._subs.get(sid)
        ear: object = getattr(subscription, "_future", None)
        if not isinstance(ear, _Ear):
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        assert subscription
        subscription._received += 1  # pyright: ignore[reportPrivateUsage]
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            ear.hearer(Message(subject.decode(), reply.decode(), data, headers or b""))
        except Exception:  # the next message is no worse for it
            _log.exception("a message was not taken", subject=subject.decode())

    async def _process_err(self, err_msg: str) -> None:
        # After any error but these nats-py closes for good, whatever was said about reconnecting.
        if any(words in err_msg for words in _SPARED):
            await super()._process_err(err_msg)
        else:
            error = nats.errors.Error(f"nats: {err_msg}")
            await self._error_cb(error)
            await self._process_op_err(error)

    async def _attempt_reconnect(self) -> None:
        for sid, subscription in list(self._subs.items()):
            if subscription in self._passing:
                self._remove_sub(sid)
        # An error while it reconnects makes a second attempt, which cancels the first; both of
        # them then tell those who wait for the end, and the later one dies of it.
        with contextlib.suppress(asyncio.InvalidStateError):
            await super()._attempt_reconnect()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py writes a ping past what waits to be sent, so its pong would prove nothing: not
        # that messages have arrived, nor that an unsubscription has.
        if self._pending and self._transport is not None and self.is_connected:
            self._transport.writelines(self._pending)
            self._pending = []
            self._pending_data_size = 0
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        # Whoever waited for this pong may have given up: its future is cancelled then, and the
        # reading task would die of setting its result.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        # With a full buffer this waits for the socket, and swallows a cancellation there.
        with _cancellable():
            return await super()._flush_pending(force_flush)

    async def flush(self, timeout: float = 10) -> None:
        """See nats-py."""
        with _cancellable():
            await super().flush(timeout)  # type: ignore[arg-type]  # any number will do

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """See nats-py."""
        with _cancellable():
            return await super().request(subject, payload, timeout, old_style, headers)

    async def _select_next_server(self) -> None:
        with _cancellable():
            await super()._select_next_server()

    async def _process_connect_init(self) -> None:
        # A handshake that fails when it is cancelled would be tried again, for ever.
        with _cancellable():
            await super()._process_connect_init()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # Where nats-py is cancelled, or cannot send what is buffered, it stops half-way, and takes
        # itself for closed from then on: the socket stays, and what is at work on it.
        with _cancellable():
            while True:
                try:
                    await self._end_reconnecting()
                    await super()._close(status, do_cbs)
                    break
                except (OSError, RuntimeError, asyncio.CancelledError):  # Runtime…: uvloop, closed
                    self._pending.clear()
                    self._pending_data_size = 0
                    self._stream.abort()
                    self._status = Client.DISCONNECTED
            # After a first attempt that failed it takes itself for closed too, whatever the second
            # one had opened when it was given up.
            self._stream.close()  # type: ignore[no-untyped-call]  # nats-py

    async def _end_reconnecting(self) -> None:
        # nats-py waits a moment for the end of an attempt, not for what comes of it. One that has
        # just come through would open the closed connection again.
        while (task := self._reconnection_task) and not task.done():
            if task is asyncio.current_task():
                break
            await end(task)


class _Ear(asyncio.Future[Any]):
    """Stands where nats-py has the future of a single answer."""

    def __init__(self, hearer: Callable[[Message], None]) -> None:
        super().__init__()
        self.hearer = hearer


class _Transport(TcpTransport):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nats-py

    @property
    def writer(self) -> object:
        """Of the stream that was opened last."""
        return self._io_writer

    def abort(self) -> None:
        """Close it at once; what is not sent by now is not sent any more."""
        for writer in (self._io_writer, self._bare_io_writer):
            if writer:
                writer.transport.abort()

    async def connect(self, *arguments: Any, **options: Any) -> None:
        self.abort()  # nats-py drops what an attempt that failed had opened
        try:
            with _cancellable():
                await super().connect(*arguments, **options)
        except BaseException:
            self.abort()
            raise

    async def wait_closed(self) -> None:
        # Whoever is cancelled here would cancel it for whoever comes later, and nats-py does:
        # a second attempt to reconnect, or a second closing, would die of it.
        await asyncio.shield(super().wait_closed())  # type: ignore[no-untyped-call]  # nats-py

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        # nats-py does not tell the new stream of its transport: then nothing holds back a broker
        # that sends faster than is read, and asyncio warns of each connection's end. Nor does it
        # see that there is none where the connection is lost as soon as the handshake is made.
        assert self._io_writer
        loop, raw = asyncio.get_running_loop(), self._io_writer.transport
        bare = raw.get_protocol()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        host = uri if isinstance(uri, str) else uri.hostname
        try:
            transport = await asyncio.wait_for(
                loop.start_tls(raw, protocol, ssl_context, server_hostname=host), connect_timeout
            )
            if transport is None:
                raise ConnectionResetError("connection lost in the handshake")
        except BaseException:
            # Its transport has gone over to TLS: nobody else tells the stream of its end, which
            # nats-py waits for, without end itself.
            bare.connection_lost(None)
            raise
        protocol.connection_made(transport)
        self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    def __bool__(self) -> bool:  # nats-py makes a transport of its own where there is none
        return True


@contextlib.contextmanager
def _cancellable() -> Generator[None]:
    """Raise a cancellation that is swallowed inside.

    By nats-py, or by `asyncio.wait_for` of Python 3.11, which nats-py uses: it does so when the
    cancellation comes together with what is waited for.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError
