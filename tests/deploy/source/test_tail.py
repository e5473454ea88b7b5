"""Lines of a file that grows, is renamed and is cut off, whether or not somebody looks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from support import until
from tidegate.source.cursor import Cursor
from tidegate.source.lines import LONGEST, Lines
from tidegate.source.shape import Shape
from tidegate.source.tail import Format, Place, Tail
from tidegate_schemas.errors import InvalidInput

from .kit import Ledger


class _Log:
    """A file, and sources that follow it one after the other."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.log"
        self.kept = Cursor(folder / "kept", Place)

    def tail(self, format: Format = "text", *, existing: bool = True) -> Tail:
        """One more process that follows it."""
        shape = Shape("log.line", "test")
        return Tail(self.path, shape, format, self.kept, existing=existing, quiet=0.05)

    def write(self, *lines: str, end: str = "\n") -> None:
        """Add lines to the file that has the name now."""
        with self.path.open("a") as file:
            file.write("\n".join(lines) + end)

    def rotate(self) -> None:
        """Rename it, and the older ones, as logrotate does."""
        for number in range(8, 0, -1):
            old = self.path.with_name(f"app.log.{number}")
            if old.exists():
                old.rename(self.path.with_name(f"app.log.{number + 1}"))
        self.path.rename(self.path.with_name("app.log.1"))


@pytest.fixture
def log(tmp_path: Path) -> _Log:
    """A file that is not there yet."""
    return _Log(tmp_path)


def _lines(*texts: str) -> list[dict[str, Any]]:
    return [{"line": text} for text in texts]


@pytest.mark.parametrize("size", range(1, 12))
def test_lines_are_the_same_however_they_come_in_pieces(size: int) -> None:
    """Every piece size gives the same lines at the same places; long ones are only named."""
    text = b"a\r\n\nlonger than\nbb\nend"
    cut = Lines(100, longest=3)
    found = [line for at in range(0, len(text), size) for line in cut.feed(text[at : at + size])]

    assert [(line.start, line.end, line.text) for line in found] == [
        (100, 103, b"a"),
        (103, 104, b""),
        (104, 116, None),
        (116, 119, b"bb"),
    ]
    assert (rest := cut.rest()) and (rest.start, rest.end, rest.text) == (119, 122, b"end")
    assert cut.rest() is None


async def test_what_was_there_before_is_left_alone_unless_it_is_asked_for(log: _Log) -> None:
    """Without `existing` the first line is the one that had not ended yet."""
    log.write("old", "unfin", end="")
    ledger = Ledger()
    async with ledger.fed(log.tail(existing=False)):
        await until(log.kept.path.exists)
        log.write("ished", "new")
        await ledger.has(*_lines("unfinished", "new"))


async def test_a_line_is_an_event_when_it_has_ended(log: _Log) -> None:
    """Half of a line waits for the other half."""
    ledger = Ledger()
    async with ledger.fed(log.tail()):
        log.write("one", "tw", end="")
        await ledger.has(*_lines("one"))
        log.write("o")
        await ledger.has(*_lines("one", "two"))


async def test_after_a_kill_each_line_is_published_once(log: _Log) -> None:
    """Wherever it was killed: what was published already has the same id."""
    log.write(*map(str, range(300)))
    ledger = Ledger()
    await ledger.killed(log.tail(), 300)
    log.write("300", "30", end="")
    await ledger.killed(log.tail(), 301)
    log.write("1")
    async with ledger.fed(log.tail()):
        await ledger.has(*_lines(*map(str, range(302))))
    async with ledger.fed(log.tail()):
        log.write("302")
        await ledger.has(*_lines(*map(str, range(303))))

    assert ledger.repeats == 300 + 301


async def test_a_renamed_file_is_read_to_its_end_and_then_its_successor(log: _Log) -> None:
    """Also what is written to it after it was renamed, and a last line without an end."""
    ledger = Ledger()
    log.write("1")
    async with ledger.fed(log.tail()):
        await ledger.has(*_lines("1"))
        with log.path.open("a") as old:
            log.rotate()
            old.write("2\n3")
        log.write("4")
        await ledger.has(*_lines("1", "2", "3", "4"))


