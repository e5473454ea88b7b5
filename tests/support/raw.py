"""The NATS protocol by hand, as somebody speaks it who does not use our library."""

from __future__ import annotations

import asyncio
import json
from typing import Self
from urllib.parse import urlsplit

from tidegate_bus.identity.credentials import Credentials


class Raw:
    """A connection on which anything may be written. Make one with `Raw.open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Strictly private: use `open`."""
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str, secret: str | Credentials, **claims: str) -> Self:
        """Connect and prove the key of a principal, by its seed or its credentials.

        `claims` are further fields of CONNECT, such as `name`.
        """
        known = Credentials(secret) if isinstance(secret, str) else secret
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        info = json.loads((await reader.readline()).removeprefix(b"INFO "))
        options = {
            **({"jwt": known.jwt} if known.jwt else {"nkey": known.public_key}),
            "sig": known.sign(info["nonce"]).decode(),
            "headers": True,
            "no_responders": True,
            "verbose": False,
            "pedantic": False,
            **claims,
        }
        connection = cls(reader, writer)
        try:
            answers = await connection.say(b"CONNECT " + json.dumps(options).encode())
            assert not any(line.startswith(b"-ERR") for line in answers), answers
        except BaseException:
            writer.close()
            raise
        return connection

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> list[bytes]:
        """Publish; see `say`."""
        return await self.say(f"PUB {subject} {reply} {len(payload)}".encode(), payload)

    async def publish_with(
        self, headers: bytes, subject: str, payload: bytes, reply: str = ""
    ) -> list[bytes]:
        """Publish with headers as they are; see `say`."""
        sizes = f"{len(headers)} {len(headers) + len(payload)}"
        return await self.say(f"HPUB {subject} {reply} {sizes}".encode(), headers + payload)

    async def say(self, *lines: bytes) -> list[bytes]:
        """Write lines and a ping; the lines that came before the pong, errors among them."""
        self._writer.write(b"".join(line + b"\r\n" for line in (*lines, b"PING")))
        await self._writer.drain()
        heard: list[bytes] = []
        while True:
            line = (await self._reader.readline()).rstrip(b"\r\n")
            assert line, "the broker closed the connection"
            if line == b"PONG":
                return heard
            heard.append(line)

    async def close(self) -> None:
        """Disconnect."""
        self._writer.close()
        await self._writer.wait_closed()
