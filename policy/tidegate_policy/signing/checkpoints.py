"""Checkpoints on a notary's disk: the newest one, and some of those before it.

    checkpoint                        the newest
    checkpoints/<time>-<size>         for a day one of each minute, after that one of each day

All that is newer than a checkpoint proves it; an older one proves what was there at that time.
"""

from __future__ import annotations

import calendar
import os
import time
from collections.abc import Iterable
from pathlib import Path

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note
from tidegate_schemas.errors import VerificationError

_MINUTE, _DAY = 60, 86_400
_FORM = "%Y%m%dT%H%M%SZ"


class Checkpoints:
    """Those of one log.

    Args:
        folder: the notary's.
        keep: how many seconds one of each day is kept.
    """

    def __init__(self, folder: Path, keep: float) -> None:
        self._newest = folder / "checkpoint"
        self._folder = folder / "checkpoints"
        self._keep = keep
        self._minute = -1

    def read(self) -> tuple[Note, Checkpoint] | None:
        """The newest one; None where there is none yet.

        Raises:
            VerificationError: the file does not hold one.
            OSError: it cannot be read.
        """
        try:
            note = Note.parse(self._newest.read_bytes())
            return note, Checkpoint.parse(note.text)
        except FileNotFoundError:
            return None
        except VerificationError as error:
            raise VerificationError(f"{self._newest}: {error}") from error

    def publish(self, note: Note, size: int, now: int) -> None:
        """Write the newest one: it is there whole or not at all, also when the power fails.

        Args:
            note: of the checkpoint.
            size: its.
            now: seconds since 1970.

        Raises:
            OSError: the disk does not take it.
        """
        data = note.encode()
        write_durably(self._newest, data)
        if now // _MINUTE == self._minute:
            return
        self._minute = now // _MINUTE
        moment = time.strftime(_FORM, time.gmtime(now))
        write_durably(self._folder / f"{moment}-{size}", data)
        names = [path.name for path in self._folder.iterdir()]
        for name in superfluous(names, now, self._keep):
            (self._folder / name).unlink(missing_ok=True)


def superfluous(names: Iterable[str], now: int, keep: float) -> list[str]:
    """Which of these may go: of each minute of the last day, and of each day before, all but one.

    Args:
        names: of files.
        now: seconds since 1970.
        keep: how many seconds the one of a day is kept.
    """
    kept = set[tuple[int, int]]()
    gone: list[str] = []
    for name in sorted(names, reverse=True):  # by time, the newest first
        try:
            moment = calendar.timegm(time.strptime(name.partition("-")[0], _FORM))
        except ValueError:  # none of ours
            continue
        length = _MINUTE if now - moment < _DAY else _DAY
        bucket = (length, moment // length)
        if bucket in kept or now - moment > max(keep, _DAY):
            gone.append(name)
        kept.add(bucket)
    return gone


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also when the power fails meanwhile.

    Raises:
        OSError: the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
