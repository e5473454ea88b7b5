"""Reading a long stretch of the ledger fast, for whoever recomputes what it says.

A blocking connection of its own, made to be used in a worker process: a client library spends more
on a record than it takes to judge it. Reads are Direct Gets (ADR-31), as everywhere.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from tidegate_schemas import subjects
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.errors import InvalidInput, LedgerGap, NotConnected, Unavailable
from tidegate_schemas.subjects import Principal

from .broker.tls import client_context, disagreement, explain
from .frames import Entry, Frames, Status
from .identity.credentials import Credentials

BATCH = 5_000
_BATCH_BYTES = 8 * 1024 * 1024
"""Of one answer. All of it is taken before any of it is given away: a broker lets go of whoever
leaves too much unread for too long."""
_PIECE_BYTES = 512 * 1024
_ANSWER_SECONDS = 5.0
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2
_EOB = 204
_NOTHING = 404


@dataclass(frozen=True, slots=True)
class Access:
    """What it takes to connect; can be sent to another process.

    Attributes:
        url: `nats://host:port` or `tls://host:port`, or several with commas.
        principal: who; must be allowed to read the ledger.
        secret: see `connection.connect`.
        tls: the folder of certificates, where the broker speaks TLS.
    """

    url: str
    principal: Principal
    secret: str | Path = field(repr=False)
    tls: Path | None = None


class BulkReader:
    """Reads one partition's ledger, and its heads. Connects when it is asked; close it."""

    def __init__(self, access: Access, partition: int = 0) -> None:
        self._access = access
        self._partition = partition
        self._stream = subjects.ledger_stream(partition)
        self._heads = subjects.heads_stream(partition)
        self._wire: _Wire | None = None

    def read(
        self, first: int = 1, last: int | None = None, *, filter: str | None = None
    ) -> Iterator[list[Entry]]:
        """Records from `first` to `last`, or to the end, in order, some thousands at a time.

        Args:
            first: sequence to begin with.
            last: sequence to end with; it must be there already.
            filter: a subject with wildcards; only records under it. Without one the sequences
                are checked to be without gap.

        Raises:
            LedgerGap: a record is missing, or the last ones (only without `filter`).
            NotConnected: there is no connection to be had.
            Unavailable: the broker does not answer, also after retries, or it refuses.
        """
        position = first
        while last is None or position <= last:
            size = BATCH if last is None or filter else min(BATCH, last - position + 1)
            request: dict[str, object] = {
                "seq": position,
                "batch": size,
                "max_bytes": _BATCH_BYTES,
                "next_by_subj": filter or subjects.ledger_subjects(self._partition),
            }
            entries, status = self._get(msgspec.json.encode(request))
            if filter is None:
                self._check(entries, position)
            if entries:
                position = entries[-1].seq + 1
                if last is not None and position > last + 1:  # only with a filter
                    entries = [entry for entry in entries if entry.seq <= last]
                if entries:
                    yield entries
            if not status.pending:
                break
        if filter is None and last is not None and position <= last:
            raise LedgerGap(self._stream, position, position - 1)

    def one(self, seq: int) -> bytes:
        """A record that is there already.

        Raises:
            LedgerGap: it is not.
            NotConnected, Unavailable: see `read`.
        """
        (entry,) = next(self.read(seq, seq))
        return entry.payload

    def last(self) -> int:
        """Sequence of the newest record; 0 where there is none.

        Raises:
            NotConnected, Unavailable: see `read`.
        """
        entries, status = self._get(msgspec.json.encode({"seq": 1, "batch": 1}))
        return entries[-1].seq + status.pending if entries else 0

    def since(self, time: int) -> int:
        """Sequence of the first record stored then (ns since 1970) or later; or of the next one.

        Raises:
            NotConnected, Unavailable: see `read`.
        """
        request = {"start_time": rfc3339(time), "batch": 1}
        entries, _ = self._get(msgspec.json.encode(request))
        return entries[0].seq if entries else self.last() + 1

    def newest_head(self) -> Entry | None:
        """The note that the writer published last, by its sequence in the stream of heads.

        Raises:
            NotConnected, Unavailable: see `read`.
        """
        request = {"multi_last": [subjects.head(self._partition)], "batch": 1}
        entries, _ = self._get(msgspec.json.encode(request), self._heads)
        return entries[0] if entries else None

    def heads(self, after: int) -> Iterator[list[Entry]]:
        """The notes that are stored after a sequence, in order; older ones may be gone.

        Raises:
            NotConnected, Unavailable: see `read`.
        """
        subject = subjects.head(self._partition)
        while True:
            request = {"seq": after + 1, "batch": BATCH, "next_by_subj": subject}
            entries, status = self._get(msgspec.json.encode(request), self._heads)
            if entries:
                yield entries
                after = entries[-1].seq
            if not status.pending:
                return

    def close(self) -> None:
        """Disconnect; what is asked for later connects again."""
        if self._wire:
            self._wire.close()
            self._wire = None

    def _check(self, entries: list[Entry], first: int) -> None:
        """Raise LedgerGap unless the sequences follow each other from `first` on."""
        found = [entry.seq for entry in entries]
        if found != list(range(first, first + len(found))):
            expected, seq = next(pair for pair in enumerate(found, first) if pair[0] != pair[1])
            raise LedgerGap(self._stream, expected, seq)

    def _get(self, request: bytes, stream: str = "") -> tuple[list[Entry], Status]:
        """One batch, also over a connection that breaks meanwhile."""
        attempt = 0
        while True:
            attempt += 1
            try:
                if self._wire is None:
                    self._wire = _Wire.dial(self._access)
                return self._ask(self._wire, request, stream or self._stream)
            except _Refusal:
                self.close()
                raise
            except (OSError, Unavailable) as error:
                self.close()
                if attempt >= _ATTEMPTS:
                    raise _said(error, self._access) from error
            time.sleep(_PAUSE_SECONDS)

    def _ask(self, wire: _Wire, request: bytes, stream: str) -> tuple[list[Entry], Status]:
        wire.publish(subjects.direct_get(stream), request)
        frames = wire.frames
        while frames.status is None:
            wire.hear()
        entries, status = frames.entries, frames.status
        frames.entries, frames.status = [], None
        if status.code == _NOTHING:
            return [], status
        if status.code != _EOB:
            raise Unavailable(f"{stream}: {status.code} {status.description}")
        return entries, status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Refusal(Unavailable):
    """The broker says no; it would say it again."""

    retryable = False


