"""The warden: who holds how many connections, and the end of those that are too many."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from support import AGENT, OTHER, Broker, Raw, until
from tidegate_bus.broker.accounts import WARDEN
from tidegate_bus.broker.server import Server
from tidegate_bus.connection import Connection, connect
from tidegate_bus.identity import jwt
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.operator_mode import AccountLimits, Authority
from tidegate_bus.telemetry import Health
from tidegate_bus.watch.broker_log import BrokerLog, Told
from tidegate_bus.watch.monitoring import proven_key
from tidegate_bus.watch.roll import Roll
from tidegate_bus.watch.warden import Warden
from tidegate_bus.watch.wire import Wire
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import GATEWAY

KEYS = {"UA": AGENT, "UA2": AGENT, "UO": OTHER, "UG": GATEWAY}


def metric(name: str, **labels: str) -> float:
    """The value of a metric now; 0 where there is none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


# The roll


def test_the_newest_of_an_identity_are_the_ones_to_cut() -> None:
    """What was there first stays, whatever the order in which it was heard of."""
    roll = Roll(KEYS, limit=2)
    for cid in (9, 3, 7, 5):
        roll.add(cid, "UA")
    roll.add(4, "UO")

    assert sorted(roll.excess()) == [(7, AGENT), (9, AGENT)]


def test_all_keys_of_a_principal_count_together() -> None:
    """A rotation, when two are good, gives nobody twice its share."""
    roll = Roll(KEYS, limit=2)
    roll.add(1, "UA")
    roll.add(2, "UA2")
    roll.add(3, "UA")

    assert roll.excess() == [(3, AGENT)]


def test_a_key_that_nobody_is_known_by_has_a_limit_of_its_own() -> None:
    """And no label of its own: those of all unknown keys are one."""
    roll = Roll(KEYS, limit=1)
    for cid, key in enumerate(["UX", "UY", "UX", "UA"]):
        roll.add(cid, key)

    assert roll.excess() == [(2, "UX")]
    assert roll.counts() == {"unknown": 3, "team.agent": 1}


def test_nothing_is_cut_twice_unless_it_is_still_there_in_the_next_picture() -> None:
    """An order to cut may be lost; the whole picture shows it."""
    roll = Roll(KEYS, limit=1)
    roll.add(1, "UA")
    roll.add(2, "UA")

    assert roll.excess() == [(2, AGENT)]
    assert roll.excess() == []
    roll.replace({1: "UA", 2: "UA"})
    assert roll.excess() == [(2, AGENT)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.sampled_from("ab")), max_size=60))
def test_whatever_comes_and_goes_nobody_keeps_more_than_its_share(
    steps: list[tuple[bool, int, str]],
) -> None:
    """And what is cut is newer than all that its owner keeps."""
    roll = Roll({}, limit=3)
    there: dict[int, str] = {}
    for comes, cid, key in steps:
        if comes:
            there[cid] = key
            roll.add(cid, key)
        else:
            there.pop(cid, None)
            roll.remove(cid)
        for cut_one, owner in roll.excess():
            assert there.pop(cut_one) == owner
            kept = [c for c, k in there.items() if k == owner]
            assert len(kept) == 3
            assert max(kept) < cut_one
            roll.remove(cut_one)
        assert max(roll.counts().values(), default=0) <= 6
    assert roll.counts().total() == len(there)


def test_who_has_gone_makes_room() -> None:
    """The limit is of those that are there."""
    roll = Roll(KEYS, limit=1)
    roll.add(1, "UA")

    assert roll.remove(1) == AGENT
    assert roll.remove(1) is None
    roll.add(2, "UA")
    assert roll.excess() == []
    assert roll.counts() == {"team.agent": 1}


def test_the_bus_itself_is_told_of_and_not_cut() -> None:
    """Cutting the newest could keep out a gateway that comes back."""
    roll = Roll(KEYS, limit=1)
    roll.add(1, "UG")
    roll.add(2, "UG")

    assert roll.excess() == []
    assert roll.crowded() == [GATEWAY]


