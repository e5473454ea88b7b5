"""How often somebody may come: a bucket of tokens that fills evenly. Pure."""

from __future__ import annotations

from typing import final

from tidegate_schemas.rate import Rate

_SECOND = 1_000_000_000


@final
class Bucket:
    """Full at first: all that the rate says may be taken at once, and then one after the other.

    One number is kept, the time when it will be full again, so that nothing has to fill it (the
    virtual scheduling of ITU-T I.371). In integers of 1/count of a nanosecond: nothing is
    rounded, and no rate is exceeded however long it goes on.
    """

    def __init__(self, rate: Rate) -> None:
        self._scale = rate.count
        self._each = round(rate.seconds * _SECOND)
        self._full = 0

    def take(self, now: int, count: int = 1) -> float:
        """Take some; 0.0, or the seconds to wait for them when there are not so many.

        Args:
            now: ns of a clock that does not go back.
            count: how many, of those that it holds when it is full.
        """
        moment = now * self._scale
        after = max(self._full, moment) + self._each * count
        missing = after - moment - self._each * self._scale
        if missing > 0:
            return missing / (self._scale * _SECOND)
        self._full = after
        return 0.0
