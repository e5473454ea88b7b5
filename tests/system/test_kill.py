"""Guarantees G3, G6 and G7: processes may be killed at any moment, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from support import until
from tidegate.bench import PROJECT
from tidegate.bus import Bus
from tidegate.child import Child
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_policy.invariants import Checker
from tidegate_schemas import Envelope, Kind, Verdict, subjects
from tidegate_schemas.vocabulary import OPERATOR, RUN_FINISHED

RUNS = 1_250  # of four messages each: event, task, result, end
KILLS_EACH = 3


async def _kill_on_the_way(
    operator: Bus, children: list[Child], moments: list[tuple[int, Child]]
) -> None:
    """SIGKILL each child when the ledger has grown to its moment."""
    for seq, child in sorted(moments, key=lambda moment: moment[0]):

        async def grown(seq: int = seq) -> bool:
            last = await operator.ledger.last()
            return last is not None and last.seq >= seq

        await until(grown, seconds=120)
        before = child.pid
        assert before
        os.kill(before, signal.SIGKILL)
        await until(lambda child=child, before=before: child.pid != before, seconds=30)


async def _run(folder: Path, seed: int, *, broker_too: bool) -> None:
    chance = random.Random(seed)
    lines: list[str] = []
    async with (
        Stack(
            load_project(PROJECT, folder), on_line=lambda n, t: lines.append(f"{n} {t}")
        ) as stack,
        await Bus.of_project("bench.load", PROJECT, folder, window=500) as load,
        await Bus.of_project(str(OPERATOR), PROJECT, folder) as operator,
    ):
        total = 4 * RUNS
        moments = [
            (chance.randrange(20, total - 200), child)
            for child in stack.children
            for _ in range(KILLS_EACH)
        ]
        envelopes = [Envelope.new("bench.started", {"payload": "x" * 256}) for _ in range(RUNS)]
        async with asyncio.TaskGroup() as tasks:
            for envelope in envelopes:
                tasks.create_task(load.publish(envelope, timeout=120))
            tasks.create_task(_kill_on_the_way(operator, stack.children, moments))
            if broker_too:
                tasks.create_task(_kill_broker(operator, stack, chance.randrange(100, total - 500)))
        checker = Checker()
        records: Counter[tuple[str, str]] = Counter()
        ended: Counter[str] = Counter()
        async with asyncio.timeout(120):
            async for stored in operator.ledger.read(follow=True):
                record = checker.add(stored)
                assert record
                message = record.message()
                if message and record.verdict is not Verdict.DUPLICATE:
                    records[(record.by, message.id)] += 1
                    if record.kind is Kind.EVENT and record.to == RUN_FINISHED:
                        ended[message.correlationid or ""] += 1
                if len(ended) == RUNS and not checker.open_tasks:
                    break
        async with await stack.connect(REGISTRAR) as connection:
            state = await connection.stream_state(subjects.ingress_stream(0))
        async for stored in operator.ledger.read(checker.records + 1):
            checker.add(stored)

    assert checker.finish(ingress_last=state.last_seq) == []
    assert {envelope.id: 1 for envelope in envelopes} == dict(ended)
    assert {1} == set(records.values())
    assert checker.records >= total


async def _kill_broker(operator: Bus, stack: Stack, seq: int) -> None:
    async def grown() -> bool:
        last = await operator.ledger.last()
        return last is not None and last.seq >= seq

    await until(grown, seconds=120)
    os.kill(stack.server.pid, signal.SIGKILL)


@pytest.mark.timeout(300)
async def test_killing_gateway_coordinator_and_worker_loses_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    """After nine SIGKILLs during 5,000 messages: no gap, no repeat, no lost task, each run once."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")

    await _run(tmp_path, seed, broker_too=False)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_killing_the_broker_as_well_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """The same holds when the broker itself is killed, once, in the middle."""
    await _run(tmp_path, 1, broker_too=True)