def test_a_mapping_that_changes_counts_from_then_on() -> None:
    """A new key at once, a connection that is there already with the next picture."""
    known: dict[str, Principal] = {}
    roll = Roll(known)
    roll.add(1, "UA")
    known["UA"] = AGENT
    roll.add(2, "UA")

    assert roll.counts() == {"unknown": 1, "team.agent": 1}
    roll.replace({1: "UA", 2: "UA"})
    assert roll.counts() == {"team.agent": 2}


ACCOUNT = "A" * 56


def token(claims: object) -> str:
    """The outside of a JWT, signed by nobody."""
    return f"x.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"


@pytest.mark.parametrize(
    ("account", "user", "jwt", "key"),
    [
        ("AGENTS", "UA", "", "UA"),
        ("AGENTS", "UA", token({"sub": "UO"}), "UA"),
        (ACCOUNT, "UA", token({"sub": "UO"}), "UO"),
        (ACCOUNT, "UA", "", ""),
        (ACCOUNT, "UA", "a.é.c", ""),
        (ACCOUNT, "UA", token([1]), ""),
        (ACCOUNT, "UA", token({"sub": 1}), ""),
    ],
)
def test_only_what_the_broker_checked_counts_as_the_key(
    account: str, user: str, jwt: str, key: str
) -> None:
    """With static keys the user, in operator mode the subject of the JWT and nothing else."""
    assert proven_key(account, user, jwt) == key


# With a broker

Opened = Callable[[Broker, Principal], Coroutine[Any, Any, Raw]]


@pytest.fixture
async def login() -> AsyncGenerator[Opened]:
    """Opens connections that end with the test."""
    opened: list[Raw] = []

    async def open_(broker: Broker, who: Principal) -> Raw:
        opened.append(await Raw.open(broker.url, broker.keyring.seed(who)))
        return opened[-1]

    yield open_
    await asyncio.gather(*(raw.close() for raw in opened), return_exceptions=True)


@contextlib.asynccontextmanager
async def warden(
    connection: Connection, principals: Mapping[str, Principal], *, limit: int = 3
) -> AsyncGenerator[Warden]:
    """A warden that is ready; ends with the block."""
    watching = Warden(connection, principals, Health(), limit=limit)
    task = asyncio.create_task(watching.run())
    await watching.ready()
    try:
        yield watching
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def known(broker: Broker) -> dict[str, Principal]:
    """The public keys of a broker's principals."""
    return {broker.keyring.ensure(who): who for who in (AGENT, OTHER, GATEWAY, WARDEN)}


async def cut(raw: Raw) -> bool:
    """Whether the broker has ended a connection, or does so soon."""
    try:
        async with asyncio.timeout(5):
            while True:
                await raw.say()
                await asyncio.sleep(0.01)
    except (AssertionError, ConnectionError):
        return True
    except TimeoutError:
        return False


async def test_the_newest_connections_of_an_identity_are_cut_at_once(
    broker: Broker, login: Opened
) -> None:
    """Within a second, without touching those that were there first or another's."""
    before = metric("tidegate_broker_kicked_total", principal="team.agent")
    async with warden(await broker.connect(WARDEN), known(broker)):
        first = [await login(broker, AGENT) for _ in range(3)]
        other = await login(broker, OTHER)
        began = time.monotonic()
        late = await login(broker, AGENT)

        assert await cut(late)
        assert time.monotonic() - began < 1
        for raw in (*first, other):
            assert set(await raw.say()) <= {b"PING"}  # the broker measures the way

    assert metric("tidegate_broker_kicked_total", principal="team.agent") == before + 1


async def test_whoever_is_chosen_is_cut_and_may_come_back(broker: Broker, login: Opened) -> None:
    """All connections of theirs that there are at that moment, and nobody else's."""
    before = metric("tidegate_broker_kicked_total", principal="team.agent")
    async with warden(await broker.connect(WARDEN), known(broker)) as watching:
        two = [await login(broker, AGENT) for _ in range(2)]
        other = await login(broker, OTHER)
        await until(lambda: metric("tidegate_broker_connections", principal="team.other") == 1)
        await watching.cut(lambda who: who == AGENT, "it is stopped")

        assert all([await cut(raw) for raw in two])
        again = await login(broker, AGENT)
        for raw in (again, other):
            assert set(await raw.say()) <= {b"PING"}  # the broker measures the way

    assert metric("tidegate_broker_kicked_total", principal="team.agent") == before + 2


