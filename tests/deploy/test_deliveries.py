"""Consumers follow the controls of the ledger: which stand still, when, and what is cut."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from support import AGENT, LIMITS, OTHER, Broker, running_broker, until
from tidegate.deliveries import Deliveries, misaligned, stops
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.pauses import Feed, feeds
from tidegate_bus.broker.topology import Subscription, converge
from tidegate_bus.publisher import Publisher
from tidegate_policy.controls import Controls, Level
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.governance import Order, Target
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import OPERATOR


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Broker]:
    """A broker with streams."""
    async with running_broker(tmp_path) as running:
        yield running


class Cuts:
    """Whom somebody was told to cut, each time."""

    def __init__(self) -> None:
        self.told: list[tuple[list[Principal], str]] = []
        self.failing = 0

    async def __call__(self, chosen: Callable[[Principal], bool], why: str) -> None:
        """Cut."""
        if self.failing:
            self.failing -= 1
            raise Unavailable("not now")
        self.told.append(([who for who in (AGENT, OTHER) if chosen(who)], why))


@contextlib.asynccontextmanager
async def following(broker: Broker, cuts: Cuts) -> AsyncGenerator[Deliveries]:
    """What brings the consumers of a broker in line."""
    deliveries = Deliveries(broker.connect, cuts)
    try:
        await deliveries.start()
        yield deliveries
    finally:
        await deliveries.stop()


async def order(broker: Broker, verb: str, target: str) -> None:
    """Give a command."""
    publisher = await Publisher.start(await broker.connect(OPERATOR))
    command = f"control.{verb}"
    await publisher.publish(Envelope.new(command, Order(target), kind="control", to=command))


async def still(broker: Broker) -> list[str]:
    """Those to whom nothing is delivered."""
    return [str(f.principal) for f in await feeds(await broker.connect(REGISTRAR)) if f.paused]


async def become(broker: Broker, *wanted: str) -> None:
    """Wait until nothing is delivered to these, and to all others something."""
    connection = await broker.connect(REGISTRAR)

    async def so() -> bool:
        return [str(f.principal) for f in await feeds(connection) if f.paused] == list(wanted)

    await until(so)


def controls(**levels: Level) -> Controls:
    """What is stopped, by targets with `__` for the colon and `_` for the dot."""
    named = {name.replace("__", ":").replace("_", "."): level for name, level in levels.items()}
    return Controls({Target.parse(name): level for name, level in named.items()})


@pytest.mark.parametrize(
    ("target", "stopped"),
    [
        ("bus", True),
        ("team__team", True),
        ("agent__team_agent", True),
        ("team__other", False),
        ("agent__team_other", False),
        ("capability__work_do", False),
        ("blueprint__team", False),
        ("run__team", False),
    ],
)
def test_what_stops_deliveries(target: str, stopped: bool) -> None:
    """The bus, a team, an agent; not what only some of its messages have to do with."""
    for level in Level:
        assert bool(stops(controls(**{target: level}), AGENT)) == stopped


def test_the_highest_level_is_told() -> None:
    """Whatever it is that is stopped."""
    found = stops(controls(bus=Level.PAUSED, team__team=Level.KILLED), AGENT)

    assert found == (Level.KILLED, Target.parse("team:team"))


def test_only_what_differs_is_changed() -> None:
    """In both directions."""
    right = [Feed(AGENT, True, 0, 0), Feed(Principal("a", "b"), False, 0, 0)]
    wrong = [Feed(Principal("team", "x"), False, 0, 0), Feed(Principal("a", "c"), True, 0, 0)]

    assert misaligned(controls(team__team=Level.PAUSED), [*right, *wrong]) == wrong


async def test_consumers_follow_every_control(broker: Broker) -> None:
    """What stops several ways goes on when nothing stops it any more."""
    async with broker.gateway(), following(broker, Cuts()):
        await order(broker, "pause", f"agent:{AGENT}")
        await become(broker, str(AGENT))
        await order(broker, "quarantine", "team:team")
        await become(broker, str(AGENT), str(OTHER))
        await order(broker, "release", "team:team")
        await become(broker, str(AGENT))
        await order(broker, "pause", "bus")
        await become(broker, str(AGENT), str(OTHER))
        await order(broker, "resume", f"agent:{AGENT}")
        await order(broker, "pause", "capability:work.do")
        await order(broker, "resume", "bus")
        await become(broker)


async def test_what_the_ledger_said_before_holds_from_the_start(broker: Broker) -> None:
    """Also for who comes later; what was left standing goes on; nobody is cut for what is past."""
    cuts, late = Cuts(), Subscription(Principal("team", "late"), ("late.do",), (), 2.0)
    async with broker.gateway():
        await order(broker, "kill", "team:team")
        async with following(broker, cuts) as deliveries:
            assert await still(broker) == [str(AGENT), str(OTHER)]
            await converge(await broker.connect(REGISTRAR), LIMITS, [late])
            await deliveries.align()
            assert await still(broker) == [str(AGENT), "team.late", str(OTHER)]
        await order(broker, "release", "team:team")
        assert await still(broker) == [str(AGENT), "team.late", str(OTHER)]
        async with following(broker, cuts):
            await become(broker)
    assert cuts.told == []


async def test_a_kill_cuts_once_when_nothing_is_delivered_any_more(broker: Broker) -> None:
    """An agent or a team; it is tried again until it is done, and not repeated."""
    cuts = Cuts()
    async with broker.gateway(), following(broker, cuts):
        cuts.failing = 1
        await order(broker, "kill", f"agent:{AGENT}")
        await until(lambda: len(cuts.told) == 1)
        assert await still(broker) == [str(AGENT)]
        await order(broker, "quarantine", f"agent:{OTHER}")
        await order(broker, "kill", "bus")
        await order(broker, "release", f"agent:{AGENT}")
        await order(broker, "kill", "team:team")
        await until(lambda: len(cuts.told) == 2)

    assert cuts.told == [
        ([AGENT], f"agent:{AGENT} is killed"),
        ([AGENT, OTHER], "team:team is killed"),
    ]


async def test_a_broker_that_was_away_is_looked_at_again(broker: Broker) -> None:
    """It kept what stood still, and what follows reaches it."""
    async with following(broker, Cuts()):
        async with broker.gateway():
            await order(broker, "pause", f"agent:{AGENT}")
            await become(broker, str(AGENT))
        await broker.kill()
        await broker.restart()
        async with broker.gateway():
            assert await still(broker) == [str(AGENT)]
            await order(broker, "pause", f"agent:{OTHER}")
            await become(broker, str(AGENT), str(OTHER))
            await order(broker, "resume", f"agent:{AGENT}")
            await become(broker, str(OTHER))
