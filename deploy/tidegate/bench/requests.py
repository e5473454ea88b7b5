"""HTTP/1.1 as cheap as it gets, so that what is measured is the server."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """What a server said."""

    status: int
    body: bytes


def request(path: str, body: bytes, *headers: tuple[str, str]) -> bytes:
    """A POST with JSON, as it is on the wire. `Host` is one of the headers."""
    lines = [f"POST {path} HTTP/1.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client(asyncio.Protocol):
    """A connection that is kept; one request at a time. Make one with `open`."""

    def __init__(self) -> None:
        """Strictly private: use `open`."""
        self._transport: Any = None
        self._heard = b""
        self._asked: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to `http://host:port`.

        Raises:
            OSError: nobody listens there.
        """
        where = urlsplit(url)
        assert where.hostname
        assert where.port
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(cls, where.hostname, where.port)
        return client

    async def ask(self, what: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            ConnectionError: the connection is lost; whether the request was heard nobody knows.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("closed")
        self._asked = asyncio.get_running_loop().create_future()
        self.send(what)
        return await self._asked

    def send(self, what: bytes) -> None:
        """Send a request; `answered` is called with its answer."""
        self._transport.write(what)

    def answered(self, answer: Answer) -> None:
        """Hand on an answer."""
        if self._asked and not self._asked.done():
            self._asked.set_result(answer)

    def close(self) -> None:
        """Disconnect."""
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """See asyncio; that of uvloop is none of its classes."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take some of an answer: a status, headers with the length, and the body."""
        self._heard = self._heard + data if self._heard else data
        end = self._heard.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self._heard[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        length = int(head[at + 17 : head.find(b"\r\n", at + 17)]) if at >= 0 else 0
        if len(self._heard) < end + length:
            return
        answer = Answer(int(head[9:12]), self._heard[end : end + length])
        self._heard = self._heard[end + length :]
        self.answered(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody answers any more."""
        if self._asked and not self._asked.done():
            self._asked.set_exception(ConnectionResetError("lost"))
