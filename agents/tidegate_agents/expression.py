"""CEL expressions and templates over JSON values, with one kind of error.

What goes in and what comes out is JSON. Bytes, timestamps, durations, optionals, NaN and
infinity are no JSON: an expression that ends in one does not evaluate. `string(…)` makes a
timestamp or a duration into text where text is wanted.

An expression must mean the same in every process, because a coordinator that starts again
evaluates it again. The CEL library keeps maps in an order that changes from one map to the
next, so the macros (`map`, `filter`, `all`, …) are made to see a map's keys sorted, and a map
in a result is sorted by its keys. What a macro walks over passes through Python for that: an
unsigned integer comes back signed, which no JSON value that fits 63 bits can show. One hole is
left: the library takes `list + map`, which is no CEL, and appends the keys in any order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeGuard, final

import msgspec

from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.errors import InvalidExpression, Problem

from .cel import cel

MAX_LENGTH = 4096
"""Characters of an expression. The library dies of some that are ten times as long."""

MAX_DEPTH = 120
"""Levels of a value, some more than fit an envelope. The library dies of some 9,000."""

MAX_EFFORT = 200_000
"""Elements that the macros of one evaluation walk over, all of them together; see `_Effort`. A
sender chooses how long a list is, and while the coordinator evaluates, all runs wait."""

_CACHE = 1024
_NAMES = frozenset({"event", "input", "run", "steps"})
_ELEMENT = frozenset({"index", "item"})
_TYPES = frozenset(
    ("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint")
)
_MACROS = frozenset(("all", "exists", "existsOne", "exists_one", "filter", "map"))
_COLLECTING = frozenset(("filter", "map"))
_IN_ORDER, _TO_COLLECT = "inOrder", "inOrderToCollect"
_OPENING = re.compile(r"\$?\$\{")
_TOKEN = re.compile(
    r"""
      (?P<space> \s+ | //[^\n]* )
    | (?P<string> (?: [bB]?[rR] (?: \"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\n]*" | '[^'\n]*' ) )
                | (?: [bB]? (?: \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3}
                              | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' ) ) )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)


@final
class Scope:
    """The names at hand for the expressions of one step.

    A value is converted for CEL when an expression first names it, and an expression that names
    nothing bound is evaluated once: rendering the tasks of 1,000 elements does not convert the
    input of the run 1,000 times.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables
        self._bound: Mapping[str, Any] = {}
        self._effort = _Effort()
        self._context = _context({}, self._effort)
        self._converted: set[str] = set()
        self._known: dict[str, Any] = {}

    def bind(self, variables: Mapping[str, Any]) -> None:
        """Give further names, which hide the others, in place of those that were bound before.

        Always bind the same names: what was evaluated without them is not evaluated again.
        """
        self._bound = variables

    def evaluate(self, text: str) -> Any:
        """The value of an expression.

        Raises:
            InvalidExpression: it does not parse, does not evaluate, or its value is no JSON.
        """
        if text in self._known:
            return self._known[text]
        program = _compile(text)
        value = self._execute(program)
        if program.names.isdisjoint(self._bound):
            self._known[text] = value
        return value

    def truth(self, text: str) -> bool:
        """The value of an expression that must be true or false; raises as `evaluate`."""
        value = self.evaluate(text)
        if isinstance(value, bool):
            return value
        raise InvalidExpression(text, "must be true or false")

    def elements(self, text: str) -> list[Any]:
        """The value of an expression that must be a list; raises as `evaluate`."""
        value = self.evaluate(text)
        if _is_list(value):
            return value
        raise InvalidExpression(text, "must be a list")

    def render(self, template: Any) -> Any:
        """The template with every `${ expression }` in its strings replaced.

        A string that is wholly `${ … }` becomes the value with its type. Inside a longer string a
        text is put as it is and any other value as compact JSON. `$${` stands for `${`.

        Raises:
            InvalidExpression: as `evaluate`; also a `${` that is never closed.
        """
        return self._render(template, MAX_DEPTH)

    def _render(self, template: Any, levels: int) -> Any:
        if isinstance(template, str):
            return self._text(template)
        if not levels and (_is_map(template) or _is_list(template)):
            raise InvalidExpression("${ … }", f"a template nested deeper than {MAX_DEPTH} levels")
        if _is_map(template):
            return {key: self._render(value, levels - 1) for key, value in template.items()}
        if _is_list(template):
            return [self._render(value, levels - 1) for value in template]
        return template

    def _text(self, template: str) -> Any:
        parts = _parts(template)
        if len(parts) == 1 and parts[0].hole:
            return self.evaluate(parts[0].text)
        return "".join(
            _as_text(self.evaluate(part.text)) if part.hole else part.text for part in parts
        )

    def _execute(self, program: _Program) -> Any:
        self._effort.spent = 0
        try:
            if program.names.isdisjoint(self._variables):
                context = _context(_checked(program.names, self._bound), self._effort)
            else:
                context = self._context
                new = program.names - self._converted
                for source, names in ((self._variables, new), (self._bound, program.names)):
                    for name, value in _checked(names, source).items():
                        context.add_variable(name, value)
                self._converted |= new
            return _json(program.code.execute(context), MAX_DEPTH)
        except _Unusable as error:
            raise InvalidExpression(program.text, str(error)) from None
        except KeyError as error:
            raise InvalidExpression(program.text, f"there is no key {error}") from None
        except BaseException as error:
            raise _invalid(program.text, error) from None


def evaluate(text: str, variables: Mapping[str, Any]) -> Any:
    """The value of one expression, see `Scope.evaluate`."""
    return Scope(variables).evaluate(text)


def render(template: Any, variables: Mapping[str, Any]) -> Any:
    """One template with its expressions replaced, see `Scope.render`."""
    return Scope(variables).render(template)


def visible(blueprint: Blueprint, name: str) -> frozenset[str]:
    """The steps whose output a step may use: those it needs, and those that they need."""
    found: set[str] = set()
    rest = list(blueprint.steps[name].needs)
    while rest:
        need = rest.pop()
        if need not in found:
            found.add(need)
            rest.extend(blueprint.steps[need].needs)
    return frozenset(found)


def problems(blueprint: Blueprint) -> list[Problem]:
    """What is wrong with the expressions of a blueprint, as far as it shows without values."""
    found: list[Problem] = []
    for name, step in blueprint.steps.items():
        steps = visible(blueprint, name)
        for field, text in (("when", step.when), ("foreach", step.foreach)):
            if text is not None:
                found += _problems(f"steps.{name}.{field}", text, _NAMES, steps)
        names = _NAMES if step.foreach is None else _NAMES | _ELEMENT
        for field, template in _strings(f"steps.{name}.with", step.with_):
            try:
                holes = [part.text for part in _parts(template) if part.hole]
            except InvalidExpression as error:
                found.append(Problem(0, field, str(error)))
            else:
                for text in holes:
                    found += _problems(field, text, names, steps)
    if blueprint.output is not None:
        found += _problems("output", blueprint.output, _NAMES, frozenset(blueprint.steps))
    return found


def faults(field: str, text: str, names: frozenset[str]) -> list[Problem]:
    """What is wrong with one expression over these names, as far as it shows without values."""
    return list(_problems(field, text, names, frozenset()))


def _strings(field: str, template: Any) -> Iterator[tuple[str, str]]:
    if isinstance(template, str):
        yield field, template
    elif _is_map(template):
        for key, value in template.items():
            yield from _strings(f"{field}.{key}", value)
    elif _is_list(template):
        for index, value in enumerate(template):
            yield from _strings(f"{field}[{index}]", value)


def _problems(
    field: str, text: str, names: frozenset[str], steps: frozenset[str]
) -> Iterator[Problem]:
    try:
        program = _compile(text)
    except InvalidExpression as error:
        yield Problem(0, field, str(error))
        return
    for name in sorted(program.names - program.own - names - _TYPES):
        yield Problem(0, field, f"`{text}`: there is no `{name}` here")
    for name in sorted(program.steps - steps):
        yield Problem(0, field, f"`{text}`: {name!r} is no step that must have ended before")


@dataclass(frozen=True, slots=True)
class _Program:
    """A compiled expression; `own` are names that macros bind, `steps` those it reads."""

    text: str
    code: Any
    names: frozenset[str]
    own: frozenset[str]
    steps: frozenset[str]


@lru_cache(_CACHE)
def _compile(text: str) -> _Program:
    if len(text) > MAX_LENGTH:
        raise InvalidExpression(f"{text[:40]}…", f"over {MAX_LENGTH} characters")
    tokens = [(m.start(), m[0]) for m in _TOKEN.finditer(text) if m.lastgroup != "space"]
    words = ["", *(word for _, word in tokens), "", "", ""]
    own: set[str] = set()
    steps: set[str] = set()
    ordered: list[str] = []
    end = 0
    for number, (start, _) in enumerate(tokens):
        match words[number : number + 5]:
            case [_, ".", macro, "(", name] if macro in _MACROS:
                walk = _TO_COLLECT if macro in _COLLECTING else _IN_ORDER
                ordered += (text[end:start], f".{walk}()")
                end = start
                own.add(name)
            case [before, "steps", ".", name, after] if before != "." and after != "(":
                steps.add(name)
            case [before, "steps", "[", name, "]"] if before != "." and name[:1] in "\"'":
                steps.add(name[1:-1])
            case _:
                pass
    try:
        code = cel.compile(text)
        names = frozenset(code.variables())
        if ordered:
            code = cel.compile("".join((*ordered, text[end:])))
    except BaseException as error:
        raise _invalid(text, error) from None
    return _Program(text, code, names, frozenset(own), frozenset(() if "steps" in own else steps))


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a template: text, or the expression of a hole."""

    text: str
    hole: bool


@lru_cache(_CACHE)
def _parts(template: str) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    at = 0
    while opening := _OPENING.search(template, at):
        parts.append(_Part(template[at : opening.start()], hole=False))
        if opening[0] == "$${":
            parts.append(_Part("${", hole=False))
            at = opening.end()
            continue
        at = _closing(template, opening.end())
        parts.append(_Part(template[opening.end() : at].strip(), hole=True))
        at += 1
    parts.append(_Part(template[at:], hole=False))
    return tuple(part for part in parts if part.hole or part.text)


def _closing(template: str, at: int) -> int:
    """Where the hole ends: at a brace that is in no string and closes no map."""
    depth = 0
    for token in _TOKEN.finditer(template, at):
        if token[0] == "}" and not depth:
            return token.start()
        depth += (token[0] == "{") - (token[0] == "}")
    raise InvalidExpression(template[:300], "`${` without `}`")


def _is_map(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


class _Unusable(Exception):
    """A value that may not go into an expression, or not come out."""


class _Effort:
    """What the macros of an evaluation cost. The same in every process, so no clock.

    What collects a list copies it for every element, so that costs the square of its length.
    """

    def __init__(self) -> None:
        self.spent = 0

    def walk(self, value: Any) -> Any:
        """What a macro walks over."""
        return self._walk(value, 0)

    def collect(self, value: Any) -> Any:
        """What a macro walks over that makes a list."""
        return self._walk(value, len(value) ** 2 // 128 if _is_map(value) or _is_list(value) else 0)

    def _walk(self, value: Any, more: int) -> Any:
        if _is_map(value) or _is_list(value):
            self.spent += len(value) + more
            if self.spent > MAX_EFFORT:
                raise ValueError("its lists are too long to be walked over")
        return sorted(value, key=lambda k: (type(k).__name__, k)) if _is_map(value) else value


def _context(variables: dict[str, Any], effort: _Effort) -> Any:
    functions = {_IN_ORDER: effort.walk, _TO_COLLECT: effort.collect}
    return cel.Context(variables=variables, functions=functions)


def _checked(names: frozenset[str], source: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: source[name] for name in names if name in source}
    for name, value in values.items():
        if _deep(value, MAX_DEPTH):
            raise _Unusable(f"`{name}` is nested deeper than {MAX_DEPTH} levels")
    return values


def _deep(value: Any, levels: int) -> bool:
    if _is_map(value):
        children: Iterable[Any] = value.values()
    elif _is_list(value):
        children = value
    else:
        return False
    return not levels or any(_deep(child, levels - 1) for child in children)


def _json(value: Any, levels: int) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if not levels:
        raise _Unusable(f"its value is nested deeper than {MAX_DEPTH} levels")
    if _is_list(value):
        return [_json(element, levels - 1) for element in value]
    if _is_map(value):
        if not all(isinstance(key, str) for key in value):
            raise _Unusable("its value is no JSON: a key is no string")
        return {key: _json(value[key], levels - 1) for key in sorted(value)}
    what = value if isinstance(value, float) else type(value).__name__
    raise _Unusable(f"its value is no JSON: {what}")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _invalid(text: str, error: BaseException) -> InvalidExpression:
    """The error to raise, unless the error is not the library's to raise.

    A panic of the library comes as a class that can be named only by its name and is no
    Exception, so that nobody catches it by chance; here it is one more fault of the expression.
    """
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return InvalidExpression(text, _first_line(str(error)))
    raise error


def _first_line(message: str) -> str:
    """What the library says, without the copy of the expression that it draws below."""
    return message.partition("ERROR: ")[2].partition("\n")[0] or message[:300]
