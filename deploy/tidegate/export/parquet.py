"""Rows as a Parquet file. The only place that knows pyarrow, which has no types."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidegate_schemas.errors import InvalidInput, VerificationError

from .columns import COLUMNS, Column, Shape
from .reading import Leaf

GROUP_ROWS = 20_000
GROUP_BYTES = 16 * 1024 * 1024
"""Of records: when a row group is written."""
PIECE_ROWS = 500
"""How many records are taken apart at once; parsed they take ten times their room."""

_BATCH_ROWS = 2_000


class ParquetOutput:
    """A file of row groups, each written as soon as it reaches a bound above.

    Args:
        path: the file; it must not be there yet.

    Raises:
        InvalidInput: pyarrow is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._arrow = _module("pyarrow")
        self._schema = self._arrow.schema([self._field(column) for column in COLUMNS])
        self._waiting: list[Any] = []
        self._rows = self._bytes = 0
        self._writer = _module("pyarrow.parquet").ParquetWriter(
            str(path),
            self._schema,
            compression="zstd",
            use_dictionary=[c.name for c in COLUMNS if c.shape in (Shape.WORD, Shape.WORDS)],
            write_statistics=[c.name for c in COLUMNS if c.shape is not Shape.BYTES],
        )

    def add(self, leaves: list[Leaf]) -> None:
        """See `outputs.Output`; what does not fill a row group yet is kept, as columns."""
        for begin in range(0, len(leaves), PIECE_ROWS):
            piece = leaves[begin : begin + PIECE_ROWS]
            arrays = [self._array(column, piece) for column in COLUMNS]
            self._waiting.append(self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._rows += len(piece)
            self._bytes += sum(len(leaf.payload) for leaf in piece)
            if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
                self._write()

    def finish(self) -> None:
        """See `outputs.Output`."""
        if self._waiting:
            self._write()
        self._writer.close()

    def close(self) -> None:
        """See `outputs.Output`."""
        self._writer.close()

    def _write(self) -> None:
        table = self._arrow.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._rows, self._bytes = [], 0, 0
        self._writer.write_table(table, row_group_size=table.num_rows)

    def _array(self, column: Column, leaves: list[Leaf]) -> Any:
        values, type_ = [column.of(leaf) for leaf in leaves], self._type(column.shape)
        if column.shape is Shape.TIME:
            return self._arrow.array(values).cast(type_)
        return self._arrow.array(values, type_)

    def _field(self, column: Column) -> Any:
        return self._arrow.field(column.name, self._type(column.shape), nullable=not column.always)

    def _type(self, shape: Shape) -> Any:
        arrow = self._arrow
        match shape:
            case Shape.INTEGER:
                return arrow.int64()
            case Shape.TIME:
                return arrow.timestamp("ns", "UTC")
            case Shape.WORDS:
                return arrow.list_(arrow.string())
            case Shape.WORD | Shape.TEXT:
                return arrow.string()
            case Shape.BYTES:
                return arrow.binary()
            case Shape.HASH:
                return arrow.binary(32)


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, row by row. What other columns say of them is not looked at.

    Raises:
        InvalidInput: pyarrow is not installed.
        VerificationError: the file is no Parquet, or has no records.
    """
    arrow, parquet = _module("pyarrow"), _module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(str(path)) as file:
            if file.schema_arrow.field("record").type != arrow.binary():
                raise VerificationError(f"{path}: its records are not bytes")
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=["record"]):
                for record in batch.column(0).to_pylist():
                    yield record or b""
    except (arrow.ArrowException, KeyError, OSError) as error:
        raise VerificationError(f"{path}: {error}") from error


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InvalidInput(
            "Parquet needs pyarrow, which is not installed: pip install 'tidegate[parquet]'"
        ) from None
