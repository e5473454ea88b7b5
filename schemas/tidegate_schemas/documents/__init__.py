"""Files that people write: YAML or TOML in, a checked model out, errors with line and field.

Both formats hold the same here: text, finite numbers up to 64 bits, true and false, lists, and
mappings with text for keys. YAML is read by the core schema of its version 1.2, so `on`, `12:30`
and `2026-01-31` are text; of version 1.1, merge keys (`<<`) are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from tidegate_schemas.clock import MAX_SECONDS, parse_duration
from tidegate_schemas.errors import InvalidDocument, InvalidName, Problem
from tidegate_schemas.subjects import Principal, check_destination

from .location import MAX_DEPTH, SURROGATE, TOO_DEEP, Lines, Location, dotted, line_of
from .toml import read_toml
from .yaml import read_yaml

MAX_DOCUMENT_BYTES = 1024 * 1024
_TOO_LARGE = Problem(0, "", f"over {MAX_DOCUMENT_BYTES} bytes")


class Document(BaseModel):
    """Base of every model of a file: unknown fields are errors, nothing is coerced, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


ModelT = TypeVar("ModelT", bound=Document)


def misfit(model: type[Document], faults: Iterable[tuple[Location, str]]) -> ValidationError:
    """What a validator of `model` raises about faults inside, each at its location."""
    return ValidationError.from_exception_data(
        model.__name__,
        [
            InitErrorDetails(
                type=PydanticCustomError("misfit", "{what}", {"what": what}), loc=at, input=None
            )
            for at, what in faults
        ],
    )


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _destination(value: str) -> str:
    try:
        return check_destination(value)
    except InvalidName as error:
        raise ValueError(str(error)) from None


def _principal(value: str) -> str:
    try:
        return str(Principal.parse(value))
    except InvalidName as error:
        raise ValueError(str(error)) from None


def _name(value: str) -> str:
    try:
        return Principal(value, value).name
    except InvalidName:
        raise ValueError("1 to 63 of a-z, 0-9 and -") from None


Duration = Annotated[
    float,
    Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False),
    BeforeValidator(_seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d{1,15}(\.\d{1,9})?(ms|s|m|h|d)$"},
                {"type": "number", "minimum": 0, "maximum": MAX_SECONDS},
            ]
        }
    ),
]
"""Seconds; written `250ms`, `30s`, `5m`, `2h` or `1d`."""

Name = Annotated[
    str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": "^[a-z0-9-]{1,63}$"})
]
"""A team's or an agent's name."""

Destination = Annotated[
    str,
    AfterValidator(_destination),
    WithJsonSchema(
        {"type": "string", "maxLength": 255, "pattern": r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"}
    ),
]
"""A capability, a topic or a control command."""

PrincipalName = Annotated[
    str,
    AfterValidator(_principal),
    WithJsonSchema({"type": "string", "pattern": r"^[a-z0-9-]{1,63}\.[a-z0-9-]{1,63}$"}),
]
"""`team.name`."""


def load(path: Path, model: type[ModelT]) -> ModelT:
    """Read a YAML (`.yaml`, `.yml`) or TOML (`.toml`) file into a model.

    Raises:
        InvalidDocument: the file is missing, too large, no YAML or TOML, or does not fit the
            model; every fault is named with its line and field.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(content) > MAX_DOCUMENT_BYTES:
            raise InvalidDocument(path, [_TOO_LARGE])
        text = content.decode("utf-8")
    except OSError as error:
        raise InvalidDocument(path, [Problem(0, "", error.strerror or str(error))]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidDocument(path, [Problem(line, "", f"not UTF-8: {error.reason}")]) from None
    except ValueError as error:  # a NUL in the path
        raise InvalidDocument(path, [Problem(0, "", str(error))]) from None
    return loads(text, model, path)


def loads(text: str, model: type[ModelT], path: Path) -> ModelT:
    """As `load`, for text that is already at hand; `path` names it and tells the format."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_DOCUMENT_BYTES:
        raise InvalidDocument(path, [_TOO_LARGE])
    data, lines = (read_toml if path.suffix.lower() == ".toml" else read_yaml)(text, path)
    return fitted(data, lines, model, path)


def fitted(data: object, lines: Lines, model: type[ModelT], path: Path) -> ModelT:
    """As `load`, for what a file was found to hold, and where its parts stand."""
    faults = [Problem(line_of(lines, at), dotted(at), what) for at, what in unportable(data)]
    if faults:
        raise InvalidDocument(path, faults)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InvalidDocument(path, list(_problems(error, lines))) from None


def unportable(data: object) -> Iterator[tuple[Location, str]]:
    """Where a value holds what YAML, TOML and JSON do not all hold, and what that is."""
    todo: list[tuple[Location, object]] = [((), data)]
    while todo:
        at, value = todo.pop()
        match value:
            case dict() | list() if len(at) >= MAX_DEPTH:
                yield at[:5], TOO_DEEP
                return
            case dict():
                items = list(cast("dict[object, object]", value).items())
                if all(isinstance(key, str) for key, _ in items):
                    todo += [((*at, str(key)), inner) for key, inner in reversed(items)]
                    todo += [(at, key) for key, _ in items if not str(key).isascii()]
                else:
                    yield at, "every key must be text"
            case list():
                inner = list(enumerate(cast("list[object]", value)))
                todo += [((*at, index), item) for index, item in reversed(inner)]
            case str():
                if SURROGATE.search(value):
                    yield at, "holds half of a surrogate pair"
            case None | bool():
                pass
            case int():
                if not -(2**63) <= value < 2**64:
                    yield at, "is over 64 bits"
            case float():
                if not math.isfinite(value):
                    yield at, "is not a finite number"
            case _:
                yield at, f"a {type(value).__name__} has no JSON form; write it in quotes"


def _problems(error: ValidationError, lines: Lines) -> Iterator[Problem]:
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        at = fault["loc"]
        match fault["type"]:
            case "extra_forbidden":
                message = "unknown field"
            case "missing":
                message = "is required"
            case "model_type" | "dict_type":
                message = "must be a mapping"
            case _:
                message = fault["msg"].removeprefix("Value error, ")
        if at and at[-1] == "[key]":  # how pydantic says that the name itself is wrong
            at = at[:-1]
        yield Problem(line_of(lines, at), dotted(at), message)
