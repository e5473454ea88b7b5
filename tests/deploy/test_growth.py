"""A ledger gets more room while the bus is down, and nothing else of it changes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from support import OPERATOR
from tidegate.bus import Bus
from tidegate.cli.init import init
from tidegate.growth import grow_ledger
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, TopologyDrift

from .test_cli import Shell, bytecode

SMALL, LARGE = 2_000_000, 4_000_000


@pytest.fixture(params=["static", "operator"])
async def project(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> AsyncGenerator[Path]:
    """A project whose ledger holds something, in each of the broker's modes."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(bytecode(pytestconfig)))
    folder = tmp_path / "hello"
    init(folder)
    with (folder / "tidegate.yaml").open("a") as settings:
        settings.write(f"server: {{ mode: {request.param}, ledger_bytes: {SMALL} }}\n")
    async with Stack(load_project(folder), agents=()):
        with pytest.raises(InvalidInput, match="a stack runs here already"):
            await grow_ledger(load_project(folder))
    yield folder


def resize(folder: Path) -> None:
    """Set the larger size."""
    path = folder / "tidegate.yaml"
    path.write_text(path.read_text().replace(str(SMALL), str(LARGE)))


async def records(folder: Path) -> list[bytes]:
    """The ledger of a running stack."""
    async with await Bus.of_project(str(OPERATOR), folder) as bus:
        return [stored.payload async for stored in bus.ledger.read()]


async def test_a_ledger_grows_to_what_is_set(project: Path) -> None:
    """A start says what to do; afterwards every record is there as it was, and more may come."""
    async with Stack(load_project(project), agents=()):
        before = await records(project)
    with pytest.raises(InvalidInput, match=f"takes {SMALL} bytes already"):
        await grow_ledger(load_project(project))
    resize(project)
    with pytest.raises(TopologyDrift, match="`tidegate ledger grow` gives it more room"):
        async with Stack(load_project(project), agents=()):
            pass

    assert await grow_ledger(load_project(project)) == (SMALL, LARGE)

    async with Stack(load_project(project), agents=()):
        async with await Bus.of_project("outside.website", project) as website:
            await website.publish(Envelope.new("greeting.requested", {"name": "Ada"}))
        after = await records(project)
    assert after[: len(before)] == before
    assert len(after) > len(before)


async def test_the_command_says_what_it_did(project: Path, pytestconfig: pytest.Config) -> None:
    """The key of the moment is left nowhere."""
    resize(project)
    done = await asyncio.to_thread(Shell(project, bytecode(pytestconfig)), "ledger", "grow")

    assert done.out == f"the ledger may take {LARGE:,} bytes now; before, {SMALL:,}\n"
    state = load_project(project).state
    assert not [p for p in state.folder.rglob("*growth*") if p.name != "growth.log"]
    assert not re.search(rb"SU[A-Z2-7]{56}", (state.logs / "growth.log").read_bytes())


async def test_where_there_is_no_ledger_none_grows(tmp_path: Path) -> None:
    """The error says what makes one."""
    init(tmp_path / "hello")

    with pytest.raises(InvalidInput, match="`tidegate up` makes it"):
        await grow_ledger(load_project(tmp_path / "hello"))
