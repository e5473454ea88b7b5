"""A file that several processes change: under a lock, and there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from tidegate_schemas.errors import InvalidInput

Stamp = tuple[int, int, int]
"""Time of its last change, number and size of a file."""


@dataclass(frozen=True, slots=True)
class GuardedFile:
    """A path, a lock beside it, and a version that tells whether it was changed.

    Attributes:
        path: of the file.
        mode: of its permissions, before the umask takes some away.
    """

    path: Path
    mode: int = 0o666

    def read(self) -> bytes | None:
        """What it holds; None where there is no file.

        Raises:
            InvalidInput: it cannot be read.
        """
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidInput(f"{self.path}: {error.strerror}") from error

    def version(self) -> str:
        """Another one after each change, and of two that `write` made the later is the greater.

        Empty where there is no file.
        """
        stamp = self.stamp()
        return f"{stamp[0]:020}-{stamp[1]}-{stamp[2]}" if stamp else ""

    def stamp(self) -> Stamp | None:
        """The same for whoever asks often."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 - twice as fast
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Nobody else who asks for it has the lock meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.path.with_suffix(".lock").open("a") as lock:
            os.fchmod(lock.fileno(), 0o600)  # whoever may open it may lock it, and keep it locked
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def write(self, content: bytes) -> None:
        """Put something else there; the caller has the lock."""
        part = self.path.with_suffix(".part")
        part.unlink(missing_ok=True)  # of one who was killed; it may have another mode
        with open(part, "wb", opener=self._open) as file:
            file.write(content)
            file.flush()
            # The clock of files stands still for milliseconds, and numbers of files come again.
            before = self.path.stat().st_mtime_ns if self.path.exists() else 0
            moment = max(time.time_ns(), before + 1)
            os.utime(file.fileno(), ns=(moment, moment))
            os.fsync(file.fileno())  # what it says may be in use from now on
        part.replace(self.path)

    def _open(self, path: str, flags: int) -> int:
        return os.open(path, flags, self.mode)
