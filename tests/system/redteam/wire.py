"""A connection of an attacker: frames as bytes, and everything that is heard, told apart.

`support.Raw` reads lines; whoever listens for what is not meant for it must read payloads too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from tidegate_bus.identity.credentials import Credentials

_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that the broker delivered."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes


class Wire:
    """Make one with `dial` (no CONNECT yet) or `open` (a proven key).

    Attributes:
        info: what the broker said of itself.
        heard: all messages so far.
        errors: all `-ERR` lines so far.
        cut: the broker has closed the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Strictly private: use `dial` or `open`."""
        self._reader = reader
        self._writer = writer
        self.info: dict[str, Any] = {}
        self.heard: list[Heard] = []
        self.errors: list[str] = []
        self.cut = False

    @classmethod
    async def dial(cls, url: str) -> Self:
        """Connect and hear INFO; prove nothing."""
        address = urlsplit(url)
        wire = cls(*await asyncio.open_connection(address.hostname, address.port, limit=2**22))
        wire.info = json.loads((await wire._reader.readline()).removeprefix(b"INFO "))
        return wire

    @classmethod
    async def open(cls, url: str, secret: Credentials, **options: Any) -> Self:
        """Connect and prove the key of a principal."""
        wire = await cls.dial(url)
        await wire.say(wire.proof(secret, **options))
        return wire

    def proof(self, secret: Credentials, nonce: str = "", **options: Any) -> bytes:
        """A CONNECT line that signs the nonce of this connection, or another one."""
        fields = {
            **({"jwt": secret.jwt} if secret.jwt else {"nkey": secret.public_key}),
            "sig": secret.sign(nonce or str(self.info["nonce"])).decode(),
            "headers": True,
            "no_responders": True,
            "verbose": False,
            "pedantic": False,
            **options,
        }
        return b"CONNECT " + json.dumps(fields).encode()

    async def publish(
        self, subject: str, payload: bytes = b"{}", reply: str = "", headers: bytes | None = None
    ) -> list[str]:
        """Publish; see `say`."""
        return await self.say(frame(subject, payload, reply, headers))

    async def subscribe(self, subject: str, sid: str = "9") -> list[str]:
        """Subscribe, to a queue too where one follows the subject; see `say`."""
        return await self.say(f"SUB {subject} {sid}".encode())

    async def say(self, *lines: bytes) -> list[str]:
        """Write lines and a ping and listen up to the pong; the errors that came before it.

        A connection that the broker closes ends it as well.
        """
        before = len(self.errors)
        await self.write(b"".join(line + b"\r\n" for line in (*lines, b"PING")))
        async with asyncio.timeout(_SECONDS):
            while not self.cut and await self._hear() != b"PONG":
                pass
        return self.errors[before:]

    async def write(self, data: bytes) -> None:
        """Write bytes as they are, and listen to nothing."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(_SECONDS):
                await self._writer.drain()
        except OSError:
            pass  # reading tells that it is closed, after what was still said

    async def until(self, condition: Callable[[], bool]) -> None:
        """Listen until the condition holds; fails when it does not in time."""
        async with asyncio.timeout(_SECONDS):
            while not condition():
                assert not self.cut, self.errors
                await self.say()

    async def end(self) -> list[str]:
        """Listen until the broker closes the connection; all errors."""
        async with asyncio.timeout(_SECONDS):
            while not self.cut:
                await self._hear()
        return self.errors

    async def _hear(self) -> bytes:
        """One frame; its first word."""
        try:
            line = await self._reader.readline()
            match line.split():
                case []:
                    if not line:
                        self.cut = True
                    return b""
                case [b"MSG", subject, _, *reply, size]:
                    payload = (await self._reader.readexactly(int(size) + 2))[:-2]
                    self._keep(subject, reply, b"", payload)
                case [b"HMSG", subject, _, *reply, head, size]:
                    both = (await self._reader.readexactly(int(size) + 2))[:-2]
                    self._keep(subject, reply, both[: int(head)], both[int(head) :])
                case [b"-ERR", *_]:
                    self.errors.append(line.decode(errors="replace").strip())
                case [b"PING"]:
                    await self.write(b"PONG\r\n")
                case _:
                    pass
            return line.split()[0]
        except (asyncio.IncompleteReadError, OSError):
            self.cut = True
            return b""

    def _keep(self, subject: bytes, reply: list[bytes], headers: bytes, payload: bytes) -> None:
        to = reply[0].decode() if reply else ""
        self.heard.append(Heard(subject.decode(), to, headers, payload))

    async def close(self) -> None:
        """Disconnect, without a word."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def frame(
    subject: str, payload: bytes = b"{}", reply: str = "", headers: bytes | None = None
) -> bytes:
    """A PUB or HPUB frame, without its last line end."""
    if headers is None:
        return f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload
    sizes = f"{len(headers)} {len(headers) + len(payload)}"
    return f"HPUB {subject} {reply} {sizes}\r\n".encode() + headers + payload
