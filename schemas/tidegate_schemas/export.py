"""JSON Schema of every format, for editors and for other languages."""

from __future__ import annotations

import inspect
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
            [model], ref_template="#/$defs/{name}"
        )
        for component in components.values():
            component["description"] = inspect.cleandoc(component["description"])
        body: dict[str, Any] = {**schema, "$defs": components}
    else:
        body = model.model_json_schema()  # type: ignore[attr-defined]  # a pydantic model
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **body}
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema))  # tuples are lists
    return plain
