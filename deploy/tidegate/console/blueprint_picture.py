"""A picture of a run's blueprint, as SVG: a box for each step, its state in words. Pure.

What a step needs is to the left of it. Everything that looks somehow is said by classes, so that
the picture needs no style of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from html import escape

from tidegate.timeline_picture import safe
from tidegate_agents.run import Run, StepState

_WIDTH, _HEIGHT = 184, 58
_BESIDE, _BELOW = 46, 16
_EDGE = 8
_LONGEST = 22


@dataclass(frozen=True, slots=True)
class Box:
    """A step in the picture: where its upper left corner is, and what it says."""

    name: str
    task: str
    look: str
    words: str
    x: float
    y: float


def looks(run: Run, state: StepState) -> tuple[str, str]:
    """How a step of a run looks, and how far it is, in words."""
    units, status = state.units, state.status
    done = sum(unit.phase == "done" for unit in units)
    of = f", {done} of {len(units)} done" if len(units) > 1 and status != "succeeded" else ""
    if run.status != "running" and status in ("waiting", "running"):
        return "missed", f"{'not reached' if status == 'waiting' else 'left'}{of}"
    again = max((unit.attempt for unit in units), default=1)
    attempt = f", attempt {again}" if again > 1 else ""
    if status == "running" and any(unit.phase == "held" for unit in units):
        return "hold", f"held{of}"
    return status, f"{status}{of}{attempt}"


def layers(needs: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """Steps from left to right: each after all that it needs, as far left as can be.

    In a layer they are in the order of what they need, so that lines cross seldom.
    """
    depth: dict[str, int] = {}
    for name in TopologicalSorter(needs).static_order():
        depth[name] = max((depth[need] + 1 for need in needs[name]), default=0)
    found: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in needs:
        found[depth[name]].append(name)
    places: dict[str, float] = {}
    for layer in found:
        layer.sort(key=lambda name: _middle([places[need] for need in needs[name]]))
        places |= {name: place - (len(layer) - 1) / 2 for place, name in enumerate(layer)}
    return found


def _middle(places: list[float]) -> float:
    return sum(places) / len(places) if places else 0.0


def boxes(run: Run) -> dict[str, Box]:
    """The steps of a run, each in its place."""
    steps = run.blueprint.steps
    found = layers({name: step.needs for name, step in steps.items()})
    tallest = max(map(len, found))
    placed: dict[str, Box] = {}
    for column, layer in enumerate(found):
        top = (tallest - len(layer)) * (_HEIGHT + _BELOW) / 2
        for row, name in enumerate(layer):
            x, y = column * (_WIDTH + _BESIDE), top + row * (_HEIGHT + _BELOW)
            look, words = ("sealed", "sealed") if run.sealed else looks(run, run.steps[name])
            placed[name] = Box(name, steps[name].task, look, words, x + _EDGE, y + _EDGE)
    return placed


def picture(run: Run) -> str:
    """The picture. Each box leads to `#step-<name>`."""
    placed = boxes(run)
    width = max(box.x for box in placed.values()) + _WIDTH + _EDGE
    height = max(box.y for box in placed.values()) + _HEIGHT + _EDGE
    lines = [
        _line(placed[need], placed[name])
        for name, step in run.blueprint.steps.items()
        for need in step.needs
    ]
    title = f"Steps of {run.blueprint.blueprint}, by state"
    return "\n".join(
        (
            f'<svg class="blueprint" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" role="group" aria-label="{escape(title)}">',
            *lines,
            *map(_drawn, placed.values()),
            "</svg>",
        )
    )


def _line(one: Box, other: Box) -> str:
    x0, y0 = one.x + _WIDTH, one.y + _HEIGHT / 2
    x1, y1 = other.x, other.y + _HEIGHT / 2
    bend = _BESIDE * 0.6
    path = f"M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    return f'<path class="line {one.look}" d="{path}"/>'


def _drawn(box: Box) -> str:
    x, y = box.x, box.y
    return (
        f'<a href="#step-{escape(box.name)}" class="step {box.look}">'
        f"<title>{safe(box.name)}: {safe(box.task)}, {safe(box.words)}</title>"
        f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{_WIDTH}" height="{_HEIGHT}" rx="7"/>'
        f'<rect class="edge" x="{x:.1f}" y="{y:.1f}" width="5" height="{_HEIGHT}" rx="2.5"/>'
        f'<text class="name" x="{x + 16:.1f}" y="{y + 24:.1f}">{safe(box.name, _LONGEST)}</text>'
        f'<text class="words" x="{x + 16:.1f}" y="{y + 43:.1f}">{safe(box.words, 28)}</text></a>'
    )
