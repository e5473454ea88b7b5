"""Time as the bus writes it: integers of nanoseconds since 1970 inside, RFC 3339 UTC outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000_000


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as `2026-01-31T12:00:00.123456789Z` (RFC 3339, always nine digits).

    Nine digits always, so that times sort as text and no digit is lost on the way back.
    """
    seconds, rest = divmod(ns, _SECOND)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time.

    Raises:
        ValueError: no RFC 3339 time, or no offset (a local time means nothing on a bus).
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or "T" not in text.upper():
        raise ValueError("not an RFC 3339 time with an offset")
    delta = moment - _EPOCH
    fraction = text.partition(".")[2]
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))][:9].ljust(9, "0")
    return (delta.days * 86_400 + delta.seconds) * _SECOND + int(digits)


def parse_duration(text: str) -> float:
    """Seconds of `250ms`, `30s`, `5m`, `2h` or `1d`.

    Raises:
        ValueError: anything else, with the forms that are understood.
    """
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal():
            return float(number) * factor
    raise ValueError(f"{text!r} is not a duration; write 250ms, 30s, 5m, 2h or 1d")
