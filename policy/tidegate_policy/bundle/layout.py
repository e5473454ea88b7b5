"""Cedar text laid out as everybody lays it out; comments stay, and what it means too."""

from __future__ import annotations

import re

import cedarpy

from .faults import Fault, one_line
from .source import comments, statements, too_much

_WIDTH = 100
_BLANK = re.compile(r"\n[ \t]*\n")


def laid_out(file: str, text: str) -> tuple[str, list[Fault]]:
    """The text laid out; with faults, and as it was, where it cannot be."""
    if fault := too_much(file, text):
        return text, [fault]
    text = text.replace("\r\n", "\n")
    written = statements(text)
    faults: list[Fault] = []
    parts: list[str] = []
    end = 0
    for statement in written:
        parts, close = _between(parts, text[end : statement.start])
        try:
            parts.append(_formatted(f"{close}{statement.text}"))
        except ValueError as error:
            faults.append(Fault(file, statement.line, one_line(error)))
        end = statement.start + len(statement.text)
    parts, close = _between(parts, text[end:])
    parts += [close.strip()] if close else []
    if faults:
        return text, faults
    made = "\n\n".join(parts) + "\n" if parts else ""
    if comments(made) != comments(text) or _meaning(made) != _meaning(text):
        return text, [Fault(file, 0, "cannot be laid out without loss", "left as it is")]
    return made, []


def _formatted(text: str) -> str:
    cedarpy.PolicySet.from_str(text)  # says better than the next line what does not parse
    made = cedarpy.format_policies(text, line_width=_WIDTH, indent_width=2)
    return "\n".join(line.rstrip() for line in made.strip().split("\n"))


def _between(parts: list[str], text: str) -> tuple[list[str], str]:
    """The parts with the comments that follow them, and those that belong to the next policy."""
    tail, _, rest = text.partition("\n") if parts else ("", "", text)
    before = [*parts[:-1], f"{parts[-1]} {tail.strip()}"] if tail.strip() else parts
    paragraphs = ("\n".join(map(str.strip, part.split("\n"))) for part in _BLANK.split(rest))
    *apart, close = (part.strip("\n") for part in paragraphs)
    return [*before, *(part for part in apart if part)], f"{close}\n" if close else ""


def _meaning(text: str) -> object:
    return cedarpy.PolicySet.from_str(text).to_pst()
