"""TOML, with the line of every field: tomllib gives the values, a scan of the tokens the lines."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tidegate_schemas.errors import InvalidDocument, Problem

from .location import MAX_DEPTH, TOO_DEEP, Lines, Location, inside

_LONG_KEY = re.compile(
    rf"""
    (?<! [\w"'-] )
    (?: (?: [\w-]++ | "(?:\\.|[^"\\\n])*+" | '[^'\n]*+' ) [ \t]*+ \. [ \t]*+ ){{{MAX_DEPTH}}}
    """,
    re.VERBOSE,
)
"""The time that tomllib takes for a key grows with the square of its parts."""

_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\r]+ | \#[^\n]* )
    | (?P<text> \"{3} (?:\\.|[^\\])*? \"{3,5} | '{3} .*? '{3,5}
              | "(?:\\.|[^"\\\n])*" | '[^'\n]*' )
    | (?P<sign> [\n\[\]{}=,.] )
    | (?P<bare> [^\s\[\]{}=,."'\#]+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def read_toml(text: str, path: Path) -> tuple[object, Lines]:
    """The value of a TOML text, and where its parts stand.

    Raises:
        InvalidDocument: it is no TOML; `path` names it.
    """
    last = text.count("\n") + 1
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise InvalidDocument(path, [Problem(line, "", TOO_DEEP)])
    try:
        return tomllib.loads(text), _Places(text).lines
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
        line = int(place[1]) if place and place[1] else last
        message = str(error)[: place.start()] if place else str(error)
    except RecursionError:
        line, message = 0, TOO_DEEP
    except ValueError:
        line, message = 0, "a number is over 64 bits, or a date does not exist"
    raise InvalidDocument(path, [Problem(line, "", message)])


class _Places:
    """Finds where each key and each element of a list stands in TOML that is known to be valid."""

    def __init__(self, text: str) -> None:
        self.lines: Lines = {(): 1}
        self._last: dict[Location, int] = {}  # of each array of tables, the table written last
        self._tokens = self._split(text)
        self._step()
        table: Location = ()
        while self._word:
            if self._word == "\n":
                self._step()
            elif self._word == "[":
                table = self._header()
            else:
                self._pair(table)

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, int]]:
        line = 1
        for token in _TOKEN.finditer(text):
            if token.lastgroup != "space":
                yield token[0], line
            line += token[0].count("\n")

    def _step(self) -> None:
        self._word, self._line = next(self._tokens, ("", 0))

    def _pass(self, *words: str) -> None:
        while self._word in words:
            self._step()

    def _key(self, at: Location) -> Location:
        line = self._line
        while True:
            part = self._word
            if part[0] in {'"', "'"}:
                part = str(tomllib.loads(f"x = {part}")["x"])
            at = inside(at, part)
            self.lines.setdefault(at, line)
            self._step()
            if self._word != ".":
                return at
            self._step()
            if at in self._last:
                at = inside(at, self._last[at])

    def _header(self) -> Location:
        line = self._line
        self._step()
        array = self._word == "["
        self._pass("[")
        at = self._key(())
        if array:
            self._last[at] = self._last.get(at, -1) + 1
            at = (*at, self._last[at])
            self.lines[at] = line
        self._pass("]")
        return at

    def _pair(self, table: Location) -> None:
        at = self._key(table)
        self._step()
        self._value(at)

    def _value(self, at: Location) -> None:
        opening = self._word
        self._step()
        if opening == "[":
            self._pass("\n", ",")
            index = 0
            while self._word not in {"]", ""}:
                self.lines[inside(at, index)] = self._line
                self._value(inside(at, index))
                self._pass("\n", ",")
                index += 1
            self._step()
        elif opening == "{":
            self._pass("\n", ",")
            while self._word not in {"}", ""}:
                self._pair(at)
                self._pass("\n", ",")
            self._step()
        else:
            while self._word not in {"\n", ",", "]", "}", ""}:  # 1.5 is three words
                self._step()