async def test_what_was_there_before_the_warden_is_cut_too(broker: Broker, login: Opened) -> None:
    """On start it takes the whole picture, of several pages."""
    many = [await login(broker, AGENT) for _ in range(270)]
    other = await login(broker, OTHER)
    async with warden(await broker.connect(WARDEN), known(broker), limit=260):
        assert all(await asyncio.gather(*(cut(raw) for raw in many[260:])))
        await until(lambda: metric("tidegate_broker_connections", principal="team.agent") == 260)
        assert metric("tidegate_broker_connections", principal="team.other") == 1
        for raw in (*many[:260], other):
            assert set(await raw.say()) <= {b"PING"}  # the broker measures the way


async def test_who_is_still_logging_in_is_nobody_and_is_not_cut(broker: Broker) -> None:
    """When the broker comes back, many do at once."""
    before = metric("tidegate_broker_kicked_total", principal="unknown")
    wires = [await Wire.dial(broker.url) for _ in range(4)]
    async with warden(await broker.connect(WARDEN), known(broker), limit=1):
        agent, other = (
            Credentials(broker.keyring.seed(AGENT)),
            Credentials(broker.keyring.seed(OTHER)),
        )
        said = [await wires[n].connect(wires[n].login(who)) for n, who in ((2, agent), (3, other))]

        assert [answer.done for answer in said] == [True, True]
        await until(lambda: metric("tidegate_broker_connections", principal="team.other") == 1)
    for wire in wires:
        await wire.close()
    assert metric("tidegate_broker_kicked_total", principal="unknown") == before


