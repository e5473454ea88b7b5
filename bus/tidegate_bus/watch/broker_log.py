"""The broker's log, followed: what it refused to whom, counted and told.

nats-server tells nobody but its log file of a client that publishes or subscribes where it may
not. Without a reader the attempts of an attacker would be invisible until one works.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import structlog
from prometheus_client import Counter

from tidegate_schemas.subjects import Principal

from .incidents import Incident, parse
from .roll import UNKNOWN

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.broker_log")

_TICK_SECONDS = 0.2
_TICK_BYTES = 256 * 1024
"""Read at once: some 1,300 lines, some 20 ms of work."""

_BEHIND_BYTES = 8 * 1024 * 1024
"""Further back nothing is read, some 6 s of work: in a flood the present tells more."""

_LINE_BYTES = 64 * 1024
_QUIET_SECONDS = 10.0
"""Incidents of one kind and principal are told at most this often."""

_incidents = Counter(
    "tidegate_broker_incidents_total", "What the broker refused", ["kind", "principal"]
)
_unread = Counter(
    "tidegate_broker_log_unread_bytes_total", "Of the broker's log, skipped in a flood"
)


class Tail:
    """The lines that are added to a file, from its present end on.

    The file may not be there yet, may be cut back to nothing (`copytruncate`), or be moved away:
    then what is left in it is read before its successor. Cut back and grown beyond the old length
    between two looks, it is read from there on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._dropping = False
        self.skipped = 0
        """Bytes that were not read, ever."""
        self._open()
        if self._file:
            self._skip_to(self._size())

    def lines(self, at_most: int = _TICK_BYTES) -> list[bytes]:
        """Whole lines that were added since the last call, without newlines.

        Args:
            at_most: bytes to read; the next call goes on from there.

        Raises:
            OSError: the file cannot be read.
        """
        if self._file is None:
            self._open()
        if self._file is None:
            return []
        size, position = self._size(), self._file.tell()
        if size < position:
            self._file.seek(0)
            self._rest, self._dropping = b"", False
        elif size - position > _BEHIND_BYTES:
            self.skipped += size - at_most - position
            self._skip_to(size - at_most)
        data = self._file.read(at_most)
        if not data and self._moved():
            self.close()
            self._open()
        *whole, rest = (self._rest + data).split(b"\n")
        if whole and self._dropping:
            del whole[0]
            self._dropping = False
        self._rest = b"" if self._dropping else rest
        if len(self._rest) > _LINE_BYTES:  # no line of the broker
            self._rest, self._dropping = b"", True
        return whole

    def close(self) -> None:
        """Stop reading."""
        if self._file:
            self._file.close()
        self._file = None
        self._rest, self._dropping = b"", False

    def _open(self) -> None:
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            self._file = None

    def _size(self) -> int:
        assert self._file
        return os.fstat(self._file.fileno()).st_size

    def _moved(self) -> bool:
        assert self._file
        try:
            found = self._path.stat()
        except FileNotFoundError:  # its successor is not there yet
            return False
        ours = os.fstat(self._file.fileno())
        return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino)

    def _skip_to(self, position: int) -> None:
        """Go on there; the rest of a line that has begun before is no line."""
        assert self._file
        self._rest, self._dropping = b"", False
        if position > 0:
            self._file.seek(position - 1)
            self._dropping = self._file.read(1) != b"\n"


@dataclass(frozen=True, slots=True)
class Told:
    """An incident, and whose it was.

    Attributes:
        incident: what the broker wrote; `incident.claims` is the client's own word.
        principal: who it was, proven; None if nobody knows.
        left_out: how many more of this kind and principal there were since the last one told.
    """

    incident: Incident
    principal: Principal | None
    left_out: int = 0


class _Quiet:
    """What is not told for a while."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.left_out = 0
        self.last: Incident | None = None


class BrokerLog:
    """Follows the log of one broker.

    Args:
        path: its log file.
        principals: public key to principal, of everybody; it may change at any time.
        tell: called with incidents: the first of a kind and principal at once, then at most one
            in 10 s, with the number of those left out.
        owner: whose a connection is, by the broker's number of it, as `Warden.owner` knows. In
            operator mode a client can put another's key into the log; then this tells who it was.
        expected: of which incidents, when they are read, nothing is told; they are counted.
    """

    def __init__(
        self,
        path: Path,
        principals: Mapping[str, Principal],
        tell: Callable[[Told], object],
        *,
        owner: Callable[[int], Principal | None] | None = None,
        expected: Callable[[Told], bool] | None = None,
    ) -> None:
        self._tail = Tail(path)
        self._principals = principals
        self._tell = tell
        self._owner = owner
        self._expected = expected
        self._quiet: dict[tuple[str, Principal | None], _Quiet] = {}
        self._unread = 0

    async def run(self) -> None:
        """Follow it, for ever; a log that cannot be read is tried again."""
        clock = asyncio.get_running_loop().time
        failed = False
        try:
            while True:
                try:
                    self.tick(clock())
                    failed = False
                except OSError as error:
                    if not failed:
                        _log.error("cannot read the broker's log", error=str(error))
                    failed = True
                await asyncio.sleep(_TICK_SECONDS)
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading; `run` does so at its end."""
        self._tail.close()

    def tick(self, now: float) -> None:
        """Read what was added, a bounded amount.

        Args:
            now: seconds of a clock that never goes back.

        Raises:
            OSError: the log cannot be read.
        """
        for line in self._tail.lines():
            incident = parse(line)
            if incident:
                self._count(incident, now)
        if self._tail.skipped > self._unread:
            _log.error("skipped a flood in the broker's log", bytes=self._tail.skipped)
            _unread.inc(self._tail.skipped - self._unread)
            self._unread = self._tail.skipped
        for key, quiet in list(self._quiet.items()):
            if now < quiet.until:
                continue
            if quiet.last is None:
                del self._quiet[key]
            else:
                self._tell(Told(quiet.last, key[1], quiet.left_out - 1))
                self._quiet[key] = _Quiet(now + _QUIET_SECONDS)

    def _count(self, incident: Incident, now: float) -> None:
        principal = self._principals.get(incident.key)
        if principal is None and not incident.key and self._owner:
            principal = self._owner(incident.cid)
        if incident.claims in self._principals:
            incident = replace(incident, claims=str(self._principals[incident.claims]))
        label = str(principal) if principal else UNKNOWN
        _incidents.labels(incident.what, label).inc()
        if self._expected and self._expected(Told(incident, principal)):
            return
        quiet = self._quiet.get((incident.what, principal))
        if quiet is None:
            self._quiet[incident.what, principal] = _Quiet(now + _QUIET_SECONDS)
            self._tell(Told(incident, principal))
        else:
            quiet.left_out += 1
            quiet.last = incident
