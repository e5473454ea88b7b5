"""A record as a row: what is asked of many records at once.

The columns are there to find records; what is proven is the record itself, in the last but one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec

from .reading import Leaf


class Shape(Enum):
    """What a column holds."""

    INTEGER = auto()
    TIME = auto()
    """Text of RFC 3339, with nine digits and Z."""
    WORD = auto()
    """Text that many records share."""
    WORDS = auto()
    TEXT = auto()
    BYTES = auto()
    HASH = auto()
    """32 bytes."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, what it holds, how it comes of a record, and whether of every one."""

    name: str
    shape: Shape
    of: Callable[[Leaf], Any]
    always: bool = True


def _attribute(name: str, shape: Shape) -> Column:
    """An attribute of the envelope."""
    return Column(name, shape, lambda leaf: getattr(leaf.message, name, None), always=False)


COLUMNS: tuple[Column, ...] = (
    Column("seq", Shape.INTEGER, lambda leaf: leaf.seq),
    Column("time", Shape.TIME, lambda leaf: leaf.record.time),
    Column("epoch", Shape.INTEGER, lambda leaf: leaf.record.epoch),
    Column("in_seq", Shape.INTEGER, lambda leaf: leaf.record.ingress.seq),
    Column("in_n", Shape.INTEGER, lambda leaf: leaf.record.ingress.n),
    Column("in_time", Shape.TIME, lambda leaf: leaf.record.ingress.time),
    Column("by", Shape.WORD, lambda leaf: leaf.record.by),
    Column("kind", Shape.WORD, lambda leaf: leaf.record.kind.value),
    Column("to", Shape.WORD, lambda leaf: leaf.record.to),
    Column("verdict", Shape.WORD, lambda leaf: leaf.record.verdict.value),
    Column("reason", Shape.WORD, lambda leaf: leaf.record.why.reason),
    Column("policies", Shape.WORDS, lambda leaf: leaf.record.why.policies),
    Column("bundle", Shape.WORD, lambda leaf: leaf.record.why.bundle),
    Column("obligations", Shape.WORDS, lambda leaf: leaf.record.why.obligations),
    Column("facts", Shape.TEXT, lambda leaf: msgspec.json.encode(leaf.record.why.facts).decode()),
    Column("first", Shape.INTEGER, lambda leaf: leaf.record.first, always=False),
    _attribute("id", Shape.TEXT),
    _attribute("source", Shape.WORD),
    _attribute("type", Shape.WORD),
    _attribute("subject", Shape.TEXT),
    _attribute("correlationid", Shape.TEXT),
    _attribute("causationid", Shape.TEXT),
    _attribute("causationsource", Shape.WORD),
    _attribute("answers", Shape.TEXT),
    _attribute("runid", Shape.TEXT),
    _attribute("stepid", Shape.WORD),
    _attribute("blueprint", Shape.WORD),
    _attribute("attempt", Shape.INTEGER),
    _attribute("traceparent", Shape.TEXT),
    _attribute("dataclassification", Shape.WORD),
    _attribute("onbehalfof", Shape.WORD),
    _attribute("costs", Shape.TEXT),
    Column("record", Shape.BYTES, lambda leaf: leaf.payload),
    Column("leaf_hash", Shape.HASH, lambda leaf: leaf.hash),
)