async def test_a_picture_misses_nobody_while_others_come_and_go(
    broker: Broker, login: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who leaves makes the others move up by a place, perhaps out of the next page."""
    monkeypatch.setattr("tidegate_bus.watch.warden._PAGE", 3)
    passing = [await login(broker, OTHER) for _ in range(60)]
    for _ in range(20):
        await login(broker, AGENT)
        passing.append(await login(broker, OTHER))
    async with warden(await broker.connect(WARDEN), known(broker), limit=100) as watching:
        for raw in passing:
            watching.look()
            await raw.close()
            await asyncio.sleep(0)
        await until(lambda: metric("tidegate_broker_connections", principal="team.other") == 0)

        assert metric("tidegate_broker_connections", principal="team.agent") == 20


async def test_after_a_restart_of_the_broker_the_warden_knows_it_anew(
    broker: Broker, login: Opened
) -> None:
    """The broker numbers its connections from the beginning, and has another id."""
    async with warden(await broker.connect(WARDEN), known(broker), limit=1) as watching:
        await broker.kill()
        assert watching.owner(1) is None
        await broker.restart()
        await login(broker, AGENT)
        late = await login(broker, AGENT)

        assert await cut(late)


async def test_the_gateway_may_have_too_many_and_somebody_hears_of_it(
    broker: Broker, login: Opened
) -> None:
    """It is said once, loudly, and it stays connected."""
    with capture_logs() as logs:
        async with warden(await broker.connect(WARDEN), known(broker), limit=1):
            two = [await login(broker, GATEWAY) for _ in range(2)]
            await until(lambda: any("of the bus's own" in line["event"] for line in logs))

            assert [await raw.say() for raw in two] == [[], []]


async def test_refused_logins_are_counted_and_charged_to_nobody(broker: Broker) -> None:
    """Also one that names a key that somebody else has."""
    before = metric("tidegate_broker_refused_logins_total")
    async with warden(await broker.connect(WARDEN), known(broker)) as watching:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.server.port)
        stranger = Raw(reader, writer)
        with contextlib.suppress(ConnectionError):
            claim = {"nkey": broker.keyring.ensure(AGENT), "sig": "AAAA"}
            writer.write(b"CONNECT " + json.dumps(claim).encode() + b"\r\n")
            await reader.read()
        await until(lambda: metric("tidegate_broker_refused_logins_total") == before + 1)
        await stranger.close()
        assert all(watching.owner(cid) != AGENT for cid in range(100))


async def test_whose_a_connection_is_can_be_asked_also_when_it_has_ended(
    broker: Broker, login: Opened
) -> None:
    """The broker's log comes later than what it tells of."""
    async with warden(await broker.connect(WARDEN), known(broker)) as watching:
        raw = await login(broker, AGENT)
        await until(lambda: AGENT in map(watching.owner, range(100)))
        cid = next(cid for cid in range(100) if watching.owner(cid) == AGENT)
        await raw.close()
        await until(lambda: metric("tidegate_broker_connections", principal="team.agent") == 0)

        assert watching.owner(cid) == AGENT


async def test_an_identity_that_comes_later_is_known_after_a_look(
    broker: Broker, login: Opened
) -> None:
    """The mapping may change while the warden works."""
    principals = known(broker)
    del principals[broker.keyring.ensure(AGENT)]
    async with warden(await broker.connect(WARDEN), principals) as watching:
        await login(broker, AGENT)
        await until(lambda: metric("tidegate_broker_connections", principal="unknown") >= 1)
        principals[broker.keyring.ensure(AGENT)] = AGENT
        watching.look()
        await until(lambda: metric("tidegate_broker_connections", principal="team.agent") == 1)


async def test_a_warden_whose_connection_is_closed_says_so(broker: Broker) -> None:
    """It does not go on as if it saw anything."""
    connection = await broker.connect(WARDEN)
    watching = Warden(connection, known(broker), Health())
    task = asyncio.create_task(watching.run())
    await watching.ready()
    await connection.close()

    with pytest.raises(Unavailable):
        await task


# In operator mode


async def ended(wire: Wire) -> bool:
    """Whether the broker ends a connection soon."""
    async with asyncio.timeout(5):
        with contextlib.suppress(Unavailable, OSError):
            await wire.hear()
    return True


async def test_in_operator_mode_nobody_answers_for_what_another_writes_into_its_connect(
    tmp_path: Path,
) -> None:
    """There the broker shows the `nkey` of a CONNECT unchecked, beside the JWT that it checked.

    Neither is a connection of the other cut, nor does an incident in the log become the other's.
    """
    now = time.time_ns()
    authority = Authority.open(tmp_path / "authority", AccountLimits(2**30), now=now)
    configuration = tmp_path / "nats.conf"
    configuration.write_text(authority.configuration(store=tmp_path / "jetstream"))
    watching, agent, other = (
        authority.credentials(who, role, now=now)
        for who, role in ((WARDEN, Role.WARDEN), (AGENT, Role.AGENT), (OTHER, Role.AGENT))
    )
    principals = {agent.public_key: AGENT, other.public_key: OTHER, watching.public_key: WARDEN}
    told: list[Told] = []
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = await enter(await Server.start(configuration, tmp_path / "server.log"))
        text = jwt.credentials_text(watching)
        connection = await enter(await connect(server.url, WARDEN, text))
        running = await enter(warden(connection, principals, limit=2))
        log = BrokerLog(server.log, principals, told.append, owner=running.owner)
        stack.callback(log.close)

        async def login(who: Credentials, **more: str) -> Wire:
            wire = await enter(await Wire.dial(server.url))
            assert (await wire.connect({**wire.login(who), **more})).done
            return wire

        pretending = [await login(agent, nkey=other.public_key) for _ in range(2)]
        honest = [await login(other) for _ in range(2)]
        third = await login(agent, nkey=other.public_key)
        assert await ended(third)
        assert [(await wire.say()).done for wire in (*pretending, *honest)] == [True] * 4

        for wire in (pretending[0], honest[0]):
            await wire.say(b"PUB secret 0", b"")
        log.tick(0)
        log.tick(1)

    assert [(t.principal, t.incident.claims) for t in told] == [(AGENT, "team.other"), (OTHER, "")]
