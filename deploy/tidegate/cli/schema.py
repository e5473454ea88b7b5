"""`tidegate schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.export import FORMATS, json_schema

from .console import out, print_json


def schema(
    name: Annotated[str | None, typer.Argument(help="Format; without one, all are named.")] = None,
) -> None:
    """Print the JSON Schema of a format."""
    if name is None:
        for known in sorted(FORMATS):
            out.print(known)
        return
    if name not in FORMATS:
        raise InvalidInput(f"no format {name!r}; known: {', '.join(sorted(FORMATS))}")
    print_json(json_schema(name))
