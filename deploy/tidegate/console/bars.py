"""A small chart of bars that stand on each other, as paths of SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600, 96
"""Of the drawing, in its own units; the page stretches it."""
_GAP = 0.2
"""Of a bar's room, that is left free."""
_STEPS = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Bars:
    """The chart.

    Attributes:
        top: value at the upper edge: 1, 2 or 5 with noughts, so that it seldom changes.
        paths: `d` of each kind of value, in the order in which they were given.
    """

    top: int
    paths: tuple[str, ...]


def bars(series: Sequence[Sequence[int]]) -> Bars:
    """Draw a series.

    Args:
        series: values that stand on each other, of one bar after the other; all as many.
    """
    top = _top(max((sum(values) for values in series), default=0))
    step = WIDTH / max(len(series), 1)
    kinds = len(series[0]) if series else 0
    paths: list[list[str]] = [[] for _ in range(kinds)]
    for place, values in enumerate(series):
        low = float(HEIGHT)
        for kind, value in enumerate(values):
            if value:
                tall = value * HEIGHT / top
                low -= tall
                paths[kind].append(
                    f"M{place * step:.1f} {low:.1f}h{step * (1 - _GAP):.1f}"
                    f"v{tall:.1f}h-{step * (1 - _GAP):.1f}z"
                )
    return Bars(top, tuple("".join(path) for path in paths))


def _top(highest: int) -> int:
    power = 1
    while True:
        for step in _STEPS:
            if step * power >= max(highest, _STEPS[-1]):
                return step * power
        power *= 10
