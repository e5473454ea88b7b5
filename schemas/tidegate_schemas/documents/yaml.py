"""YAML by the core schema of version 1.2, with the line of every field.

PyYAML parses; what its events mean is decided here, because its own schema is that of version 1.1,
in which `on` is true and `12:30` a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import yaml

from tidegate_schemas.errors import InvalidDocument, Problem

from .location import MAX_DEPTH, SURROGATE, TOO_DEEP, Lines, Location, dotted, printable

_TAG = "tag:yaml.org,2002:"
_STR, _SEQ, _MAP, _MERGE = (f"{_TAG}{name}" for name in ("str", "seq", "map", "merge"))


def _integer(text: str) -> int:
    digits, base = (text[2:], {"x": 16, "o": 8}[text[1]]) if text[1:2] in {"x", "o"} else (text, 10)
    try:
        return int(digits, base)
    except ValueError:  # Python reads 4,300 digits at most
        return 2**64


def _float(text: str) -> float:
    return float(re.sub(r"\.(?=[a-z])", "", text.lower()))  # `.inf`


_SCALARS: dict[str, tuple[re.Pattern[str], Callable[[str], object]]] = {
    f"{_TAG}null": (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    f"{_TAG}bool": (
        re.compile(r"true|True|TRUE|false|False|FALSE"),
        lambda text: text.lower() == "true",
    ),
    f"{_TAG}int": (re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), _integer),
    f"{_TAG}float": (
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        _float,
    ),
}
"""Section 10.3.2 of the YAML 1.2 specification: what a plain scalar is, if it is no text."""


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars by the core schema of YAML 1.2; builds nothing."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        if kind is not yaml.ScalarNode:
            return _MAP if kind is yaml.MappingNode else _SEQ
        if not implicit[0]:
            return _STR
        if value == "<<":
            return _MERGE
        return next((tag for tag, (form, _) in _SCALARS.items() if form.fullmatch(value)), _STR)


class _Tree:
    """Makes values of the nodes of a YAML text, and notes where each stands and what is wrong."""

    def __init__(self, path: Path, size: int) -> None:
        self.lines: Lines = {}
        self.problems: list[Problem] = []
        self._path = path
        # Aliases repeat what they point to. Without them no text of this size comes to so much.
        self._left = 100_000 + 2 * size

    def value(self, node: yaml.Node, at: Location, line: int) -> object:
        """The value of a node; None in place of what is wrong."""
        self.lines.setdefault(at, line)
        if len(at) > MAX_DEPTH:
            raise InvalidDocument(self._path, [Problem(line, dotted(at[:5]), TOO_DEEP)])
        self._spend(1, line)
        here = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            items: list[yaml.Node] = node.value
            return [
                self.value(item, (*at, index), item.start_mark.line + 1)
                for index, item in enumerate(items)
            ]
        if isinstance(node, yaml.ScalarNode) and node.tag in {_STR, _MERGE}:
            return self._text(node)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            form, build = _SCALARS[node.tag]
            if form.fullmatch(node.value):
                return build(node.value)
        tag = printable(node.tag.replace(_TAG, "!!"))
        self._problem(here, at, f"`{tag}` does not fit the value, or is no tag that is taken")
        return None

    def _mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, object]:
        found: dict[str, object] = {}
        bases: list[yaml.Node] = []
        pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
        for key, child in pairs:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                bases += child.value if isinstance(child, yaml.SequenceNode) else [child]
            elif not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                self._problem(line, at, "every key must be text; write it in quotes")
            elif (name := self._text(key)) in found:
                self._problem(line, (*at, name), "is given twice")
            else:
                found[name] = self.value(child, (*at, name), line)
        for base in bases:
            line = base.start_mark.line + 1
            self._spend(1, line)
            if isinstance(base, yaml.MappingNode):
                found = self._mapping(base, at) | found
            else:
                self._problem(line, at, "`<<` takes a mapping or a list of mappings")
        return found

    def _text(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        self._spend(len(text), node.start_mark.line + 1)
        if SURROGATE.search(text):  # JSON writes one character as two escapes, YAML does not
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return text

    def _spend(self, size: int, line: int) -> None:
        self._left -= size
        if self._left < 0:
            raise InvalidDocument(self._path, [Problem(line, "", "the aliases repeat too much")])

    def _problem(self, line: int, at: Location, message: str) -> None:
        self.problems.append(Problem(line, dotted(at), message))


def read_yaml(text: str, path: Path) -> tuple[object, Lines]:
    """The value of a YAML text, and where its parts stand.

    Raises:
        InvalidDocument: it is no YAML, or not of the core schema; `path` names it.
    """
    if found := re.search(r"[\x85\u2028\u2029]", text):  # line ends of YAML 1.1, text in 1.2
        line = text.count("\n", 0, found.start()) + 1
        message = f"write the character U+{ord(found[0]):04X} as an escape"
        raise InvalidDocument(path, [Problem(line, "", message)])
    line = 0
    try:
        loader = _Loader(text)
        try:
            root: yaml.Node | None = loader.get_single_node()
        finally:
            line = loader.line + 1
            loader.dispose()
        if root is None:
            raise InvalidDocument(path, [Problem(1, "", "is empty")])
        tree = _Tree(path, len(text))
        document = tree.value(root, (), root.start_mark.line + 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, message = (mark.line + 1 if mark else 0), error.problem or str(error)
        if message == "mapping values are not allowed here":
            message += "; text with a colon and a space in it stands in quotes"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"the character U+{error.character:04X} is not allowed"
    except RecursionError:
        message = TOO_DEEP
    except (OverflowError, ValueError):  # an escape beyond Unicode
        message = "an escape is no character"
    else:
        if tree.problems:
            raise InvalidDocument(path, tree.problems)
        return document, tree.lines
    raise InvalidDocument(path, [Problem(line, "", message)])
