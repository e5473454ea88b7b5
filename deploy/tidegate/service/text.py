"""Paths and words as systemd reads them (systemd.syntax(7), systemd.service(5) "COMMAND LINES")."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tidegate_schemas.errors import InvalidInput


def plain(value: str | Path) -> str:
    """A value that takes the whole line: only `%` means something in it.

    Raises:
        InvalidInput: it cannot be written down.
    """
    text = str(value)
    if not text.isprintable() or text != text.strip():
        raise InvalidInput(f"{text!r} cannot be written in a unit: move it to another path")
    return text.replace("%", "%%")


def quoted(value: str | Path) -> str:
    """One of several values on a line.

    Raises:
        InvalidInput: see `plain`.
    """
    text = plain(value)
    if text and not set(text) & set(" '\"\\;"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def paths(values: Iterable[Path], *, optional: bool = False) -> str:
    """Several paths on a line; with `optional` one that is not there is passed over."""
    return " ".join(quoted(f"{'-' if optional else ''}{value}") for value in values)


def binds(values: Iterable[Path]) -> str:
    """Paths that are shown where they are, where there may be a colon before a target."""
    return " ".join(quoted(f"-{value}").replace(":", "\\:") for value in values)


def command(words: Iterable[str | Path]) -> str:
    """A command line, in which `$` would stand for a variable."""
    return " ".join(quoted(word).replace("$", "$$") for word in words)
