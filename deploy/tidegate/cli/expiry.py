"""When something ends, as people write it at the command line."""

from __future__ import annotations

import re

from tidegate_schemas.clock import parse_duration, parse_rfc3339
from tidegate_schemas.errors import InvalidInput

_SECOND = 1_000_000_000


def end_of(text: str | None, now: int) -> int | None:
    """What `--expires` says, ns since 1970: a duration from now on, or a time; None if nothing.

    Raises:
        InvalidInput: it is neither, or over already.
    """
    if text is None:
        return None
    try:
        if re.fullmatch(r"[\d.]+[a-z]+", text):
            end = now + int(parse_duration(text) * _SECOND)
        else:
            end = parse_rfc3339(text)
    except ValueError as error:
        raise InvalidInput(
            f"--expires: {error}; write 30m, 12h, 30d, or 2026-12-31T23:59:59Z"
        ) from None
    if end <= now:
        raise InvalidInput(f"--expires: {text} is over already")
    return end
