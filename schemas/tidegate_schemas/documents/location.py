"""Where something stands in a document: its path from the root, and its line."""

from __future__ import annotations

import re

MAX_DEPTH = 64
"""Deepest nesting of lists and mappings: what a file says must also fit into an envelope."""

SURROGATE = re.compile(r"[\ud800-\udfff]")
TOO_DEEP = f"nested more than {MAX_DEPTH} deep"

Location = tuple[int | str, ...]
Lines = dict[Location, int]
"""Where each field stands: the line of its key, or of the element in a list."""


def inside(at: Location, part: int | str) -> Location:
    """The location of a part."""
    return (*at, part)


def dotted(at: Location) -> str:
    """A location as people write it, e.g. `steps.scan.needs[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in at]
    return "".join(parts).removeprefix(".")


def line_of(lines: Lines, at: Location) -> int:
    """Line of the field, or of the nearest enclosing one; 0 when nothing is known."""
    return next((lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in lines), 0)


def printable(text: str) -> str:
    """A text of the file, fit for an error message."""
    return text if text.isprintable() else repr(text)[1:-1]
