"""Patches as `git diff-tree -p --cc -U1 --no-prefix` writes them, read as hostile bytes.

An ordinary patch has one column of `+` and `-`; the combined patch of a merge has one for each
parent. A line counts as added when it is in no parent, as deleted when it was in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_HEADER = re.compile(rb"diff --(git|cc|combined) (.*)", re.DOTALL)
_HUNK = re.compile(rb"@@+ ((?:-\d{1,9}(?:,\d{1,9})? )+)\+(\d{1,9})(?:,(\d{1,9}))? @@")
_COUNT = re.compile(rb"-\d+(?:,(\d+))?")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_LETTERS = dict(zip(b"abtnvfr", b"\a\b\t\n\v\f\r", strict=True))


@dataclass(slots=True)
class FilePatch:
    """What happens to one file; `path` is its new one.

    Attributes:
        added: line number in the new file, and text, of each added line.
        deleted: how many lines go.
        binary: git shows no lines of it.
    """

    path: str
    added: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    deleted: int = 0
    binary: bool = False

    @property
    def lines(self) -> int:
        """Lines that change."""
        return len(self.added) + self.deleted


@dataclass(frozen=True, slots=True)
class Patch:
    """The change of one commit. Not `complete`: too long, and read up to the limit only."""

    files: tuple[FilePatch, ...]
    complete: bool = True


def parse(text: bytes, *, complete: bool = True) -> Patch:
    """Read a patch. What is not understood is passed over; nothing is raised.

    Args:
        text: what git wrote.
        complete: whether that is all that git had to say; a last line without end is dropped
            when it is not.
    """
    lines = iter(text.split(b"\n")[: None if complete else -1])
    files: list[FilePatch] = []
    for line in lines:
        if header := _HEADER.fullmatch(line):
            files.append(FilePatch(_header_path(header[1], header[2])))
        elif not files:
            continue
        elif hunk := _HUNK.match(line):
            _read_hunk(hunk, lines, files[-1])
        elif line.startswith((b"rename to ", b"copy to ")):
            files[-1].path = _unquote(line.partition(b" to ")[2])
        elif line.startswith(b"Binary files "):
            files[-1].binary = True
    return Patch(tuple(files), complete)


def _read_hunk(hunk: re.Match[bytes], lines: Iterator[bytes], into: FilePatch) -> None:
    """Read exactly the lines that the hunk announces: an added line may look like a header."""
    olds = [int(count or 1) for count in _COUNT.findall(hunk[1])]
    number, new = int(hunk[2]), int(hunk[3] or 1)
    width = len(olds)
    while (new or any(olds)) and (line := next(lines, None)) is not None:
        if line.startswith(b"\\"):  # no newline at the end of the file
            continue
        marks = line[:width]
        if b"-" in marks:
            into.deleted += marks.count(b"-") == width
            gone, stays = b"-", 0
        else:
            if marks.count(b"+") == width:
                into.added.append((number, line[width:]))
            number += 1
            gone, stays = b" ", 1
        new -= stays
        olds = [old - (marks[n : n + 1] == gone) for n, old in enumerate(olds)]
        if new < 0 or min(olds) < 0:
            return


def _header_path(form: bytes, names: bytes) -> str:
    """The path of `diff --cc P` or `diff --git P P`; a rename gives the new one on its own line."""
    return _unquote(names if form != b"git" else names[: len(names) // 2])


def _unquote(name: bytes) -> str:
    if name.startswith(b'"') and name.endswith(b'"') and len(name) > 1:
        name = _ESCAPE.sub(_unescape, name[1:-1])
    return name.decode("utf-8", "replace")


def _unescape(escape: re.Match[bytes]) -> bytes:
    text = escape[1]
    return bytes([int(text, 8) & 255 if len(text) == 3 else _LETTERS.get(text[0], text[0])])
