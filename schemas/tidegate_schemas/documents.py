"""Files that people write: YAML or TOML in, a checked model out, errors with line and field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    WithJsonSchema,
)

from .clock import parse_duration
from .errors import InvalidDocument, InvalidName, Problem
from .subjects import Principal, check_destination

MAX_DOCUMENT_BYTES = 1024 * 1024

Location = tuple[int | str, ...]


class Document(BaseModel):
    """Base of every model of a file: unknown fields are errors, nothing is coerced, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


ModelT = TypeVar("ModelT", bound=Document)


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
    BeforeValidator(_seconds),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$"}, {"type": "number"}]}
    ),
]
"""Seconds; written `250ms`, `30s`, `5m`, `2h` or `1d`."""

Name = Annotated[
    str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": "^[a-z0-9-]{1,63}$"})
]
"""A team's or an agent's name."""

Destination = Annotated[str, AfterValidator(_destination)]
"""A capability, a topic or a control command."""

PrincipalName = Annotated[str, AfterValidator(_principal)]
"""`team.name`."""


def load(path: Path, model: type[ModelT]) -> ModelT:
    """Read a YAML (`.yaml`, `.yml`) or TOML (`.toml`) file into a model.

    Raises:
        InvalidDocument: the file is missing, too large, no YAML or TOML, or does not fit the
            model; every fault is named with its line and field.
    """
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise InvalidDocument(path, [Problem(0, "", f"over {MAX_DOCUMENT_BYTES} bytes")])
        text = path.read_text("utf-8")
    except OSError as error:
        raise InvalidDocument(path, [Problem(0, "", error.strerror or str(error))]) from None
    except UnicodeDecodeError as error:
        raise InvalidDocument(path, [Problem(0, "", f"not UTF-8: {error.reason}")]) from None
    return loads(text, model, path)


def loads(text: str, model: type[ModelT], path: Path) -> ModelT:
    """As `load`, for text that is already at hand; `path` names it and tells the format."""
    data, lines = (_toml if path.suffix == ".toml" else _yaml)(text, path)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InvalidDocument(path, list(_problems(error, lines))) from None


def _problems(error: ValidationError, lines: _Lines) -> Iterator[Problem]:
    for fault in error.errors(include_url=False, include_context=False):
        location = tuple(part for part in fault["loc"] if not str(part).startswith("function-"))
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown field"
        elif fault["type"] == "missing":
            message = "is required"
        yield Problem(lines.of(location), _dotted(location), message)


def _dotted(location: Location) -> str:
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location)
    return text.removeprefix(".")


class _Lines:
    """Where each field of a document stands."""

    def __init__(self, known: dict[Location, int]) -> None:
        self._known = known

    def of(self, location: Location) -> int:
        """Line of the field, or of the nearest enclosing one; 0 when nothing is known."""
        for length in range(len(location), -1, -1):
            if location[:length] in self._known:
                return self._known[location[:length]]
        return 0


def _yaml(text: str, path: Path) -> tuple[Any, _Lines]:
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                raise InvalidDocument(path, [Problem(1, "", "is empty")])
            known: dict[Location, int] = {}
            duplicates = list(_walk(root, (), known))
            if duplicates:
                raise InvalidDocument(path, duplicates)
            document: Any = loader.construct_document(root)  # pyright: ignore[reportUnknownMemberType]  # the stubs leave its argument untyped
            return document, _Lines(known)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or str(error)
        raise InvalidDocument(path, [Problem(mark.line + 1 if mark else 0, "", message)]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidDocument(path, [Problem(0, "", str(error)[:300])]) from None


def _walk(node: yaml.Node, at: Location, known: dict[Location, int]) -> Iterator[Problem]:
    """Note the line of every field; yield each key that is given twice."""
    if at in known:
        return
    known[at] = node.start_mark.line + 1
    children: Iterable[tuple[int | str, yaml.Node]] = ()
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        named: list[tuple[int | str, yaml.Node]] = []
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield Problem(key.start_mark.line + 1, _dotted((*at, name)), "is given twice")
                continue
            seen.add(name)
            named.append((name, value))
        children = named
    elif isinstance(node, yaml.SequenceNode):
        items: list[yaml.Node] = node.value
        children = enumerate(items)
    for part, child in children:
        yield from _walk(child, (*at, part), known)


def _toml(text: str, path: Path) -> tuple[Any, _Lines]:
    try:
        return tomllib.loads(text), _Lines(_toml_lines(text))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else 0
        raise InvalidDocument(path, [Problem(line, "", str(error))]) from None
    except RecursionError:
        raise InvalidDocument(path, [Problem(0, "", "nested too deeply")]) from None


def _toml_lines(text: str) -> dict[Location, int]:
    """Lines of tables and keys, as far as plain headers and plain keys tell."""
    known: dict[Location, int] = {(): 1}
    table: Location = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([\w.\-]+)\s*\]", line):
            table = tuple(header[1].split("."))
            known.setdefault(table, number)
        elif key := re.match(r"\s*([\w.\-]+)\s*=", line):
            known.setdefault((*table, *key[1].split(".")), number)
    return known