class _Wire:
    """A connection that is logged in, and listens on an inbox of its own."""

    def __init__(self, link: socket.socket, access: Access) -> None:
        """Strictly private: use `dial`."""
        self._link = link
        self._access = access
        self._inbox = f"{subjects.inbox(access.principal)}.{secrets.token_hex(8)}".encode()
        self.frames = Frames()

    @classmethod
    def dial(cls, access: Access) -> Self:
        """Connect to the first of the addresses where somebody answers.

        Raises:
            NotConnected: nowhere, or the broker does not know the key.
            InvalidInput: no key, no address, or certificates that are not as they should be.
        """
        credentials = Credentials.of(access.secret)
        addresses = access.url.split(",")
        for number, address in enumerate(addresses, 1):
            try:
                return cls._dial(address, access, credentials)
            except (OSError, Unavailable) as error:
                if number == len(addresses):
                    why = str(_said(error, access))
                    raise NotConnected(
                        f"cannot connect to {access.url} as {access.principal}: {why}"
                    ) from error
        raise AssertionError("unreachable")

    @classmethod
    def _dial(cls, address: str, access: Access, credentials: Credentials) -> Self:
        parts = urlsplit(address)
        if parts.scheme not in ("nats", "tls") or not parts.hostname:
            raise InvalidInput(f"{address!r} is no address of a broker; write nats://host:port")
        tls = None
        if access.tls:
            tls = client_context(access.tls)
        elif parts.scheme == "tls":
            tls = ssl.create_default_context()
        link = socket.create_connection((parts.hostname, parts.port or 4222), _ANSWER_SECONDS)
        try:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            info = _info(link)
            if why := disagreement(tls is not None, bool(info.get("tls_required"))):
                raise _Refusal(why)
            if tls:
                link = tls.wrap_socket(link, server_hostname=parts.hostname)
            wire = cls(link, access)
            wire._log_in(credentials, str(info.get("nonce", "")))
        except BaseException:
            link.close()
            raise
        return wire

    def _log_in(self, credentials: Credentials, nonce: str) -> None:
        who = {"jwt": credentials.jwt} if credentials.jwt else {"nkey": credentials.public_key}
        options: dict[str, Any] = {
            **who,
            "sig": credentials.sign(nonce).decode(),
            "name": str(self._access.principal),
            "lang": "tidegate",
            "version": "1",
            "protocol": 1,
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
        }
        hello = msgspec.json.encode(options)
        self._link.sendall(b"CONNECT %b\r\nSUB %b 1\r\nPING\r\n" % (hello, self._inbox))
        while not self.frames.pongs:
            self.hear()

    def publish(self, subject: str, payload: bytes) -> None:
        """Ask; the answers come to the inbox."""
        ask = (subject.encode(), self._inbox, len(payload), payload)
        self._link.sendall(b"PUB %b %b %d\r\n%b\r\n" % ask)

    def hear(self) -> None:
        """Take what the broker says next.

        Raises:
            Unavailable: it refuses something, or what it says is not its protocol.
            OSError: it says nothing, or the connection broke.
        """
        piece = self._link.recv(_PIECE_BYTES)
        self.frames.feed(piece)
        if self.frames.errors:
            raise _Refusal(f"{self._access.principal}: {'; '.join(self.frames.errors)}")
        if not piece:
            raise ConnectionError("the broker ended the connection")
        if self.frames.pings:
            self._link.sendall(b"PONG\r\n" * self.frames.pings)
            self.frames.pings = 0

    def close(self) -> None:
        """Disconnect."""
        with contextlib.suppress(OSError):
            self._link.close()


def _info(link: socket.socket) -> dict[str, Any]:
    """What the broker says of itself first. Byte by byte: what follows may be a TLS handshake."""
    line = b""
    while not line.endswith(b"\r\n") and len(line) < _PIECE_BYTES:
        if not (byte := link.recv(1)):
            break
        line += byte
    try:
        if line.startswith(b"INFO "):
            return msgspec.json.decode(line[5:], type=dict[str, Any])
    except msgspec.MsgspecError:
        pass
    raise Unavailable("what listens there is no broker")


def _said(error: Exception, access: Access) -> Unavailable:
    if isinstance(error, Unavailable):
        return error
    if isinstance(error, TimeoutError):
        return Unavailable(f"the broker does not answer {access.principal}")
    return Unavailable(explain(error) or str(error) or repr(error))
