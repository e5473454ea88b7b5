"""Whether Cedar takes every context of a type: that it does is what a memory relies on.

A record is checked attribute by attribute, so it is enough that each attribute was there once with
a value of its type, and absent once if it may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .types import Record, Scalar

_VALUES: dict[Scalar, Any] = {
    Scalar.BOOL: True,
    Scalar.LONG: 1,
    Scalar.STRING: "a text",
    Scalar.STRINGS: ["a text"],
    Scalar.DECIMAL: {"__extn": {"fn": "decimal", "arg": "1.5"}},
}
"""None of them is a value of another type in any schema."""


def samples(context: Record) -> Iterator[dict[str, Any]]:
    """Contexts such that Cedar takes all contexts of the type if it takes these."""
    for depth in range(_depth(context) + 1):
        yield _sample(context, depth)


def _sample(record: Record, optional: int) -> dict[str, Any]:
    """Optional attributes are there down to that depth, and not below."""
    return {
        name: _sample(attribute.type, optional - 1)
        if isinstance(attribute.type, Record)
        else _VALUES.get(attribute.type)
        for name, attribute in record.attributes.items()
        if attribute.required or optional > 0
    }


def _depth(record: Record) -> int:
    inner = (each.type for each in record.attributes.values())
    return 1 + max((_depth(each) for each in inner if isinstance(each, Record)), default=0)
