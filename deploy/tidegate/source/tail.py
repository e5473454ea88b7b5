"""Lines of a file that grows, as `tail -F` follows it.

A file that is renamed (log rotation) is read to its end, and then what came after it, also if all
that happened while nobody looked. One that is cut off and filled anew is recognised by the bytes
before the place where it was left; if it was copied first (`copytruncate`), the copy is read to
its end. A last line without an end waits for it while its file may still grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

import msgspec
import structlog

from tidegate_schemas.errors import InvalidInput

from .cursor import Cursor, event_id, open_file
from .lines import LONGEST, Line, Lines
from .pump import Item
from .shape import Shape

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.source")

Format = Literal["text", "json"]
Position = tuple[int, bytes]
"""Place after the line, and the last bytes before it."""

_CHUNK = 2**16
_MARK = 256
_LOOK_SECONDS = 0.1
_CLOCK_NS = 10_000_000
"""By so much times of files are coarser than those of the clock."""


class Place(msgspec.Struct, frozen=True):
    """Up to where a file is taken.

    Attributes:
        epoch: part of the ids of its lines; another one for each file.
        device, inode: of the file; 0 if there was none yet.
        offset: bytes that are taken.
        marked: so many of the last bytes of them make the mark.
        mark: their SHA-256 in hex.
        time: when it was saved, nanoseconds since 1970.
    """

    epoch: str
    device: int
    inode: int
    offset: int
    marked: int
    mark: str
    time: int


class Tail:
    """A file whose lines are events.

    Args:
        path: the file; it need not exist yet.
        shape: of the events.
        format: `json` takes each line as the data, `text` puts it into `line`.
        kept: where it is kept how far it got.
        existing: at the very first start, take what the file holds already.
        quiet: seconds in which nothing came to a file that was renamed, until the next one is read:
            whoever writes to it may not have noticed yet.
    """

    def __init__(
        self,
        path: Path,
        shape: Shape,
        format: Format,
        kept: Cursor[Place],
        *,
        existing: bool = False,
        quiet: float = 2.0,
    ) -> None:
        self._path = path.absolute()
        self._shape = shape
        self._format = format
        self._kept = kept
        self._existing = existing
        self._quiet = quiet
        self._place = Place("", 0, 0, 0, 0, "", 0)
        self._settled: Position = (0, b"")
        self._read = self._size = 0
        self._cut = False
        self._renamed = re.compile(re.escape(path.name) + r"[.-]\d[\d._-]*")

    async def items(self) -> AsyncGenerator[Item[Position] | None]:
        """See `feed.Source`."""
        found = self._kept.read()
        if found is None:
            self._first()
        else:
            self._place = found
        file = await self._found()
        while True:
            try:
                async for item in self._lines(file):
                    yield item
                yield None  # what follows is counted anew
                last = os.fstat(file)
            finally:
                os.close(file)
            file = await (self._found() if self._cut else self._next(last.st_mtime_ns))

    def settled(self, position: Position) -> None:
        """See `feed.Source`."""
        self._settled = position

    def save(self) -> None:
        """See `feed.Source`."""
        offset, mark = self._settled
        self._place = msgspec.structs.replace(
            self._place,
            offset=offset,
            marked=len(mark),
            mark=_digest(mark),
            time=time.time_ns(),
        )
        self._kept.save(self._place)

    def facts(self) -> dict[str, Any]:
        """See `feed.Source`."""
        return {"file": str(self._path), "unread_bytes": max(0, self._size - self._read)}

    def _first(self) -> None:
        """Nothing is known yet: begin at the end, or at the beginning if that is wanted."""
        try:
            file = open_file(self._path)
        except FileNotFoundError:
            self._begin(None)
            return
        except OSError as error:
            raise InvalidInput(f"{self._path}: {error.strerror}") from None
        try:
            offset = 0 if self._existing else _last_line(file)
            start = max(0, offset - _MARK)
            self._begin(os.fstat(file), (offset, os.pread(file, offset - start, start)))
        finally:
            os.close(file)

    def _begin(self, file: os.stat_result | None, at: Position = (0, b"")) -> None:
        """A file is taken from here. Its epoch is on the disk before any of it is published."""
        device, inode = _identity(file) if file else (0, 0)
        self._settled = at
        self._place = Place(secrets.token_hex(16), device, inode, 0, 0, "", 0)
        self.save()

    async def _found(self) -> int:
        """The file in which what is kept goes on, opened."""
        place = self._place
        if place.inode:
            for path in (self._path, *self._siblings()):
                if (file := self._open(path, of=(place.device, place.inode))) is not None:
                    return file
            # The last save is older than the copy, but for what is known of its clock.
            for path in self._rotated(place.time - _CLOCK_NS) if place.marked else ():
                if (file := self._open(path)) is not None:
                    return file
            if place.offset:
                _log.warning(
                    "cut off, or gone: what had followed there is lost, if anything",
                    file=str(self._path),
                    offset=place.offset,
                )
        return await self._next(place.time)

    def _open(self, path: Path, *, of: tuple[int, int] | None = None) -> int | None:
        """A file, if it goes on where we are. With `of`, it must be that one, else a copy."""
        place = self._place
        try:
            file = open_file(path)
        except OSError:
            return None
        stat = os.fstat(file)
        mark = os.pread(file, place.marked, place.offset - place.marked)
        if (
            (of is None or of == _identity(stat))
            and stat.st_size >= place.offset
            and _digest(mark) == place.mark
        ):
            self._settled = (place.offset, mark)
            return file
        os.close(file)
        return None

    async def _next(self, after: int) -> int:
        """The file that came next, opened: the first one renamed since, or that of the name."""
        waits = False
        while True:
            for path in (*self._rotated(after), self._path):
                try:
                    file = open_file(path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise InvalidInput(f"{path}: {error.strerror}") from None
                self._begin(os.fstat(file))
                return file
            if not waits:
                _log.info("waiting for the file", file=str(self._path))
            waits = True
            await asyncio.sleep(_LOOK_SECONDS)

    def _siblings(self) -> list[Path]:
        """Files whose names begin like ours: it may have been renamed to one of them."""
        name = self._path.name
        found = self._path.parent.iterdir()
        return [path for path in found if path.name.startswith(name) and path.name != name]

    def _rotated(self, after: int) -> list[Path]:
        """Others that were renamed or copied, and written to after a time (ns), oldest first."""
        found: list[tuple[int, Path]] = []
        for path in self._siblings():
            if self._renamed.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    other = _identity(stat) != (self._place.device, self._place.inode)
                    if other and S_ISREG(stat.st_mode):
                        found.append((stat.st_mtime_ns, path))
        return [path for written, path in sorted(found) if written > after]

    async def _lines(self, file: int) -> AsyncGenerator[Item[Position]]:
        """Lines of a file, until another one has its name and nothing more comes, or it was cut."""
        self._read, before = self._settled
        self._cut = False
        lines = Lines(self._read)
        while True:
            data = os.pread(file, len(before) + _CHUNK, self._read - len(before))
            if not data.startswith(before):
                self._cut = True
                return
            base = self._read - len(before)
            if len(data) > len(before):
                self._read, self._size = base + len(data), os.fstat(file).st_size
                for line in lines.feed(data[len(before) :]):
                    if item := self._item(
                        line, data[max(0, line.end - base - _MARK) : line.end - base]
                    ):
                        yield item
                before = data[-_MARK:]
            elif self._passed(file):
                if (last := lines.rest()) and (item := self._item(last, before)):
                    yield item
                return
            else:
                await asyncio.sleep(_LOOK_SECONDS)

    def _item(self, line: Line, mark: bytes) -> Item[Position] | None:
        """The event of a line; None for an empty one of JSON Lines, which says nothing."""
        position, what = (line.end, mark), f"the line at byte {line.start}"
        if line.text is None:
            return Item(position, None, f"{what} is longer than {LONGEST} bytes")
        if self._format == "json":
            if not line.text.strip():
                return None
            data: Any = msgspec.Raw(line.text)
        else:
            data = {"line": line.text.decode("utf-8", "replace")}
        id = event_id(self._place.epoch, line.start)
        return self._shape.item(position, id, data, what=what, now=time.time_ns())

    def _passed(self, file: int) -> bool:
        """Whether another file has the name now, and nothing more comes to this one."""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        stat = os.fstat(file)
        return _identity(now) != _identity(stat) and time.time() - stat.st_mtime >= self._quiet


def _identity(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino


def _digest(mark: bytes) -> str:
    return hashlib.sha256(mark).hexdigest()


def _last_line(file: int) -> int:
    """Where the last line begins, if it has no end yet; else where the file ends."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _CHUNK)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
