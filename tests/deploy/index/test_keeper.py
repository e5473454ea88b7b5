"""Keeping the index of a ledger that grows, in several processes."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncGenerator, Generator
from itertools import islice
from pathlib import Path

from support import OPERATOR, Broker, until
from tidegate.bench.history import History
from tidegate.index import Batch, Filter, IndexKeeper, LedgerIndex
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.bulk import Access
from tidegate_schemas import subjects
from tidegate_schemas.vocabulary import GATEWAY

ENTRIES = list(islice(History(5).entries(1_500), 1_500))


class Ear:
    """Hears of records."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def __call__(self, batch: Batch) -> None:
        """Keep their sequences."""
        assert [entry.seq for entry in batch.entries] == [row.seq for row in batch.glances]
        self.heard += [entry.seq for entry in batch.entries]


async def grow(broker: Broker, begin: int, end: int) -> None:
    """Write records to the ledger, and hint at it, as a gateway does."""
    gateway = await broker.connect(GATEWAY)
    appender = await FastAppender.open(gateway, last=begin)
    for at in range(begin, end, MAX_BATCH):
        part = [(e.subject, e.payload) for e in ENTRIES[at : min(at + MAX_BATCH, end)]]
        await (await appender.append(part))
    await appender.close()
    await gateway.publish(subjects.tail(0), b"%d" % end)


@contextlib.asynccontextmanager
async def keeping(broker: Broker, path: Path, *ears: Ear) -> AsyncGenerator[IndexKeeper]:
    """A keeper at work, in this process."""
    access = Access(broker.url, OPERATOR, broker.keyring.seed(OPERATOR))
    keeper = IndexKeeper(access, await broker.connect(OPERATOR), path)
    for ear in ears:
        keeper.listen(ear)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        keeper.close()


def whole(index: LedgerIndex, length: int) -> bool:
    """Whether the index has exactly so many records, each once."""
    rows = index.search(Filter(), limit=10_000).rows
    return [row.seq for row in rows] == list(range(length, 0, -1))


async def test_one_writes_the_other_goes_on_and_both_hear_everything(
    broker: Broker, tmp_path: Path
) -> None:
    """Every listener hears of every record once, in order, whoever writes, also after one ended."""
    path = tmp_path / "index.db"
    index, one, two = LedgerIndex(path), Ear(), Ear()
    await grow(broker, 0, 600)
    async with keeping(broker, path, two) as second:
        async with contextlib.AsyncExitStack() as rest:
            first = await rest.enter_async_context(keeping(broker, path, one))
            await asyncio.gather(first.caught_up(), second.caught_up())
            assert whole(index, 600)
            await grow(broker, 600, 900)
            await until(lambda: len(one.heard) == len(two.heard) == 900 == index.seq())
        await grow(broker, 900, 1_500)
        await until(lambda: len(two.heard) == index.seq() == 1_500)

    assert one.heard == list(range(1, 901))
    assert two.heard == list(range(1, 1_501))
    assert whole(index, 1_500)
    index.close()


async def test_what_is_in_the_index_is_not_read_again_for_nobody(
    broker: Broker, tmp_path: Path
) -> None:
    """A keeper without listeners goes on from the index; one of another ledger begins anew."""
    path = tmp_path / "index.db"
    index = LedgerIndex(path)
    await grow(broker, 0, 300)
    async with keeping(broker, path) as keeper:
        await keeper.caught_up()
    file = path.stat().st_ino
    await grow(broker, 300, 400)
    async with keeping(broker, path) as keeper:
        await keeper.caught_up()
        assert (index.seq(), keeper.seq, path.stat().st_ino) == (400, 400, file)
    path.write_bytes(b"damaged")
    async with keeping(broker, path) as keeper:
        await keeper.caught_up()
    assert whole(index, 400)
    index.close()


async def test_an_index_that_was_taken_away_is_made_again(broker: Broker, tmp_path: Path) -> None:
    """While it is kept; who listens hears of nothing twice."""
    path, ear = tmp_path / "index.db", Ear()
    index = LedgerIndex(path)
    await grow(broker, 0, 300)
    async with keeping(broker, path, ear) as keeper:
        await keeper.caught_up()
        path.unlink()
        await until(lambda: index.seq() == 300)
        await grow(broker, 300, 400)
        await until(lambda: index.seq() == 400)

    assert whole(index, 400)
    assert ear.heard == list(range(1, 401))
    index.close()


async def test_who_listens_goes_on_while_the_disk_is_full(broker: Broker, tmp_path: Path) -> None:
    """The index says why it is not written; when there is room again it has everything."""
    path, ear = tmp_path / "index.db", Ear()
    index = LedgerIndex(path)
    await grow(broker, 0, 300)
    async with keeping(broker, path, ear) as keeper:
        await keeper.caught_up()
        with no_room(path.with_name("index.db-wal").stat().st_size):
            await grow(broker, 300, 900)
            await until(lambda: len(ear.heard) == 900)
            await until(lambda: bool(keeper.unwritten))
            await grow(broker, 900, 1_500)
            await until(lambda: len(ear.heard) == 1_500)
            assert (keeper.trouble, index.seq() < 1_500) == ("", True)
        await until(lambda: index.seq() == 1_500, seconds=20)
        await until(lambda: not keeper.unwritten)

    assert ear.heard == list(range(1, 1_501))
    assert whole(index, 1_500)
    index.close()


async def test_an_index_that_cannot_be_opened_is_not_thrown_away(
    broker: Broker, tmp_path: Path
) -> None:
    """Not when there is no room for a moment; who listens hears of everything meanwhile."""
    path, ear = tmp_path / "index.db", Ear()
    await grow(broker, 0, 300)
    async with keeping(broker, path) as keeper:
        await keeper.caught_up()
    file = path.stat().st_ino
    with no_room(16 * 1024):
        async with keeping(broker, path, ear) as keeper:
            await keeper.caught_up()
            assert keeper.unwritten
    async with keeping(broker, path) as keeper:
        await keeper.caught_up()

    assert (path.stat().st_ino, ear.heard) == (file, list(range(1, 301)))


@contextlib.contextmanager
def no_room(size: int) -> Generator[None]:
    """No file of this process can grow above so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
