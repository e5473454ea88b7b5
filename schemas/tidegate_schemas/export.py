"""JSON Schema of every format, for editors and for other languages."""

from __future__ import annotations

from typing import Any

import msgspec

from .blueprint import Blueprint
from .envelope import Envelope
from .manifest import Manifest
from .record import Record
from .settings import Settings

FORMATS: dict[str, type] = {
    "blueprint": Blueprint,
    "envelope": Envelope,
    "manifest": Manifest,
    "record": Record,
    "settings": Settings,
}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a format.

    Raises:
        KeyError: no such format; see `FORMATS`.
    """
    model = FORMATS[name]
    if issubclass(model, msgspec.Struct):
        (schema,), components = msgspec.json.schema_components(
            [model], schema_hook=_raw, ref_template="#/$defs/{name}"
        )
        body: dict[str, Any] = {**schema, "$defs": components}
    else:
        body = model.model_json_schema()  # type: ignore[attr-defined]  # a pydantic model
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body}


def _raw(kind: type) -> dict[str, Any]:
    if kind is msgspec.Raw:
        return {"description": "any JSON value, kept byte for byte"}
    raise TypeError(f"no JSON Schema for {kind}")
