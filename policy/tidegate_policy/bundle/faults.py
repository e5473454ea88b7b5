"""How a fault of a bundle is told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MAX_TEXT = 300


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault: where, what, and the way out.

    Attributes:
        file: its name in the bundle; empty where the bundle as a whole is meant.
        line: 1-based; 0 when unknown.
        what, hint: one line of text each; `hint` may be empty.
    """

    file: str
    line: int
    what: str
    hint: str = ""

    def told(self, folder: Path | None = None) -> str:
        """`file:line: what; hint`, with the file's name in a folder."""
        file = str(folder / self.file) if folder else self.file or "the bundle"
        if not file.isprintable() or "\\" in file:
            file = repr(file)
        line = f":{self.line}" if self.line else ""
        return f"{file}{line}: {self.what}{f'; {self.hint}' if self.hint else ''}"


def one_line(text: object) -> str:
    """A message of somebody else, fit for a fault."""
    line = " ".join(str(text).split())
    return line if len(line) <= _MAX_TEXT else f"{line[: _MAX_TEXT - 2]} …"


def meant(word: str, known: Iterable[str]) -> str:
    """`did you mean …?`, if something known is like the word."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
