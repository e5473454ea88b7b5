"""Lines of a stream of bytes that comes in pieces, each with its place."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 2**20
"""Bytes of a line; the broker takes no more in one message."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its first byte and the one after its end, counted from the beginning.

    Attributes:
        text: without the end of line (LF or CR LF); None if it is too long to be read.
    """

    start: int
    end: int
    text: bytes | None


class Lines:
    """Cuts what comes into lines. It keeps at most one of them, and none that is too long.

    Args:
        start: place of the first byte that will come.
        longest: bytes a line.
    """

    def __init__(self, start: int = 0, longest: int = LONGEST) -> None:
        self._start = start
        self._longest = longest
        self._kept = b""
        self._dropped = 0

    def feed(self, data: bytes) -> list[Line]:
        """The lines that end in these bytes."""
        *ended, rest = data.split(b"\n")
        found: list[Line] = []
        for text in ended:
            self._keep(text)
            found.append(self._line(1))
        self._keep(rest)
        return found

    def rest(self) -> Line | None:
        """The last line, if nothing ended it and nothing will."""
        return self._line(0) if self._kept or self._dropped else None

    def _keep(self, data: bytes) -> None:
        self._kept = self._kept + data if self._kept else data
        if self._dropped or len(self._kept) > self._longest:
            self._dropped += len(self._kept)
            self._kept = b""

    def _line(self, newline: int) -> Line:
        start, text = self._start, self._kept
        self._start += len(text) + self._dropped + newline
        line = Line(start, self._start, None if self._dropped else text.removesuffix(b"\r"))
        self._kept, self._dropped = b"", 0
        return line
