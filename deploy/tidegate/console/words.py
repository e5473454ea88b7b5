"""How values are written in pages. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from tidegate.timeline_picture import printable
from tidegate_schemas.clock import parse_rfc3339

_SECOND = 1_000_000_000


def moment(value: str | int) -> str:
    """A time as `2026-01-31 12:00:00`, in UTC; from RFC 3339 or ns since 1970."""
    return _at(value).strftime("%Y-%m-%d %H:%M:%S")


def clock(value: str | int) -> str:
    """The time of day, `12:00:00`, in UTC."""
    return _at(value).strftime("%H:%M:%S")


def ago(value: str | int, now: int) -> str:
    """How long ago something was, as `12 s`, `5 min`, `3 h`, `2 d`."""
    then = value if isinstance(value, int) else parse_rfc3339(value)
    return length(max(now - then, 0) // _SECOND)


def length(seconds: float) -> str:
    """A length of time in the largest unit that says enough."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def number(value: float) -> str:
    """`12,345`; below ten, with one decimal if it has any."""
    if value != int(value) and value < 10:
        return f"{value:.1f}"
    return f"{round(value):,}"


def milliseconds(value: float | None) -> str:
    """A latency, in ms or s; a dash without one."""
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1000:,.0f} s"
    if value >= 1_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def short(digest: str) -> str:
    """The beginning of a digest."""
    return digest.removeprefix("sha256:")[:12]


def _at(value: str | int) -> datetime:
    nanoseconds = value if isinstance(value, int) else parse_rfc3339(value)
    return datetime.fromtimestamp(nanoseconds // _SECOND, UTC)


def confirm_path(command: str, target: str, back: str) -> str:
    """Where a command is looked at before it is said."""
    return f"/controls/confirm?{urlencode({'command': command, 'target': target, 'back': back})}"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "ago": ago,
    "clock": clock,
    "confirm_path": confirm_path,
    "length_of_time": length,
    "milliseconds": milliseconds,
    "moment": moment,
    "number": number,
    "printable": printable,
    "short": short,
}
"""By the names under which templates call them."""
