"""What a notary keeps of evidence that does not hold.

alarms/<time>-<what>/    finding.json, both notes, and the records and tiles that differ
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec

from .checkpoints import write_durably

_MOST = 100


class What(StrEnum):
    """What does not hold."""

    HEAD = "head"
    """What the writer published last is no head of the log that one of its keys signed."""
    ROOT = "root"
    """The records that the broker gives are not those that the writer signed."""
    FORK = "fork"
    """The writer signed two histories."""
    ROLLBACK = "rollback"
    """The writer signed less than before, and not the beginning of it."""
    MISSING = "missing"
    """The broker does not have all records that were signed."""
    RECORD = "record"
    """A record does not say of itself what it is."""
    CHECKPOINT = "checkpoint"
    """What the notary itself has kept is not what it published."""
    WITNESS = "witness"
    """A witness has seen another history, or more of it."""


class Located(msgspec.Struct, frozen=True, omit_defaults=True):
    """Between which records, both included, the first difference is. Sequences, from 1."""

    first: int
    last: int
    by: str
    """What told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold.

    Attributes:
        what: of which kind.
        detail: a sentence.
        located: where, if that is known already.
        evidence: what is to be kept, by file name.
    """

    what: What
    detail: str
    located: Located | None = None
    evidence: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


class Mismatch(Exception):
    """Raised where something does not hold."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding


class Alarms:
    """The folder of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def count(self) -> int:
        """How many are kept."""
        try:
            return sum(1 for _ in self._folder.iterdir())
        except OSError:
            return 0

    def keep(self, finding: Finding, now: int) -> Path | None:
        """Keep the evidence; where it is. None where a hundred are kept already.

        Whoever makes one alarm after the other shall not fill the disk.

        Args:
            finding: what was found.
            now: seconds since 1970.

        Raises:
            OSError: the disk does not take it.
        """
        if self.count() >= _MOST:
            return None
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        number, place = 1, self._folder / f"{moment}-{finding.what}"
        while place.exists():
            number += 1
            place = self._folder / f"{moment}-{finding.what}-{number}"
        place.mkdir(parents=True, mode=0o700)
        for name, data in finding.evidence.items():
            write_durably(place / name, data)
        self.say(place, finding, now)
        return place

    def say(self, place: Path, finding: Finding, now: int) -> None:
        """Write down what was found, anew when more is known.

        Raises:
            OSError: the disk does not take it.
        """
        body = {
            "what": finding.what,
            "detail": finding.detail,
            "time": now,
            "located": finding.located,
        }
        write_durably(
            place / "finding.json", msgspec.json.format(msgspec.json.encode(body)) + b"\n"
        )
