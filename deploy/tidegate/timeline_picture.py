"""A picture of a story, as SVG: a lane for each principal, time from left to right. Pure.

A message is a mark in the lane of who sent it. A task and its answer are a bar in the lane of who
answered. Arrows go from a task to its bar, from an answer to whom it is for, and as curves from a
message to what follows from it. Long waits are cut short, and marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.subjects import Kind, Verdict

from .timeline import Line

MOST = 2_000
"""Lines in a picture."""

_GUTTER = 210
_EDGE = 28
_TOP = 34
_ROW = 26
_BAR = 16
_PADDING = 12
_HEAD = 12
"""Above the rows of a lane: where its name has no column of its own, it stands there."""
_NARROWEST, _WIDEST = 11.0, 84.0
"""Pixels between two records, for no time and for a wait that is cut short."""
_LEAST_WIDTH = 660.0
_TICK_EVERY = 104.0
_NUMBERED = 15.0
_CHARACTER = 6.3
_LONGEST_NAME, _LONGEST_TITLE = 26, 120
_FAR, _MANY = 420.0, 40
"""Among so many lines longer curves are left out: they would only cross all others."""


@dataclass(slots=True)
class _Lane:
    """Rows from top to bottom: of loose marks first, if there are any, then of bars."""

    name: str
    loose: bool = False
    ends: list[float] = field(default_factory=list[float])
    top: float = 0.0

    @property
    def rows(self) -> int:
        return max(self.loose + len(self.ends), 1)

    @property
    def height(self) -> float:
        return _HEAD + self.rows * _ROW + _PADDING

    def y(self, row: int) -> float:
        """The middle of a row."""
        return self.top + _HEAD + _PADDING / 2 + (row + 0.5) * _ROW

    def place(self, begin: float, end: float) -> int:
        """The first row where a bar fits, by number among all."""
        for row, taken in enumerate(self.ends):
            if taken <= begin:
                self.ends[row] = end
                break
        else:
            row = len(self.ends)
            self.ends.append(end)
        return row


@dataclass(frozen=True, slots=True)
class _Bar:
    task: Line
    answer: Line
    lane: _Lane
    row: int

    @property
    def y(self) -> float:
        return self.lane.y(self.row + self.lane.loose)

    @property
    def label(self) -> str:
        return printable(self.answer.step or self.task.to, _LONGEST_NAME)


class Picture:
    """Where everything is. `names` and `drawing` are SVG elements of the same height.

    Args:
        lines: at least one, in order.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        self._times = {line.seq: parse_rfc3339(line.time) for line in lines}
        self._x, self._cuts = self._scale()
        self._lanes = {line.by: _Lane(line.by) for line in lines}
        self._bars: dict[int, _Bar] = {}
        self._answers: dict[int, _Bar] = {}
        self._place()
        top = float(_TOP)
        for lane in self._lanes.values():
            lane.top = top
            top += lane.height
        self._height = top + 8

    @property
    def names(self) -> str:
        """The lanes' names."""
        parts = [
            f'<text x="14" y="{lane.top + lane.height / 2 + 4:.0f}">'
            f"{safe(lane.name, _LONGEST_NAME)}<title>{safe(lane.name)}</title></text>"
            for lane in self._lanes.values()
        ]
        return self._svg("names", _GUTTER, [*self._stripes(_GUTTER), *parts])

    @property
    def drawing(self) -> str:
        """Everything else."""
        width = max(self._x.values()) + _EDGE + 60
        parts = [
            *_MARKERS,
            *self._stripes(width),
            *(
                f'<text class="own" x="4" y="{lane.top + 11:.0f}">{safe(lane.name)}</text>'
                for lane in self._lanes.values()
            ),
            *self._axis(),
            *self._curves(),
            *self._drawn_bars(),
            *self._marks(),
        ]
        return self._svg("drawing", width, parts)

    def _svg(self, name: str, width: float, parts: Sequence[str]) -> str:
        box = f"0 0 {width:.0f} {self._height:.0f}"
        head = (
            f'<svg class="{name}" viewBox="{box}" width="{width:.0f}" height="{self._height:.0f}"'
        )
        inside = "\n".join(parts)
        return f'{head} role="group" aria-label="{name}">\n{inside}\n</svg>'

    def _scale(self) -> tuple[dict[int, float], list[tuple[float, int]]]:
        """Where each record is from left to right; and where waits are cut, with their length."""
        times = [self._times[line.seq] for line in self._lines]
        waits = [max(after - before, 0) for before, after in pairwise(times)]
        usual = sorted(wait for wait in waits if wait)
        longest = 4 * usual[len(usual) * 3 // 4] if usual else 1
        room = _WIDEST - _NARROWEST
        steps = [_NARROWEST + room * min(wait / longest, 1.0) for wait in waits]
        stretch = max(1.0, _LEAST_WIDTH / sum(steps)) if steps else 1.0
        x, found, cuts = float(_EDGE), {self._lines[0].seq: float(_EDGE)}, list[tuple[float, int]]()
        for line, step, wait in zip(self._lines[1:], steps, waits, strict=True):
            if wait > longest:
                cuts.append((x + step * stretch / 2, wait))
            x += step * stretch
            found[line.seq] = x
        return found, cuts

    def _place(self) -> None:
        """Find the bars, and a row for each."""
        tasks = {line.seq: line for line in self._lines if line.kind == Kind.TASK}
        for line in self._lines:
            task = tasks.get(line.cause or 0)
            if line.kind == Kind.RESULT and task and task.seq not in self._bars:
                lane = self._lanes[line.by]
                begin, end = self._x[task.seq], self._x[line.seq]
                label = len(line.step or task.to) * _CHARACTER
                inside = end - begin > label + 16
                bar = _Bar(
                    task, line, lane, lane.place(begin, end + (10 if inside else label + 18))
                )
                self._bars[task.seq] = self._answers[line.seq] = bar
            else:
                self._lanes[line.by].loose = True

    def _at(self, line: Line) -> tuple[float, float]:
        bar = self._answers.get(line.seq)
        return self._x[line.seq], bar.y if bar else self._lanes[line.by].y(0)

    def _stripes(self, width: float) -> Iterator[str]:
        for number, lane in enumerate(self._lanes.values()):
            shade = "odd" if number % 2 else "even"
            yield (
                f'<rect class="{shade}" x="0" y="{lane.top:.0f}" width="{width:.0f}" '
                f'height="{lane.height:.0f}"/>'
            )

    def _axis(self) -> Iterator[str]:
        begin, last = self._times[self._lines[0].seq], -_TICK_EVERY
        bottom = self._height - 8
        for line in self._lines:
            x = self._x[line.seq]
            if x - last >= _TICK_EVERY:
                last = x
                label = moment(self._times[line.seq] - begin)
                yield f'<path class="tick" d="M{x:.1f} {_TOP - 8}V{bottom:.0f}"/>'
                yield f'<text class="time" x="{x:.1f}" y="16">{label}</text>'
        for x, wait in self._cuts:
            zigzag = f"M{x - 3:.1f} {_TOP - 7}l6 -5M{x + 1:.1f} {_TOP - 7}l6 -5"
            yield (
                f'<g class="cut"><path d="{zigzag}"/><path class="wait" '
                f'd="M{x:.1f} {_TOP}V{bottom:.0f}"/>'
                f"<title>{length(wait)} later, not to scale</title></g>"
            )

    def _curves(self) -> Iterator[str]:
        """From what was said to what follows from it, where no bar tells it."""
        at = {line.seq: line for line in self._lines}
        for line in self._lines:
            cause = at.get(line.cause or 0)
            if cause is None or line.seq in self._answers:
                continue
            x, y = self._at(line)
            bar = self._bars.get(cause.seq)
            if bar and bar.lane is self._lanes[line.by]:  # said while it handled that
                yield f'<path class="from" d="M{x:.1f} {bar.y:.1f}V{y + 7:.1f}"/>'
                continue
            x0, y0 = self._at(cause)
            kind = "again" if line.verdict == Verdict.DUPLICATE or _let_go(line, cause) else "from"
            if x - x0 > _FAR and len(self._lines) > _MANY:
                path = f"M{x - 26:.1f} {y - 9:.1f}Q{x - 12:.1f} {y - 8:.1f} {x - 5:.1f} {y - 3:.1f}"
                title = f"<title>follows from record {cause.seq}</title>"
                yield f'<path class="{kind} far" d="{path}">{title}</path>'
            elif y == y0:
                lift = min(10 + (x - x0) / 12, _ROW * 0.75)
                path = f"M{x0:.1f} {y0:.1f}C{x0:.1f} {y0 - lift:.1f} {x:.1f} {y - lift:.1f}"
                yield f'<path class="{kind}" d="{path} {x:.1f} {y:.1f}"/>'
            else:
                bend = min((x - x0) / 2, 60)
                path = f"M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x - bend:.1f} {y:.1f}"
                yield f'<path class="{kind}" d="{path} {x:.1f} {y:.1f}"/>'

    def _drawn_bars(self) -> Iterator[str]:
        for bar in self._bars.values():
            begin, end = self._x[bar.task.seq], self._x[bar.answer.seq]
            top = bar.y - _BAR / 2
            y = self._at(bar.task)[1]
            stop = top if y < bar.y else top + _BAR
            yield f'<path class="asks" d="M{begin:.1f} {y:.1f}V{stop:.1f}"/>'
            to = self._lanes.get(bar.answer.to)
            if to and bar.answer.verdict == Verdict.ALLOW:
                back = to.y(0) + (6 if to.top < bar.lane.top else -6)
                yield f'<path class="answers" d="M{end:.1f} {bar.y:.1f}V{back:.1f}"/>'
            word = "gave-up" if bar.answer.gave_up else safe(bar.answer.verdict)
            label = len(bar.label) * _CHARACTER
            inside = end - begin > label + 16
            x = begin + 7 if inside else end + 10
            yield (
                f'<g class="bar {word}"><rect x="{begin:.1f}" y="{top:.1f}" '
                f'width="{max(end - begin, 2):.1f}" height="{_BAR}" rx="4"/>'
                f'<text x="{x:.1f}" y="{bar.y + 4:.1f}">{escape(bar.label)}</text></g>'
            )

    def _marks(self) -> Iterator[str]:
        previous = -_NUMBERED
        for line in self._lines:
            x, y = self._at(line)
            open_ = line.kind == Kind.TASK and line.verdict == Verdict.ALLOW
            hollow = " open" if open_ and line.seq not in self._bars else ""
            number = ""
            if x - previous >= _NUMBERED:
                beside = line.seq in self._answers  # an arrow goes up from there
                place = f'class="beside" x="{x + 6:.1f}"' if beside else f'x="{x:.1f}"'
                number = f'<text {place} y="{y - 9:.1f}">{line.seq}</text>'
                previous = x
            yield (
                f'<a href="#r{line.seq}" class="mark {safe(line.verdict)}{hollow}">'
                f"{_shape(line, x, y)}{number}"
                f"<title>{line.seq}: {safe(line.text, _LONGEST_TITLE)}</title></a>"
            )


_MARKERS = (
    "<defs>",
    *(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path class="{name}" d="M0 .8L7 4L0 7.2z"/></marker>'
        for name in ("head", "soft")
    ),
    "</defs>",
)


def _shape(line: Line, x: float, y: float) -> str:
    """Kinds have a shape, so that they can be told apart without colours."""
    if line.verdict in (Verdict.DENY, Verdict.REJECT):
        return f'<path d="M{x - 4.5:.1f} {y - 4.5:.1f}l9 9m0 -9l-9 9"/>'
    match line.kind:
        case Kind.TASK:
            return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" rx="1"/>'
        case Kind.CONTROL:
            return f'<path d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>'
        case _:
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _let_go(line: Line, cause: Line) -> bool:
    return cause.verdict == Verdict.HOLD and (cause.by, cause.to) == (line.by, line.to)


def printable(text: str, most: int = 0) -> str:
    """Text that somebody else wrote, without what could reorder or hide what is around it."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return f"{shown[: most - 1]}…" if most and len(shown) > most else shown


def safe(text: str, most: int = 0) -> str:
    """The same, fit for HTML: between tags, and between quotes."""
    return escape(printable(text, most))


def moment(nanoseconds: int) -> str:
    """How long after the beginning, so that two moments can be told apart."""
    if nanoseconds < 120 * 10**9:
        return length(nanoseconds)
    minutes, rest = divmod(nanoseconds // 10**6, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest / 1000:06.3f}"


def length(nanoseconds: int) -> str:
    """A length of time for people."""
    seconds = nanoseconds / 1e9
    for most, unit, size in ((1, "ms", 0.001), (120, "s", 1), (7_200, "min", 60)):
        if seconds < most:
            amount = seconds / size
            return f"{amount:,.1f} {unit}" if amount < 100 else f"{amount:,.0f} {unit}"
    return f"{seconds / 3600:,.1f} h"
