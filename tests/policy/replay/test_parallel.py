"""What-if over a ledger in a real broker, by one process and by several."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path

import pytest

from support import OPERATOR, Broker, running_broker
from tidegate.bench.history import History, bundles
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.bulk import Access
from tidegate_policy.bundle import Bundle
from tidegate_policy.replay import Past, Stretch, Tally, WhatIf, what_if
from tidegate_policy.replay import parallel as module
from tidegate_policy.roster import BUILT_IN
from tidegate_schemas.errors import InvalidPolicy, LedgerGap, Unavailable
from tidegate_schemas.vocabulary import GATEWAY

from .kit import changes


@pytest.fixture(scope="module")
def history() -> list[tuple[str, bytes]]:
    """Subjects and payloads of some hundred records under three bundles."""
    return [(entry.subject, entry.payload) for entry in History(11).entries(900)]


@pytest.fixture
async def stored(broker: Broker, history: list[tuple[str, bytes]]) -> Broker:
    """A broker with these records."""
    gateway = await broker.connect(GATEWAY)
    appender = await FastAppender.open(gateway, last=0)
    for begin in range(0, len(history), MAX_BATCH):
        await (await appender.append(history[begin : begin + MAX_BATCH]))
    await appender.close()
    return broker


def stretch(broker: Broker, first: int, last: int) -> Stretch:
    """A part of the ledger, with the last bundle."""
    access = Access(broker.url, OPERATOR, broker.keyring.seed(OPERATOR))
    return Stretch(access, bundles()[-1], first, last)


def expected(history: list[tuple[str, bytes]], first: int, last: int) -> Tally:
    """What one judge finds who has the records in memory."""
    leaves = [payload for _, payload in history]
    genesis = Bundle.of_files(bundles()[-1]).snapshot(BUILT_IN)
    judge = WhatIf(Past(genesis, changes(leaves)))
    return judge.tally(list(enumerate(leaves, 1))[first - 1 : last])


@pytest.mark.parametrize(("processes", "first"), [(1, 1), (1, 437), (2, 437), (3, 1)])
async def test_any_number_of_processes_finds_the_same(
    stored: Broker,
    history: list[tuple[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    first: int,
) -> None:
    """The same groups with the same examples; progress counts up to the end."""
    monkeypatch.setattr(module, "PIECE", 100)
    last, told = len(history), list[int]()
    found = what_if(stretch(stored, first, last), processes, told.append)

    assert found == expected(history, first, last)
    assert found.groups
    assert told == sorted(told)
    assert told[-1] == last - first + 1
    assert len(told) == -(-(last - first + 1) // 100)


async def test_nothing_is_found_in_nothing(stored: Broker) -> None:
    """An empty stretch is no error."""
    assert what_if(stretch(stored, 5, 4), 2) == Tally()


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_ledger_that_is_shorter_is_a_gap(
    stored: Broker,
    history: list[tuple[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    """Also when it is a worker that finds out."""
    monkeypatch.setattr(module, "PIECE", 500)
    with pytest.raises(LedgerGap) as caught:
        what_if(stretch(stored, 1, len(history) + 1), processes)
    assert caught.value.expected == len(history) + 1


async def test_a_bundle_that_does_not_load_is_told_before_anything_is_read(
    tmp_path: Path,
) -> None:
    """By each number of processes in the same way."""
    async with running_broker(tmp_path) as broker:
        access = Access(broker.url, OPERATOR, broker.keyring.seed(OPERATOR))
        bad = Stretch(access, {"x.cedar": "permit"}, 1, 10_000)
        for processes in (1, 2):
            with pytest.raises(InvalidPolicy, match=r"x\.cedar"):
                what_if(bad, processes)


async def test_a_worker_that_is_killed_is_an_error(
    stored: Broker, history: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not hang, and says so."""
    monkeypatch.setattr(module, "PIECE", 10)

    def kill(_: int) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    with pytest.raises(Unavailable, match="a worker was killed"):
        await asyncio.to_thread(what_if, stretch(stored, 1, len(history)), 2, kill)
