"""In what two JSON texts differ, as values: neither white space nor the order of members counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

_SHORT = 60


def differences(before: bytes, after: bytes) -> Iterator[str]:
    """Each place where they differ, as a JSON pointer, with what was there and what is.

    Numbers are compared by value, however they are written. Empty text, where there is no data, is
    null.
    """
    if before == after:
        return
    try:
        was, now = _read(before), _read(after)
    except (ValueError, ArithmeticError):  # numbers beyond all reason
        yield _told("", before.decode(), after.decode())
        return
    yield from _walk("", was, now)


def _read(text: bytes) -> Any:
    return json.loads(text or b"null", parse_float=Decimal)


def _walk(at: str, was: Any, now: Any) -> Iterator[str]:
    if _sort(was) != _sort(now):
        yield _told(at, _brief(was), _brief(now))
    elif isinstance(was, dict):
        yield from _members(at, was, now)  # pyright: ignore[reportUnknownArgumentType]  # any JSON
    elif isinstance(was, list):
        yield from _entries(at, was, now)  # pyright: ignore[reportUnknownArgumentType]  # any JSON
    elif was != now:
        yield _told(at, _brief(was), _brief(now))


def _sort(value: Any) -> str:
    """Of JSON, which has one sort of number; to Python, True is one too."""
    return type(value).__name__.replace("Decimal", "int")


def _members(at: str, was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for key in {**was, **now}:  # in the order of the one that was, then what is new
        inside = f"{at}/{_token(key)}"
        if key not in now:
            yield f"{inside} is missing, was {_brief(was[key])}"
        elif key not in was:
            yield f"{inside} is new: {_brief(now[key])}"
        else:
            yield from _walk(inside, was[key], now[key])


def _entries(at: str, was: list[Any], now: list[Any]) -> Iterator[str]:
    for index, (one, other) in enumerate(zip(was, now, strict=False)):
        yield from _walk(f"{at}/{index}", one, other)
    if len(was) != len(now):
        yield f"{at or 'the list'} has {len(now)} entries, had {len(was)}"


def _told(at: str, was: str, now: str) -> str:
    return f"{at or 'the data'} is {_cut(now)}, was {_cut(was)}"


def _token(key: str) -> str:
    """As RFC 6901 writes it."""
    return _cut(key.replace("~", "~0").replace("/", "~1"))


def _brief(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False, default=float))


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"
