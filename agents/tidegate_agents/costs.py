"""What handling a message costs, summed by unit, as `costs` of an envelope says it."""

from __future__ import annotations

import re
import threading
from decimal import Decimal, InvalidOperation

_UNIT = re.compile(r"[a-z_]{1,32}", re.ASCII)
_MOST_UNITS = 16
_FINEST = Decimal("1e-9")
_MOST = Decimal(10**15)


class Costs:
    """A sum for each unit. Handlers add from threads of their own."""

    def __init__(self) -> None:
        self._sums: dict[str, Decimal] = {}
        self._lock = threading.Lock()

    def add(self, unit: str, amount: Decimal | int | str) -> None:
        """Add to the sum of a unit.

        Raises:
            ValueError: `costs` could not say it.
        """
        if not _UNIT.fullmatch(unit):
            raise ValueError(f"{unit[:40]!r} is no unit; write it with a-z and _")
        if isinstance(amount, float):
            raise ValueError(f"{amount!r} is a float; write it as text or a Decimal")
        try:
            more = Decimal(amount)
            if more.is_nan():
                raise InvalidOperation
        except InvalidOperation:
            raise ValueError(f"{str(amount)[:40]!r} is no number") from None
        with self._lock:
            if unit not in self._sums and len(self._sums) == _MOST_UNITS:
                raise ValueError(f"more than {_MOST_UNITS} units")
            total = self._sums.get(unit, Decimal(0)) + more if more.is_finite() else _MOST
            if not (more >= 0 and total < _MOST and more == round(more, 9)):
                raise ValueError(f"{amount} {unit} is not between 0 and 1e15, by billionths")
            self._sums[unit] = total

    def text(self) -> str | None:
        """As in an envelope, such as `tokens:431,usd:0.02`; None where nothing was said."""
        with self._lock:
            sums = sorted(self._sums.items())
        return ",".join(f"{unit}:{_plain(total)}" for unit, total in sums) or None


def _plain(total: Decimal) -> str:
    return f"{total.quantize(_FINEST):f}".rstrip("0").rstrip(".")
