"""A connection of one principal, proven by its nkey. It never gives up reconnecting."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidInput, NotConnected, Unavailable
from tidegate_schemas.subjects import Principal

from .broker.tls import client_context, explain
from .client import NatsClient
from .identity.credentials import Credentials
from .message import Message
from .tasks import end

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.connection")

Listener = Callable[[], object]

_FLUSH_SECONDS = 1.0
"""How long a sender waits for a broker that takes nothing, once the buffer is full."""
_CLOSE_SECONDS = 2.0
"""How long a broker that takes nothing can hold up a flush at the end, and then the end."""

_REFUSED_SECONDS = 1.0
"""Pause before the next attempt, after one that was refused for its key or a certificate."""

_NOBODY_SECONDS = 2.0
"""How long a question that nobody is there to answer is asked again."""

_AGAIN_SECONDS = 0.02
"""Between two times; reading a configuration again takes the broker some milliseconds."""


class ApiError(Unavailable):
    """JetStream refused an API call.

    Attributes:
        code: its error code, e.g. 10058.
    """

    def __init__(self, subject: str, code: int, description: str) -> None:
        super().__init__(f"{subject}: {description} ({code})")
        self.code = code


class Connection:
    """A principal's connection. Make one with `connect`; close it, or use it in `async with`."""

    def __init__(
        self,
        principal: Principal,
        url: str,
        secret: str | Path,
        tls: ssl.SSLContext | Path | None = None,
    ) -> None:
        """Strictly private: use `connect`."""
        self.principal = principal
        self.url = url
        self._secret = secret
        self._known = Credentials.of(secret)
        self._tls = tls
        self._context = client_context(tls) if isinstance(tls, Path) else tls
        self.nats = NatsClient(self._credentials, self._handshake if tls else None)
        self._on_reconnect: list[Listener] = []
        self._closing = False

    def on_reconnect(self, listener: Listener) -> Listener:
        """Call `listener` after each reconnect, and at the end: what was in flight may be lost.

        Returns:
            What to call when it shall not be called any more.
        """
        self._on_reconnect.append(listener)
        return lambda: self._on_reconnect.remove(listener)

    async def listen(
        self,
        subject: str,
        callback: Callable[[Msg], Coroutine[Any, Any, None]],
    ) -> Subscription:
        """Subscribe; the callback is called with one message after the other.

        Nothing is dropped here when the callback is slow: what may pile up is bounded by what
        was asked for.

        Args:
            subject: what to listen to.
            callback: called with each message.

        Raises:
            Unavailable: the connection is closed.
        """
        try:
            return await self.nats.subscribe(
                subject, cb=callback, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        except nats.errors.Error as error:
            raise Unavailable(f"cannot listen as {self.principal}: {error}") from error

    async def hear(
        self, subject: str, hearer: Callable[[Message], None], *, again: bool = True
    ) -> Subscription:
        """Subscribe as `listen` does, for much that is quickly taken: each message as it is read.

        Args:
            subject: what to listen to.
            hearer: called with each message; nothing else is read meanwhile.
            again: whether to go on after a reconnect.

        Raises:
            Unavailable: the connection is closed.
        """
        try:
            subscription = await self.nats.hear(subject, hearer)
        except nats.errors.Error as error:
            raise Unavailable(f"cannot listen as {self.principal}: {error}") from error
        if not again:
            self.nats.let_pass(subscription)
        return subscription

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a message; while the broker is away, keep it and send it after the reconnect.

        Args:
            subject: where to, as `subjects` gives it.
            payload: what.
            reply: where to answer.
            headers: of one line each.

        Raises:
            Unavailable: the connection is closed, or too much is kept already.
            InvalidInput: it is larger than the broker takes.
        """
        if self.nats.post(subject, payload, reply, _head(headers) if headers else b""):
            return
        try:
            await self.nats.publish(subject, payload, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError:
            raise InvalidInput(
                f"a message of {len(payload)} bytes; the broker takes {self.nats.max_payload}"
            ) from None
        except nats.errors.Error as error:
            raise Unavailable(f"cannot send as {self.principal}: {error}") from error

    async def forget(self, subscription: Subscription | None) -> None:
        """Unsubscribe, also when the connection is closed already."""
        if subscription and not self.nats.is_closed:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def drain(self, subscription: Subscription | None) -> None:
        """Unsubscribe; returns when all that the broker had sent by then was received."""
        if subscription and self.nats.is_connected:
            with contextlib.suppress(nats.errors.Error):
                await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py
        await self.forget(subscription)

    async def api(self, subject: str, request: Any = None, *, timeout: float = 5.0) -> Any:
        """Call the JetStream API and return its answer as plain values.

        Raises:
            ApiError: it answered with an error.
            Unavailable: nobody answered in time, or this principal may not ask; or the
                connection was lost meanwhile, and perhaps the answer with it.
        """
        answer = await self.request(
            subject, b"" if request is None else msgspec.json.encode(request), timeout=timeout
        )
        body: dict[str, Any] = msgspec.json.decode(answer)
        if "error" in body:
            error_ = body["error"]
            raise ApiError(subject, error_.get("err_code", 0), error_.get("description", ""))
        return body

    async def request(self, subject: str, payload: bytes, *, timeout: float = 5.0) -> bytes:
        """Ask, and return what is answered.

        Where nobody is there to answer, it asks again for a moment: so it is for all of JetStream
        while nats-server reads its configuration again. Nobody has got the question then, so that
        nothing is done twice.

        Raises:
            Unavailable: nobody answered in time, or this principal may not ask; or the
                connection was lost meanwhile, and perhaps the answer with it.
        """
        asking = asyncio.create_task(self._ask(subject, payload, timeout))
        asked = self.nats.link

        def lost() -> None:
            # Who asks as soon as it is there again may be sooner than the news of it.
            if asked is None or asked is not self.nats.link:
                asking.cancel()

        unlisten = self.on_reconnect(lost)
        try:
            await asyncio.wait({asking})
        finally:
            unlisten()
            await end(asking)
        if asking.cancelled():
            raise Unavailable(f"no answer to {subject} ({self.principal}): reconnected meanwhile")
        try:
            return asking.result().data
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"no answer to {subject} ({self.principal}): {error}") from error

    async def _ask(self, subject: str, payload: bytes, timeout: float) -> Msg:
        clock = asyncio.get_running_loop().time
        give_up = clock() + min(timeout, _NOBODY_SECONDS)
        while True:
            try:
                return await self.nats.request(subject, payload, timeout=timeout)
            except nats.errors.NoRespondersError:
                if clock() >= give_up:
                    raise
            await asyncio.sleep(_AGAIN_SECONDS)

    async def stream_state(self, stream: str) -> StreamState:
        """First and last sequence and size of a stream.

        Raises:
            Unavailable: see `api`.
        """
        answer = await self.api(subjects.stream_info(stream))
        return msgspec.convert(answer["state"], StreamState, strict=False)

    async def close(self) -> None:
        """Send what is buffered and disconnect.

        Nothing stays open, also when it is cancelled, or when the broker takes nothing for some
        seconds; what is buffered is lost then.
        """
        self._closing = True
        try:
            if self.nats.is_connected:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self.nats.flush()
        except (nats.errors.Error, TimeoutError):
            pass  # the broker is gone, or stands still
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self.nats.close()

    def _credentials(self) -> Credentials:
        try:
            self._known = Credentials.of(self._secret)
        except InvalidInput as error:  # the broker knows whether the last ones are still good
            _log.warning("cannot read the key again", error=str(error))
        return self._known

    def _handshake(self) -> ssl.SSLContext:
        if isinstance(self._tls, Path):
            try:
                self._context = client_context(self._tls)
            except InvalidInput as error:  # perhaps they are just being replaced
                _log.warning("cannot read the certificates again", error=str(error))
        assert self._context
        return self._context

    async def _reconnected(self) -> None:
        _log.info("reconnected", principal=str(self.principal))
        self._tell()

    async def _closed(self) -> None:
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._on_reconnect):
            listener()

    async def _disconnected(self) -> None:
        if not self._closing:
            _log.warning("disconnected", principal=str(self.principal))

    async def _refused(self, error: Exception) -> None:
        """Key or certificates are not good any more: perhaps they are replaced later."""
        _log.error("cannot reconnect", principal=str(self.principal), error=_said(error))
        await asyncio.sleep(_REFUSED_SECONDS)

    async def _failed(self, error: Exception) -> None:
        _log.warning("connection", principal=str(self.principal), error=_said(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class StreamState(msgspec.Struct, frozen=True):
    """What JetStream says of a stream: sequences and size in messages and bytes."""

    first_seq: int
    last_seq: int
    messages: int
    bytes: int


async def connect(
    url: str,
    principal: Principal,
    secret: str | Path,
    *,
    tls: ssl.SSLContext | Path | None = None,
    timeout: float = 5.0,
) -> Connection:
    """Connect as a principal.

    Args:
        url: `nats://host:port` or `tls://host:port`, or several with commas.
        principal: who; decides which subjects are its own.
        secret: its nkey seed (`SU…`) or the text of a `.creds` file; or the path of a file with
            either, which is read again at each reconnect, so that a key can be rotated.
        tls: where the broker speaks TLS, the folder with whom to trust and what to show, see
            `tls.client_context`, which is read again at each reconnect too; or a context. Without
            it, an address with `tls://` must have a certificate that this machine trusts.
        timeout: seconds for the first connection; later ones are retried for ever.

    Raises:
        NotConnected: nobody answers there, the broker does not know the key, it is not who it
            should be by its certificate, or one side wants TLS and the other does not.
        InvalidInput: no nkey seed, no address, or the folder of `tls` is not as it should be.
    """
    connection = Connection(principal, url, secret, tls)
    problem, telling, established = "", False, False

    async def failed(error: Exception) -> None:
        nonlocal problem, telling
        if not telling:  # it tells more than the resets that come with it
            problem = _said(error)
            telling = _is_refusal(error)
        if connection.nats.is_connected:
            await connection._failed(error)  # pyright: ignore[reportPrivateUsage]
        elif established and _is_refusal(error):
            await connection._refused(error)  # pyright: ignore[reportPrivateUsage]

    options: dict[str, Any] = {
        "servers": [_checked(address) for address in url.split(",")],
        "name": str(principal),
        "inbox_prefix": subjects.inbox(principal),
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "ping_interval": 20,
        "flush_timeout": _FLUSH_SECONDS,
        "error_cb": failed,
        "reconnected_cb": connection._reconnected,  # pyright: ignore[reportPrivateUsage]
        "closed_cb": connection._closed,  # pyright: ignore[reportPrivateUsage]
        "disconnected_cb": connection._disconnected,  # pyright: ignore[reportPrivateUsage]
    }
    try:
        async with asyncio.timeout(timeout):
            await connection.nats.connect(**options)
    except BaseException as error:
        await connection.close()
        if isinstance(error, (nats.errors.Error, OSError, TimeoutError)):
            why = problem or (str(error) and _said(error)) or "no answer"
            raise NotConnected(f"cannot connect to {url} as {principal}: {why}") from error
        raise
    established = True
    return connection


def _head(headers: dict[str, str]) -> bytes:
    """Headers as they are sent (ADR-4)."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def _is_refusal(error: Exception) -> bool:
    # Authorization Violation, and User Authentication Expired or Revoked
    return "auth" in str(error).lower() or bool(explain(error))


def _said(error: Exception) -> str:
    return explain(error) or str(error) or repr(error)


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        if parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0:
            return address
    except ValueError:
        pass
    raise InvalidInput(f"{address!r} is no address of a broker; write nats://host:port")
