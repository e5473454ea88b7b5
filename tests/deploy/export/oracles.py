"""What others make of exports. Some of it has no types, so it is met here and nowhere else."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

_arrow: Any = importlib.import_module("pyarrow")
_parquet: Any = importlib.import_module("pyarrow.parquet")
_ocsf: Any = importlib.import_module("ocsf_json_schema")
_json_schema: Any = importlib.import_module("jsonschema")


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file; times are ns since 1970."""
    table = _parquet.read_table(path)
    for number, field in enumerate(table.schema):
        if _arrow.types.is_timestamp(field.type):
            table = table.set_column(number, field.name, table.column(number).cast("int64"))
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def edit(path: Path, into: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """Another Parquet file with rows that somebody has changed."""
    table = _parquet.read_table(path)
    found: list[dict[str, Any]] = table.to_pylist()
    change(found)
    _parquet.write_table(_arrow.Table.from_pylist(found, table.schema), into)
    return into


def groups(path: Path) -> list[int]:
    """How many rows each row group has."""
    with _parquet.ParquetFile(path) as file:
        return [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]


def columns(path: Path) -> dict[str, tuple[str, bool, str]]:
    """Of each column: its type, whether it may be null, and how it is compressed."""
    with _parquet.ParquetFile(path) as file:
        leaves = [file.metadata.row_group(0).column(n) for n in range(file.metadata.num_columns)]
        codecs = {leaf.path_in_schema.partition(".")[0]: leaf.compression for leaf in leaves}
        return {f.name: (str(f.type), f.nullable, codecs[f.name]) for f in file.schema_arrow}


def ask(query: str) -> Any:
    """The one row that DuckDB answers with."""
    with duckdb.connect() as database:
        return database.execute(query).fetchone()


@cache
def _validator(version: str, profiles: tuple[str, ...]) -> Any:
    schema = _ocsf.OcsfJsonSchemaEmbedded(_ocsf.get_ocsf_schema(version))
    made = schema.get_class_schema("api_activity", list(profiles))
    return _json_schema.Draft202012Validator(made)


def faults(event: Any, version: str, profiles: tuple[str, ...]) -> list[str]:
    """What is wrong with an event, by the schema that OCSF has published."""
    return [f"{f.validator}: {f.message}" for f in _validator(version, profiles).iter_errors(event)]
