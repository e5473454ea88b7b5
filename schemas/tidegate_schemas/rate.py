"""How often something may happen, as people write it: `100/1s`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .clock import parse_duration

_RATE = re.compile(r"(\d{1,9})/(.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many times in so many seconds; all of them may come at once."""

    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read `100/1s`, `5/1m` or `1000/1h`.

        Raises:
            ValueError: anything else, or none at all.
        """
        found = _RATE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:40]!r} is not a rate; write 100/1s, 5/1m or 1000/1h")
        count, seconds = int(found[1]), parse_duration(found[2])
        if not count or not seconds:
            raise ValueError(f"{text!r} lets nothing through; write 100/1s, 5/1m or 1000/1h")
        return cls(count, seconds)
