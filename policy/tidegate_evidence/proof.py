"""A proof that one record is in a log, to keep beside the record (C2SP tlog-proof).

c2sp.org/tlog-proof@v1
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
…

example.com/fancylog
…
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Self

from tidegate_schemas.errors import VerificationError

from .checkpoint import Checkpoint
from .note import Note, read_base64
from .tree import check_inclusion, leaf_hash
from .trust import Trust

_FIRST = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile("index (0|[1-9][0-9]{0,18})")
_MAX_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a record is, the hashes from its sibling up to the root's child, and the checkpoint."""

    index: int
    hashes: tuple[bytes, ...]
    note: Note

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a proof; nothing is verified. Its `extra` data, which nobody signs, is left out.

        Raises:
            VerificationError: the bytes are no proof.
        """
        head, between, note = data.partition(b"\n\n")
        if not between or len(head) > _MAX_HEAD_BYTES or not head.isascii():
            raise VerificationError("not a proof: no checkpoint after an empty line")
        first, *lines = head.decode().split("\n")
        if first != _FIRST:
            raise VerificationError(f"not a proof: its first line is not {_FIRST}")
        if lines and lines[0].startswith("extra "):
            read_base64(lines.pop(0).removeprefix("extra "))
        index = _INDEX.fullmatch(lines[0]) if lines else None
        if not index:
            raise VerificationError("not a proof: it has no index")
        return cls(int(index[1]), tuple(map(read_base64, lines[1:])), Note.parse(note))

    def encode(self) -> bytes:
        """The bytes of a `.tlog-proof` file."""
        lines = [_FIRST, f"index {self.index}"]
        lines += [base64.b64encode(one).decode() for one in self.hashes]
        return "\n".join([*lines, "", ""]).encode() + self.note.encode()

    def check(self, record: bytes, trust: Trust) -> Checkpoint:
        """The checkpoint of the log in which the record is, at `index`.

        Raises:
            VerificationError: that is not shown.
        """
        checkpoint = trust.check(self.note)
        leaf = leaf_hash(record)
        check_inclusion(leaf, self.index, checkpoint.size, checkpoint.root, self.hashes)
        return checkpoint
