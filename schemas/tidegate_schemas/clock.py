"""Time as the bus writes it: integers of nanoseconds since 1970 inside, RFC 3339 UTC outside."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000_000
_FIRST = -62_135_596_800 * _SECOND  # 0001-01-01T00:00:00Z
_END = 253_402_300_800 * _SECOND  # one past 9999-12-31T23:59:59.999999999Z
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?"
    r"(?:[Zz]|([+-](?:[01]\d|2[0-3]):[0-5]\d))",
    re.ASCII,
)
_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_UNITS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
}

MAX_SECONDS = 36_500 * 86_400.0
"""Longest duration, a hundred years: as nanoseconds it still fits the 64 bits of the broker."""


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as `2026-01-31T12:00:00.123456789Z` (RFC 3339, always nine digits).

    Nine digits always, so that times sort as text and no digit is lost on the way back.

    Raises:
        OverflowError: outside the years 1 to 9999.
    """
    seconds, rest = divmod(ns, _SECOND)
    return f"{_to_the_second(seconds)}.{rest:09d}Z"


@lru_cache(maxsize=16)  # a gateway writes thousands of times of the same second
def _to_the_second(seconds: int) -> str:
    moment = _EPOCH + timedelta(seconds=seconds)
    return moment.isoformat()[:19]  # not strftime: its %Y is `1` for the year 0001


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time; digits after the ninth are cut off.

    Raises:
        ValueError: no RFC 3339 time, or no offset (a local time means nothing on a bus), or
            outside the years 1 to 9999.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 time with an offset")
    date, time, fraction, offset = found.groups()
    delta = datetime.fromisoformat(f"{date}T{time}{offset or '+00:00'}") - _EPOCH
    ns = (delta.days * 86_400 + delta.seconds) * _SECOND + int((fraction or "0")[:9].ljust(9, "0"))
    if not _FIRST <= ns < _END:
        raise ValueError("outside the years 1 to 9999")
    return ns


def parse_duration(text: str) -> float:
    """Seconds of `250ms`, `30s`, `5m`, `2h` or `1d`.

    Raises:
        ValueError: anything else, with the forms that are understood; or over 36500d.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is not a duration; write 250ms, 30s, 5m, 2h or 1d")
    seconds = float(Decimal(found[1]) * _UNITS[found[2]])
    if seconds > MAX_SECONDS:
        raise ValueError(f"{text!r} is too long; at most 36500d")
    return seconds
