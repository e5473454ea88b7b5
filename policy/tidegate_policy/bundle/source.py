"""Cedar text: how much of it there is, and on which line a policy stands.

The engine tells neither lines nor, before it dies of its own recursion, that a policy is too deep.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .faults import Fault

# The engine ends the process, without an error, between 500 and 1,500 of these.
_MAX_DEPTH = 100
_MAX_OPERATORS = 1000

_QUIET = r'"(?:\\.|[^"\\])*"|//[^\n\r]*'  # as Cedar reads them: a comment ends at either
_WORD = re.compile(rf"{_QUIET}|[()\[\]{{}};]|&&|\|\||[-+*!.]|\bif\b")
_PIECE = re.compile(rf'{_QUIET}|;|\s+|[^\s;"/]+|["/]')
_MARK = re.compile(rf"{_QUIET}|@\s*(\w+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy as it is written, from its first word to its semicolon.

    `line` is 1-based, `start` its place in the text.
    """

    line: int
    text: str
    start: int

    def line_of(self, text: str) -> int:
        """Where something stands in it first; its own line if it does not."""
        at = self.text.find(text)
        return self.line + self.text.count("\n", 0, at) if at > 0 else self.line

    def line_of_annotation(self, key: str) -> int:
        """Where an annotation stands; the line of the statement if it has none of that key."""
        for mark in _MARK.finditer(self.text):
            if mark[1] == key:
                return self.line + self.text.count("\n", 0, mark.start())
        return self.line


def statements(text: str) -> list[Statement]:
    """The policies of a file, in order; the last one may lack its semicolon."""
    found: list[Statement] = []
    start, line, counted = -1, 1, 0
    for piece in _PIECE.finditer(text):
        word = piece[0]
        if start < 0:
            if word.isspace() or word.startswith("//"):
                continue
            start = piece.start()
        if word == ";":
            line += text.count("\n", counted, start)
            counted = start
            found.append(Statement(line, text[start : piece.end()], start))
            start = -1
    if start >= 0:
        line += text.count("\n", counted, start)
        found.append(Statement(line, text[start:], start))
    return found


def comments(text: str) -> list[str]:
    """All comments, in order."""
    found = (piece[0].rstrip() for piece in _PIECE.finditer(text))
    return [piece for piece in found if piece.startswith("//")]


def too_much(file: str, text: str) -> Fault | None:
    """Whether a policy is nested or chained so that reading it would end this process."""
    depth = operators = 0
    for found in _WORD.finditer(text):
        word = found[0]
        if word == ";":
            depth = operators = 0
        elif word in ")]}":
            depth -= 1
        elif word[0] != '"' and word[:2] != "//":
            operators += 1
            depth += word in "([{"
        if depth > _MAX_DEPTH or operators > _MAX_OPERATORS:
            line = text.count("\n", 0, found.start()) + 1
            if depth > _MAX_DEPTH:
                what = f"a policy is nested more than {_MAX_DEPTH} deep"
                return Fault(file, line, what, "make several of it")
            what = f"a policy has more than {_MAX_OPERATORS} operators"
            return Fault(file, line, what, "a set may say it shorter")
    return None
