"""What the console knows when it starts, without having read the whole ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from support import until
from tidegate.bus import Bus
from tidegate.console.bundles import Bundles
from tidegate.console.flow import Flow
from tidegate.console.memory import Known, Memory, recall
from tidegate.index import Batch, IndexKeeper
from tidegate.project import Project, address
from tidegate.runs import Runs
from tidegate_bus.bulk import Access
from tidegate_bus.connection import connect
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.governance import Order
from tidegate_schemas.vocabulary import CONSOLE

from .kit import ANN, WEBSITE, Ground, ground


@pytest.fixture
async def there(tmp_path: Path) -> AsyncGenerator[Ground]:
    """A stack."""
    async with ground(tmp_path) as made:
        yield made


def access(project: Project) -> Access:
    """As the console reads the ledger."""
    return Access(address(project.state), CONSOLE, project.state.keyring.path(CONSOLE))


@contextlib.asynccontextmanager
async def knowing(project: Project, path: Path, memory: Path) -> AsyncGenerator[Known]:
    """What a console knows while it runs; it remembers when it ends."""
    read = access(project)
    known = await asyncio.to_thread(recall, memory, read)

    def figures(batch: Batch) -> None:
        known.flow.add(batch.entries)

    keeping = Memory(memory, known, (known.runs, known.bundles, figures))
    async with await connect(read.url, CONSOLE, read.secret) as connection:
        keeper = IndexKeeper(read, connection, path)
        keeper.begin_after(known.seq)
        keeper.listen(keeping)
        task = asyncio.create_task(keeper.run())
        try:
            await keeper.caught_up()
            yield known
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            keeper.close()
            keeping.save()


def all_of(known: Known) -> tuple[object, ...]:
    """All that is known, to be compared."""
    return known.flow.known(), known.runs.known(), known.bundles.seqs()


async def order(project: Project, command: str, target: str) -> None:
    """Say a control."""
    async with await Bus.of_project(str(ANN), project.root, project.state.folder) as bus:
        await bus.publish(Envelope.new(command, Order(target, ""), kind="control", to=command))


async def greet(project: Project, *names: str) -> None:
    """Have people greeted."""
    async with await Bus.of_project(str(WEBSITE), project.root, project.state.folder) as bus:
        for name in names:
            await bus.publish(Envelope.new("greeting.requested", {"name": name}))


async def test_who_remembers_knows_what_a_reader_of_everything_knows(
    there: Ground, tmp_path: Path
) -> None:
    """Figures, runs that ended and that go on, policies; and so it goes on with what is newer."""
    project, memory = there.project, tmp_path / "memory"
    await greet(project, "Ada", "Bo")
    async with knowing(project, tmp_path / "a.db", memory) as first:
        await until(lambda: first.runs.counts()["succeeded"] == 2)
        await order(project, "control.pause", "agent:front-desk.greeter")
        await greet(project, "Cy")
        await until(lambda: first.runs.counts()["running"] == 1)
        await until(lambda: first.flow.sample(0).waiting == 1)

    again = await asyncio.to_thread(recall, memory, access(project))
    assert again.seq == first.flow.seq == first.runs.seq
    assert all_of(again) == all_of(first)
    async with knowing(project, tmp_path / "b.db", memory) as second:
        await order(project, "control.resume", "agent:front-desk.greeter")
        async with knowing(project, tmp_path / "c.db", tmp_path / "none") as whole:
            await until(lambda: second.runs.counts()["succeeded"] == 3)
            await until(lambda: not second.runs.known().open)
            await until(lambda: second.flow.seq == whole.flow.seq)

            assert all_of(second) == all_of(whole)
            assert second.runs.newest(most=9) == whole.runs.newest(most=9)
            assert second.flow.sample(0) == whole.flow.sample(0)


@pytest.mark.parametrize("how", ["damaged", "another version", "another ledger", "too long"])
async def test_a_memory_that_is_not_of_this_ledger_is_none(
    there: Ground, tmp_path: Path, how: str
) -> None:
    """Then all of the ledger is read."""
    memory = tmp_path / "memory"
    async with knowing(there.project, tmp_path / "a.db", memory):
        pass
    assert memory.stat().st_mode & 0o077 == 0
    kept = msgspec.msgpack.decode(memory.read_bytes())
    match how:
        case "damaged":
            memory.write_bytes(memory.read_bytes()[:-9])
        case "another version":
            memory.write_bytes(msgspec.msgpack.encode(kept | {"version": 0}))
        case "another ledger":
            memory.write_bytes(msgspec.msgpack.encode(kept | {"digest": bytes(32)}))
        case _:
            memory.write_bytes(msgspec.msgpack.encode(kept | {"seq": 1 << 40}))

    found = await asyncio.to_thread(recall, memory, access(there.project))

    assert all_of(found) == all_of(Known(Flow(), Runs(), Bundles()))
