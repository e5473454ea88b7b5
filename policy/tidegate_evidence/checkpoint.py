"""Checkpoints (C2SP tlog-checkpoint): how long a log was, and the root of its tree then."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Self

from tidegate_schemas.errors import VerificationError

from .note import read_base64
from .tree import HASH_BYTES

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is signed of a log.

    Attributes:
        origin: the log's name.
        size: how many records it had.
        root: of the tree of these, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a note.

        Stricter than the specification: its extension lines, which nobody can audit, are refused. A
        log of ours has none.

        Raises:
            VerificationError: it is no checkpoint.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0]:
            raise VerificationError("not a checkpoint: it has the lines origin, size and root")
        origin, size, encoded, _ = lines
        if not _SIZE.fullmatch(size) or int(size) > _MOST:
            raise VerificationError(f"not the size of a log: {size[:40]!r}")
        root = read_base64(encoded)
        if len(root) != HASH_BYTES:
            raise VerificationError(f"not the root of a log: {encoded[:60]!r}")
        return cls(origin, int(size), root)

    def text(self) -> str:
        """The text of its note."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"
