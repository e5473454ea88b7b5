"""Where a source is up to, in a file that survives a kill and a power cut."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from tidegate_schemas.errors import InvalidInput

S = TypeVar("S", bound=msgspec.Struct)


class Cursor(Generic[S]):
    """A struct in a file of its own, replaced as a whole.

    Args:
        path: the file.
        kind: of the struct.
    """

    def __init__(self, path: Path, kind: type[S]) -> None:
        self.path = path
        self._kind = kind

    def read(self) -> S | None:
        """What was saved last; None if nothing was.

        Raises:
            InvalidInput: the file holds something else.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=self._kind)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise InvalidInput(f"{self.path} does not say how far a source got: {error}") from None

    def save(self, value: S) -> None:
        """Keep it; when this returns it is on the disk."""
        part = self.path.with_name(f"{self.path.name}.part")
        with part.open("wb") as file:
            file.write(msgspec.json.encode(value))
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def alone(path: Path) -> Generator[None]:
    """Nobody else uses the file meanwhile: two of the same source would publish all twice.

    Raises:
        InvalidInput: somebody does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(f"another process keeps in {path} how far it got") from None
        yield


def open_file(path: Path, *, follow: bool = True) -> int:
    """Open a file to read it. Nobody can make a source wait, as a named pipe would.

    Args:
        path: of the file.
        follow: whether it may be a link to one.

    Raises:
        OSError: it is not there, is not for us, or is no regular file.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return file


def event_id(*parts: object) -> str:
    """An envelope id that follows from these: the same ones give the same id."""
    return hashlib.sha256(
        "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    ).hexdigest()[:32]
