"""Files of a folder: new ones, changed ones, and those that are not complete yet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import until
from tidegate.source.shape import Shape
from tidegate.source.watch import Watch
from tidegate_schemas.errors import InvalidInput

from .kit import Ledger

_HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is watched."""
    made = tmp_path / "drop"
    made.mkdir()
    return made


def _watch(folder: Path, **options: Any) -> Watch:
    """One more process that watches it."""
    given: dict[str, Any] = {"settle": 0.05, "existing": True, **options}
    return Watch(folder, Shape("file", "test"), folder.parent / "kept", **given)


def _paths(ledger: Ledger) -> list[str]:
    return [data["path"] for data in ledger.data]


async def test_a_new_file_is_an_event_and_so_is_a_changed_one(folder: Path) -> None:
    """With path, size, digest and time, and if wanted what is in it; touching it is none."""
    ledger = Ledger()
    (folder / "hello").write_text("hello")
    os.utime(folder / "hello", ns=(10**18, 10**18))
    async with ledger.fed(_watch(folder, content=5)):
        await ledger.has(
            {
                "path": "hello",
                "size": 5,
                "digest": _HELLO,
                "modified": "2001-09-09T01:46:40.000000000Z",
                "content": "hello",
            }
        )
        (folder / "hello").touch()
        (folder / "deep").mkdir()
        (folder / "deep" / "bytes").write_bytes(b"\xff")
        await until(lambda: len(ledger.data) == 2)
        (folder / "hello").write_text("longer")
        await until(lambda: len(ledger.data) == 3)

    assert {"path": "deep/bytes", "content_base64": "/w=="}.items() <= ledger.data[1].items()
    assert ledger.data[2]["size"] == 6
    assert "content" not in ledger.data[2]


async def test_only_complete_files_count(folder: Path) -> None:
    """One that is being written waits; one that is renamed in does not, whatever `settle` is."""
    ledger = Ledger()
    (folder.parent / "ready").write_text("all of it")
    os.utime(folder.parent / "ready", ns=(10**18, 10**18))
    async with ledger.fed(_watch(folder, settle=60.0)):
        (folder / "slow").write_text("half")
        (folder.parent / "ready").rename(folder / "ready")
        await until(lambda: bool(ledger.data))
    assert _paths(ledger) == ["ready"]

    async with ledger.fed(_watch(folder)):
        await until(lambda: len(ledger.data) == 2)
    assert _paths(ledger) == ["ready", "slow"]


async def test_what_is_hidden_a_link_or_does_not_fit_is_left_alone(folder: Path) -> None:
    """The pattern is of the path inside the folder."""
    ledger = Ledger()
    (folder / "in").mkdir()
    for name in (".hidden.csv", "a.txt", "in/b.csv", "c.csv"):
        (folder / name).write_text(name)
    (folder / "link.csv").symlink_to(folder / "c.csv")
    async with ledger.fed(_watch(folder, pattern="*.csv")):
        await until(lambda: len(ledger.data) == 2)

    assert _paths(ledger) == ["c.csv", "in/b.csv"]


async def test_after_a_kill_each_file_is_published_once(folder: Path) -> None:
    """Also where some changed meanwhile, or came back after they were gone."""
    ledger = Ledger()
    for number in range(20):
        (folder / str(number)).write_text("x")
    await ledger.killed(_watch(folder), 20)
    (folder / "7").write_text("y")
    os.utime(folder / "7", ns=(10**18, 10**18))
    await ledger.killed(_watch(folder), 20)
    async with ledger.fed(_watch(folder)):
        await until(lambda: len(ledger.outcomes) == 20)
    assert len(ledger.events) == 21

    (folder / "8").unlink()
    async with ledger.fed(_watch(folder)):
        (folder / "9").write_text("z")
        await until(lambda: len(ledger.events) == 22)
        (folder / "8").write_text("x")
        await until(lambda: len(ledger.events) == 23)
    assert _paths(ledger)[20:] == ["7", "9", "8"]


async def test_what_was_there_before_is_left_alone_unless_it_is_asked_for(folder: Path) -> None:
    """Until it changes."""
    ledger = Ledger()
    (folder / "old").write_text("x")
    await ledger.killed(_watch(folder, existing=False))
    async with ledger.fed(_watch(folder)):
        (folder / "new").write_text("x")
        await until(lambda: len(ledger.data) == 1)
        (folder / "old").write_text("y")
        await until(lambda: len(ledger.data) == 2)

    assert _paths(ledger) == ["new", "old"]


async def test_what_cannot_be_an_event_is_named(folder: Path) -> None:
    """A name that is no UTF-8; and a folder that is none."""
    ledger = Ledger()
    (folder / "\udcff").write_text("x")
    async with ledger.fed(_watch(folder)):
        await until(lambda: bool(ledger.outcomes))
    assert ledger.outcomes[0].why.startswith(r"'\udcff': data: ")

    with pytest.raises(InvalidInput, match="no folder"):
        await ledger.killed(_watch(folder / "nowhere"))


class _Late(Watch):
    """Reads files some time after it has looked for them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            Shape("file", "test"),
            folder.parent / "kept",
            content=9,
            settle=0,
            existing=True,
        )
        self.found = dict(super()._files())

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        yield from list(self.found.items())


async def test_what_takes_the_place_of_a_file_is_not_read(folder: Path) -> None:
    """Neither a link to another file, nor one in the place of its folder, nor a pipe."""
    ledger = Ledger()
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / "deep").mkdir()
    for name in ("a", "b", "c"):
        (outside / name).write_text("secret")
    for path in ("a", "deep/b", "c"):
        (folder / path).write_text("public")
    watch = _Late(folder)
    for path in ("a", "deep/b", "c"):
        (folder / path).unlink()
    (folder / "deep").rmdir()
    (folder / "a").symlink_to(outside / "a")
    (folder / "deep").symlink_to(outside)
    os.mkfifo(folder / "c")

    async with ledger.fed(watch):
        (folder / "d").write_text("the last")
        watch.found["d"] = (folder / "d").stat()
        await until(lambda: "d" in _paths(ledger))

    assert _paths(ledger) == ["d"]
