"""The files that records are written to, one a format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from tidegate_evidence.export import RECORDS
from tidegate_schemas.audit import Format
from tidegate_schemas.errors import LedgerError

from . import ocsf
from .reading import Leaf


class Output(Protocol):
    """A file that records are written to, in order."""

    def add(self, leaves: list[Leaf]) -> None:
        """Write records.

        Raises:
            LedgerError: one is not of a gateway.
            OSError: the disk does not take it.
        """

    def finish(self) -> None:
        """Write what is left; nothing comes after it. Raises as `add` does."""

    def close(self) -> None:
        """Let go of the file, finished or not."""


class _Lines:
    """A file of lines."""

    def __init__(self, path: Path, line: Callable[[Leaf], bytes]) -> None:
        self._line = line
        self._file = path.open("xb")

    def add(self, leaves: list[Leaf]) -> None:
        """See `Output`."""
        self._file.write(b"".join(b"%b\n" % self._line(leaf) for leaf in leaves))

    def finish(self) -> None:
        """See `Output`."""
        self._file.flush()

    def close(self) -> None:
        """See `Output`."""
        self._file.close()


def open_output(folder: Path, format: Format) -> Output:
    """The file of a format.

    Raises:
        InvalidInput: what writes it is not installed.
        OSError: the file cannot be written.
    """
    path = folder / NAMES[format]
    match format:
        case Format.JSONL:
            return _Lines(path, _payload)
        case Format.OCSF:
            return _Lines(path, _event)
        case Format.PARQUET:
            from .parquet import ParquetOutput  # pyarrow costs time and memory

            return ParquetOutput(path)


NAMES = {
    Format.JSONL: RECORDS,
    Format.PARQUET: "records.parquet",
    Format.OCSF: "ocsf.jsonl",
}


def _payload(leaf: Leaf) -> bytes:
    """The record as it is: a line, so that the line's hash is the leaf's."""
    if b"\n" in leaf.payload:
        raise LedgerError(f"record {leaf.seq} holds a line end, as no gateway writes it")
    return leaf.payload


def _event(leaf: Leaf) -> bytes:
    return msgspec.json.encode(ocsf.event(leaf))