async def test_what_was_renamed_while_nobody_looked_is_read_in_order(log: _Log) -> None:
    """Three times while it was killed: from where it was, through all of them, to the new file."""
    ledger = Ledger()
    log.write("1", "2")
    await ledger.killed(log.tail(), 2)
    for number in (3, 4, 5):
        log.write(str(number))
        log.rotate()
    log.write("6")
    await ledger.killed(log.tail(), 2)
    async with ledger.fed(log.tail()):
        await ledger.has(*_lines("1", "2", "3", "4", "5", "6"))
    assert ledger.repeats == 4


@pytest.mark.parametrize("copied", [False, True], ids=["cut off", "copied first"])
async def test_a_file_that_is_cut_off_begins_anew(log: _Log, copied: bool) -> None:
    """Equal lines in it are new events; what was copied first (copytruncate) is not lost."""
    ledger = Ledger()
    log.write("1", "2")
    async with ledger.fed(log.tail()):
        await ledger.has(*_lines("1", "2"))
    if copied:
        log.write("3")
        shutil.copyfile(log.path, log.path.with_name("app.log.1"))
    os.truncate(log.path, 0)
    log.write("0", "1", "2", "3")
    first = ["1", "2", "3"] if copied else ["1", "2"]
    async with ledger.fed(log.tail()):
        await ledger.has(*_lines(*first, "0", "1", "2", "3"))
        os.truncate(log.path, 0)
        log.write("0")
        await ledger.has(*_lines(*first, "0", "1", "2", "3", "0"))


async def test_a_file_that_is_gone_is_said(log: _Log, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes on with the new one, and warns that lines may be lost."""
    ledger = Ledger()
    log.write("1")
    async with ledger.fed(log.tail()):
        await ledger.has(*_lines("1"))
    log.path.rename(log.path.with_name("elsewhere"))
    log.write("another")
    async with ledger.fed(log.tail()):
        await ledger.has(*_lines("1", "another"))

    assert "cut off, or gone" in capsys.readouterr().out


async def test_what_is_no_event_is_named_and_stops_nothing(log: _Log) -> None:
    """Lines that are no JSON, or too long; empty ones say nothing."""
    ledger = Ledger()
    log.write('{"a":1}', "no", "", '"' + "x" * LONGEST + '"', '{"a":2}')
    async with ledger.fed(log.tail("json")):
        await ledger.has({"a": 1}, {"a": 2})
        await until(lambda: len(ledger.outcomes) == 4)

    assert [outcome.why[:29] for outcome in ledger.outcomes] == [
        "",
        "the line at byte 8: data: Inp",
        "the line at byte 12 is longer",
        "",
    ]


async def test_no_more_is_read_than_the_bus_takes(log: _Log) -> None:
    """While the bus does not answer, a window is on its way and the rest stays in the file."""
    ledger = Ledger()
    ledger.answers.clear()
    log.write(*map(str, range(2000)))
    async with ledger.fed(log.tail()):
        await until(lambda: len(ledger.events) == 256)
        ledger.answers.set()
        await ledger.has(*_lines(*map(str, range(2000))))


async def test_a_named_pipe_makes_nobody_wait(log: _Log) -> None:
    """As the file it is refused; among the renamed ones it is passed over."""
    ledger = Ledger()
    os.mkfifo(log.path)
    with pytest.raises(InvalidInput, match="regular file"):
        await ledger.killed(log.tail())

    log.path.unlink()
    log.write("one")
    await ledger.killed(log.tail(), 1)
    log.path.unlink()
    for number in (1, 2):
        os.mkfifo(log.path.with_name(f"app.log.{number}"))
    async with ledger.fed(log.tail()):
        log.write("two")
        await until(lambda: _lines("two")[0] in ledger.data)
