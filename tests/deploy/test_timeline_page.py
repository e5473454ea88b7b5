"""The page of a story: whole, alone, and safe whatever messages say."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from tidegate.timeline import Line
from tidegate.timeline_page import page
from tidegate.timeline_picture import MOST, Picture, length, moment
from tidegate_schemas.clock import rfc3339

BEGIN = 1_800_000_000_000_000_000
MS = 1_000_000
VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = "</title></text><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202e\x00\n]]>"


class Tree(HTMLParser):
    """Reads a page strictly; keeps elements and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`; so too below."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:  # noqa: D102
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:  # noqa: D102
        self.text.append(data)

    def classes(self, name: str) -> int:
        """How many elements are of a class."""
        return sum(name in (given.get("class") or "").split() for _, given in self.elements)


class Story:
    """Makes lines, a millisecond apart."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.now = BEGIN

    def add(self, kind: str, by: str, to: str, *, wait: int = MS, **more: Any) -> int:
        """One more line; its sequence."""
        self.now += wait
        seq = len(self.lines) + 1
        given: dict[str, Any] = {"verdict": "allow", "text": f"{by} to {to}", **more}
        self.lines.append(Line(seq=seq, time=rfc3339(self.now), kind=kind, by=by, to=to, **given))
        return seq

    def ask(self, agent: str, cause: int | None = None, **more: Any) -> None:
        """A task and its result."""
        task = self.add("task", "c.c", agent, cause=cause, step=agent)
        self.add("result", f"a.{agent}", "c.c", cause=task, step=agent, **more)

    @property
    def tree(self) -> Tree:
        """The page, read."""
        return Tree(page(self.lines, "story"))


def test_each_line_is_a_mark_and_a_row() -> None:
    """The mark leads to the row, and there are no other ids."""
    story = Story()
    start = story.add("event", "o.o", "began")
    story.ask("one", start)
    story.add("control", "p.p", "run.cancel", cause=start)
    tree = story.tree
    links = [given["href"] for tag, given in tree.elements if tag == "a"]
    rows = [given["id"] for tag, given in tree.elements if tag == "tr" and "id" in given]

    assert links == [f"#{row}" for row in rows] == ["#r1", "#r2", "#r3", "#r4"]
    assert [line.text in tree.text for line in story.lines] == [True] * 4
    for name in ("o.o", "c.c", "a.one", "p.p"):
        assert name in tree.text


def test_what_happened_can_be_told_from_the_picture() -> None:
    """Work is a bar; verdicts, open tasks, dead letters, repeats and cut waits have their looks."""
    story = Story()
    start = story.add("event", "o.o", "began")
    story.ask("one", start)
    story.ask("two", start, gave_up=True)
    story.ask("three", start, verdict="deny")
    story.add("task", "c.c", "four", cause=start)
    held = story.add("task", "c.c", "five", cause=start, verdict="hold")
    story.add("task", "c.c", "five", cause=held, wait=10**12)
    story.add("event", "o.o", "began", cause=start, verdict="duplicate")
    drawing = Tree(Picture(story.lines).drawing)

    assert [drawing.classes(name) for name in ("bar", "gave-up", "asks", "answers")] == [3, 1, 3, 2]
    assert [drawing.classes(name) for name in ("mark", "open", "hold", "duplicate")] == [
        11,
        2,
        1,
        1,
    ]
    assert drawing.classes("again") == 2
    assert drawing.classes("cut") == 1
    assert "16.7 min later, not to scale" in drawing.text


def test_work_at_the_same_time_is_not_drawn_over_each_other() -> None:
    """Bars of a lane that overlap are in rows of their own."""
    story = Story()
    tasks = [story.add("task", "c.c", "work", step=f"s{n}") for n in range(3)]
    for task in tasks:
        story.add("result", "a.a", "c.c", cause=task, step=f"s{task}")
    tree = Tree(Picture(story.lines).drawing)
    places = [
        (float(given["x"] or 0), float(given["width"] or 0), given["y"])
        for tag, given in tree.elements
        if tag == "rect" and given.get("rx") == "4"
    ]

    assert len({y for *_, y in places}) == 3
    assert all(width > 0 for _, width, _ in places)


def test_the_name_of_a_lane_stands_above_its_marks_and_their_numbers() -> None:
    """On a narrow page it stands in the picture itself, where the first mark may be."""
    story = Story()
    story.ask("one", story.add("event", "o.o", "began"))
    drawing = Picture(story.lines).drawing
    names = [int(y) for y in re.findall(r'class="own" x="4" y="(\d+)"', drawing)]
    numbers = [float(y) for y in re.findall(r'<text [^>]*y="([\d.]+)">\d+</text>', drawing)]

    assert (len(names), len(numbers)) == (3, 3)
    for number in numbers:
        assert min(number - name for name in names if name < number) >= 9


def test_time_runs_from_left_to_right_and_waits_are_cut() -> None:
    """Marks never coincide, also at the same moment; a day does not make the picture wider."""
    story = Story()
    for wait in (0, 0, MS, 86_400 * 10**9, 5 * MS):
        story.add("event", "o.o", "x", wait=wait)
    tree = Tree(Picture(story.lines).drawing)
    at = [float(given["cx"] or 0) for tag, given in tree.elements if tag == "circle"]

    assert at == sorted(at)
    assert min(b - a for a, b in pairwise(at)) > 10
    assert at[-1] < 1_000


@pytest.mark.parametrize("field", ["text", "by", "to", "step", "kind", "verdict"])
def test_hostile_text_stays_text(field: str) -> None:
    """Whatever is in it: tags, quotes, control characters, what turns the reading direction."""
    story = Story()
    task = story.add("task", "c.c", "x", step="s")
    given: dict[str, Any] = {
        "kind": "result",
        "by": "a.a",
        "to": "c.c",
        "cause": task,
        field: HOSTILE,
    }
    story.add(given.pop("kind"), given.pop("by"), given.pop("to"), **given)
    text = page(story.lines, HOSTILE)
    tree = Tree(text)

    tags = {tag for tag, _ in tree.elements}
    assert not tags & {"script", "img", "iframe", "object", "link", "base", "form"}
    assert not any(name.startswith("on") for _, given in tree.elements for name in given)
    assert not {"\u202e", "\x00"} & set(text)
    assert "<script" not in text


def test_the_page_needs_nobody() -> None:
    """No address in it but places of its own, and a policy that allows nothing but its style."""
    story = Story()
    story.ask("one")
    text = page(story.lines, "story")
    tree = Tree(text)

    for _, given in tree.elements:
        for name in ("href", "src", "xlink:href", "action", "data", "srcset"):
            assert (given.get(name) or "#").startswith("#")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert re.findall(r"url\(([^)]*)\)", text) == ["#soft", "#head"]
    policy = next(g["content"] for _, g in tree.elements if "http-equiv" in g)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_a_thousand_lines_are_half_a_megabyte() -> None:
    """And of very many, the picture shows the first; the table has all."""
    story = Story()
    start = story.add("event", "o.o", "began")
    while len(story.lines) < 1_000:
        story.ask(f"agent-{len(story.lines) % 7}", start)
    text = page(story.lines, "story")
    assert len(text) < 600_000
    while len(story.lines) < MOST + 10:
        story.ask("one", start)
    tree = story.tree

    assert "The picture shows the first 2,000 of them." in "".join(tree.text)
    assert sum(tag == "tr" for tag, _ in tree.elements) == len(story.lines) + 1


def test_a_single_line_has_a_page() -> None:
    """Nothing came of it."""
    story = Story()
    story.add("event", "o.o", "began")

    assert story.tree.classes("mark") > 0


def test_lengths_and_moments_are_for_people() -> None:
    """Two moments that differ look different, also after hours."""
    found = [length(n) for n in (0, 1_500_000, 250 * MS, 1_200 * MS, 300 * 10**9, 10**13)]
    assert found == ["0.0 ms", "1.5 ms", "250 ms", "1.2 s", "5.0 min", "2.8 h"]
    assert moment(7_261_001 * MS) == "2:01:01.001"
    assert moment(10 * MS) == "10.0 ms"
