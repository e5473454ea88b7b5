"""Files of a folder: each that is new or has changed is an event, once it is complete.

The folder is looked through again and again, the same way at the start and later. A file counts as
complete when it has not changed for a moment; one that was renamed into the folder is so at once,
because it was written before. What is hidden (`.name`) and what is a link is left alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate_schemas.clock import rfc3339
from tidegate_schemas.errors import InvalidInput

from .cursor import event_id, open_file
from .pump import Item
from .shape import Shape

_LOOK_SECONDS = 0.5
_SHARE = 20
"""It rests so many times as long as looking took: a large folder is looked at less often."""
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was published.

    Attributes:
        path: inside the folder.
        stamp: what tells that it was written to or replaced: inode, size and times.
        digest: SHA-256 of its content in hex; empty for one that was there before us.
    """

    path: str
    stamp: str
    digest: str


class Watch:
    """A folder whose files are events.

    Args:
        folder: with all that is in it.
        shape: of the events.
        kept: an SQLite file, in which it is kept what was published.
        pattern: only files whose path inside the folder fits it, as `PurePath.match` says.
        content: files of at most so many bytes are sent with what is in them.
        settle: seconds in which a file must not change.
        existing: at the very first start, publish what is there already.
    """

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        kept: Path,
        *,
        pattern: str = "*",
        content: int = 0,
        settle: float = 1.0,
        existing: bool = False,
    ) -> None:
        self._folder = folder
        self._shape = shape
        self._database = sqlite3.connect(kept)
        self._pattern = pattern
        self._content = content
        self._settle = settle
        self._existing = existing
        self._seen: dict[str, Seen] = {}
        self._new: dict[str, tuple[str, float]] = {}

    async def items(self) -> AsyncGenerator[Item[Seen] | None]:
        """See `feed.Source`."""
        if not self._folder.is_dir():
            raise InvalidInput(f"{self._folder} is no folder")
        self._open()
        while True:
            began = time.monotonic()
            files = dict(self._files())
            for path in self._complete(files):
                found = await asyncio.to_thread(self._look, path, files[path])
                if isinstance(found, _File) and found.seen.digest == self._digest(path):
                    self.settled(found.seen)  # touched, or renamed from something equal
                elif found:
                    yield self._item(found)
            yield None  # what was found is known before it is looked for again
            self._forget(files)
            await asyncio.sleep(max(_LOOK_SECONDS, _SHARE * (time.monotonic() - began)))

    def settled(self, position: Seen) -> None:
        """See `feed.Source`."""
        self._seen[position.path] = position
        self._database.execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)",
            (os.fsencode(position.path), position.stamp, position.digest),
        )

    def save(self) -> None:
        """See `feed.Source`."""
        self._database.commit()

    def facts(self) -> dict[str, Any]:
        """See `feed.Source`."""
        return {"folder": str(self._folder), "files": len(self._seen), "unsettled": len(self._new)}

    def _open(self) -> None:
        """Read what is known; at the very first start, what is there now."""
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS seen (path BLOB PRIMARY KEY, stamp TEXT, digest TEXT)"
        )
        for path, stamp, digest in self._database.execute("SELECT path, stamp, digest FROM seen"):
            self._seen[os.fsdecode(path)] = Seen(os.fsdecode(path), stamp, digest)
        (known,) = self._database.execute("PRAGMA user_version").fetchone()
        if known:
            return
        self._database.execute("BEGIN")  # all of it is known, or none
        if not self._existing:
            for path, stat in self._files():
                self.settled(Seen(path, _stamp(stat), ""))
        self._database.execute("PRAGMA user_version = 1")
        self.save()

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """What is in the folder now, by its path inside it."""
        folders = [self._folder]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                if folder == self._folder:
                    raise InvalidInput(f"{folder}: {error.strerror}") from None
                continue  # it went away meanwhile, or is not for us
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.startswith(".") or entry.is_symlink():
                        continue
                    path = Path(entry.path)
                    inside = path.relative_to(self._folder)
                    if entry.is_dir():
                        folders.append(path)
                    elif entry.is_file() and inside.match(self._pattern):
                        yield str(inside), entry.stat()

    def _complete(self, files: dict[str, os.stat_result]) -> list[str]:
        """Those that are not as they were published, and have not changed for a moment."""
        wall, now = time.time(), time.monotonic()
        found: list[str] = []
        new: dict[str, tuple[str, float]] = {}
        for path, stat in files.items():
            stamp = _stamp(stat)
            if path in self._seen and self._seen[path].stamp == stamp:
                continue
            before = self._new.get(path)
            since = before[1] if before and before[0] == stamp else now
            new[path] = (stamp, since)
            if wall - stat.st_mtime >= self._settle or now - since >= self._settle:
                found.append(path)
        self._new = new
        return found

    def _look(self, path: str, listed: os.stat_result) -> _File | None:
        """Read a file; None if it is not the one that was listed any more.

        So a link that takes its place, or that of a folder, leads to nothing.
        """
        digest, content = hashlib.sha256(), b""
        try:
            with os.fdopen(open_file(self._folder / path, follow=False), "rb") as file:
                before = os.fstat(file.fileno())
                if _stamp(before) != _stamp(listed):
                    return None
                while data := file.read(_CHUNK):
                    digest.update(data)
                    if len(content) + len(data) <= self._content:
                        content += data
                after = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            # Known as it is: when it may be read, its stamp is another one.
            why = error.strerror or str(error)
            return _File(Seen(path, _stamp(listed), ""), listed, b"", why)
        if _stamp(before) != _stamp(after):
            return None
        return _File(Seen(path, _stamp(after), digest.hexdigest()), after, content)

    def _item(self, file: _File) -> Item[Seen]:
        if file.problem:
            return Item(file.seen, None, f"{file.seen.path}: {file.problem}")
        data: dict[str, Any] = {
            "path": file.seen.path,
            "size": file.stat.st_size,
            "digest": f"sha256:{file.seen.digest}",
            "modified": rfc3339(file.stat.st_mtime_ns),
        }
        if self._content and file.stat.st_size <= self._content:
            try:
                data["content"] = file.content.decode()
            except UnicodeDecodeError:
                data["content_base64"] = base64.b64encode(file.content).decode()
        seen = file.seen
        id = event_id(self._folder, seen.path, seen.stamp, seen.digest)
        return self._shape.item(seen, id, data, what=repr(seen.path), now=time.time_ns())

    def _digest(self, path: str) -> str | None:
        return self._seen[path].digest if path in self._seen else None

    def _forget(self, files: dict[str, os.stat_result]) -> None:
        """Whoever comes again under the name of a file that is gone is new."""
        gone = [path for path in self._seen if path not in files]
        for path in gone:
            del self._seen[path]
            self._database.execute("DELETE FROM seen WHERE path = ?", (os.fsencode(path),))
        if gone:
            self.save()


@dataclass(frozen=True, slots=True)
class _File:
    """A file that was read."""

    seen: Seen
    stat: os.stat_result
    content: bytes
    problem: str = ""


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
