"""How long to wait before a failed attempt is repeated."""

from __future__ import annotations

import hashlib

from tidegate_schemas.manifest import Retry


def pause(retry: Retry, name: str, attempt: int) -> int:
    """Nanoseconds to wait after attempt number `attempt` (from 1) failed.

    The pause doubles with each attempt up to `max_delay`; the jitter takes off up to half. It
    comes from a digest of `name` and not from a random number: that spreads the attempts of many
    as well, and a process that starts again finds the same moment.
    """
    longest = int(min(retry.delay * 2.0 ** min(attempt - 1, 60), retry.max_delay) * 1e9)
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    return longest - (longest * draw >> 65)
