"""The NATS protocol by hand: one connection on which anything may be written.

For what a client library does not let one try. It reads all that the broker says, payloads as
such, so nothing that somebody publishes looks like an answer of the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from tidegate_bus.identity.credentials import Credentials
from tidegate_schemas.errors import InvalidInput, Unavailable

_LINE_BYTES = 64 * 1024


@dataclass(slots=True)
class Answer:
    """What the broker said.

    Attributes:
        errors: the texts of `-ERR`, without quotes around them.
        payloads: of the messages that came, headers left out.
        done: whether the broker has read all that was written. False: it has ended the connection,
            or refused the login.
    """

    errors: list[str] = field(default_factory=list[str])
    payloads: list[bytes] = field(default_factory=list[bytes])
    done: bool = False


class Wire:
    """A connection that nobody has logged in on. Make one with `Wire.dial`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: dict[str, Any]
    ) -> None:
        """Strictly private: use `dial`."""
        self._reader = reader
        self._writer = writer
        self.info = info
        """What the broker says of itself first."""

    @classmethod
    async def dial(
        cls, url: str, tls: ssl.SSLContext | None = None, *, clear: bool = False
    ) -> Self:
        """Connect, with TLS where it is given.

        Args:
            url: `nats://host:port` or `tls://host:port`.
            tls: whom to trust, and what to prove oneself with.
            clear: go on in clear text whatever the broker asks for.

        Raises:
            InvalidInput: no address.
            Unavailable: it is no broker, or it asks for TLS and none is given.
            OSError: nobody answers there, or it is not to be trusted.
        """
        parts = urlsplit(url)
        if not parts.hostname:
            raise InvalidInput(f"{url!r} is no address of a broker; write nats://host:port")
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or 4222, limit=_LINE_BYTES
        )
        try:
            try:
                line = await reader.readline()
                info = msgspec.json.decode(line.removeprefix(b"INFO "), type=dict[str, Any])
            except (ValueError, msgspec.MsgspecError):
                raise Unavailable(f"{url}: what listens there is no broker") from None
            if not clear and (tls or info.get("tls_required")):
                if tls is None:
                    raise Unavailable(f"{url}: the broker asks for TLS")
                await writer.start_tls(tls, server_hostname=parts.hostname)
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer, info)

    def login(self, credentials: Credentials) -> dict[str, Any]:
        """The options of a CONNECT that proves a key."""
        nonce = str(self.info.get("nonce", ""))
        proof = credentials.sign(nonce).decode()
        # Beside a JWT the broker would show an `nkey`, which it does not check, in its log.
        who = {"jwt": credentials.jwt} if credentials.jwt else {"nkey": credentials.public_key}
        return {**who, "sig": proof}

    async def connect(self, options: dict[str, Any]) -> Answer:
        """Log in. `Answer.done`: the broker took it.

        Raises:
            Unavailable: the broker does not speak its own protocol.
        """
        # Verbose, for an answer to the CONNECT alone: a ping that it has not read yet when it
        # refuses would make the system throw away its last words.
        spoken = {"verbose": True, "pedantic": False, "headers": True, "no_responders": True}
        self._writer.write(b"CONNECT " + msgspec.json.encode({**spoken, **options}) + b"\r\n")
        with contextlib.suppress(ConnectionError):  # there may be last words to read
            await self._writer.drain()
        answer = Answer()
        while not answer.errors and (heard := await self._hear(answer)):
            if heard == b"+OK":
                answer.done = True
                break
        return answer

    async def say(self, *lines: bytes) -> Answer:
        """Write lines and a ping; all that the broker says before the pong.

        Raises:
            OSError: the connection broke.
            Unavailable: the broker does not speak its own protocol.
        """
        self._writer.write(b"".join(line + b"\r\n" for line in (*lines, b"PING")))
        await self._writer.drain()
        answer = Answer()
        while heard := await self._hear(answer):
            if heard == b"PONG":
                answer.done = True
                break
        return answer

    async def hear(self) -> bytes:
        """The payload of the next message.

        Raises:
            Unavailable: the broker has ended the connection, or does not speak its own
                protocol.
        """
        answer = Answer()
        while not answer.payloads:
            if not await self._hear(answer):
                raise Unavailable(f"the broker ended the connection: {answer.errors}")
        return answer.payloads[0]

    async def close(self) -> None:
        """Disconnect."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _hear(self, answer: Answer) -> bytes:
        """Note one thing that the broker says; its operation, empty at the end."""
        try:
            line = (await self._reader.readuntil(b"\r\n"))[:-2]
            operation, _, rest = line.partition(b" ")
            match operation:
                case b"PING":
                    self._writer.write(b"PONG\r\n")
                case b"-ERR":
                    answer.errors.append(rest.decode(errors="replace").strip()[1:-1])
                case b"MSG":
                    size = int(rest.rpartition(b" ")[2])
                    answer.payloads.append((await self._reader.readexactly(size + 2))[:-2])
                case b"HMSG":
                    head, size = map(int, rest.split(b" ")[-2:])
                    answer.payloads.append((await self._reader.readexactly(size + 2))[head:-2])
                case _:  # PONG, +OK, INFO
                    pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise Unavailable(f"not the protocol of a broker: {error}") from error
        return operation

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
