"""More connections than an identity may have, with the real warden at work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from support import AGENT, until
from support.broker import ROLES
from tidegate_bus.broker.accounts import WARDEN
from tidegate_bus.telemetry import Health
from tidegate_bus.watch import warden as module
from tidegate_bus.watch.warden import Warden

from .attack import OWN, Attack, Marks, event
from .ground import Foe, Ground, ground
from .judge import Judge, Kind
from .layouts import Layout

LIMIT = 5
CROWD = 60


@contextlib.asynccontextmanager
async def guarded(made: Ground) -> AsyncGenerator[None]:
    """The warden watches meanwhile."""
    broker = made.broker
    principals = {broker.secret(who).public_key: who for who in ROLES}
    warden = Warden(await broker.connect(WARDEN), principals, Health(), limit=LIMIT)
    watching = asyncio.create_task(warden.run())
    await warden.ready()
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _left(foe: Foe) -> int:
    """How many connections the attacker still has."""
    await asyncio.gather(*(wire.say() for wire in foe.wires if not wire.cut))
    return sum(not wire.cut for wire in foe.wires)


def _counted() -> float:
    """How many the warden counts; what it has cut before is in the log by then."""
    labels = {"principal": str(AGENT)}
    return REGISTRY.get_sample_value("tidegate_broker_connections", labels) or 0.0


async def _crowd(foe: Foe) -> Marks:
    """Sixty connections at once, three times, each of which wants to submit."""
    for part in range(3):
        wires = await asyncio.gather(*(foe.open() for _ in range(CROWD)))
        await until(lambda: few_left(foe))
        assert sum(wire.cut for wire in wires) >= CROWD - LIMIT
        assert not foe.wire.cut
        await foe.wire.publish(OWN, event(f"crowd-{part}"))
    await until(lambda: 0 < _counted() <= LIMIT)
    return Marks(records=("allow permitted",) * 3, warned=("cut connections, it had too many",))


async def few_left(foe: Foe) -> bool:
    """Whether the attacker has no more connections than it may have."""
    return await _left(foe) <= LIMIT


@pytest.mark.parametrize("layout", [Layout.APART, Layout.OPERATOR])
async def test_a_crowd_of_connections_is_cut_and_nobody_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    """The newest go and the first stays, others work on, and the warden says whose they were."""
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.05)
    async with ground(tmp_path, layout=layout) as made, guarded(made):
        judge = Judge(made)
        await judge.start()

        assert await judge.breaches(Attack("a crowd", _crowd)) == []


async def _crowd_that_stays(foe: Foe) -> Marks:
    await asyncio.gather(*(foe.open() for _ in range(CROWD)))
    assert await _left(foe) == CROWD + 1
    return Marks(warned=("cut connections, it had too many",))


async def test_without_a_warden_the_crowd_stays(tmp_path: Path) -> None:
    """The broker itself knows no limit for one identity, and nobody is told."""
    async with ground(tmp_path) as made:
        judge = Judge(made)
        await judge.start()
        found = await judge.breaches(Attack("a crowd", _crowd_that_stays))

    assert [breach.kind for breach in found] == [Kind.MARKS]
