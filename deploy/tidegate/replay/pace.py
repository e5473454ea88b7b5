"""When each message is delivered again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tidegate_schemas.errors import InvalidInput

_FACTOR = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)x", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pace:
    """`original`, `10x` for ten times as fast, or `max` for all at once.

    Attributes:
        factor: how many times as fast as then; 0 for all at once.
    """

    factor: float

    @classmethod
    def parse(cls, text: str) -> Pace:
        """Read one.

        Raises:
            InvalidInput: it is none.
        """
        match text:
            case "original":
                return cls(1.0)
            case "max":
                return cls(0.0)
            case _:
                found = _FACTOR.fullmatch(text)
                if found is None or float(found[1]) == 0:
                    raise InvalidInput(
                        f"{text[:40]!r} is no pace; write original, max, or how many times as "
                        "fast, e.g. 10x or 0.5x"
                    )
                return cls(float(found[1]))

    def after(self, nanoseconds: int) -> float:
        """Seconds after the beginning of what came so long after it then."""
        return max(nanoseconds, 0) / 1e9 / self.factor if self.factor else 0.0
