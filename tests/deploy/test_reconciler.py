"""The reconciler: what it says is in force, whom it tells what, and in which order."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from support import LIMITS, OPERATOR, Broker, running_broker
from tidegate.cli.init import init
from tidegate.identities import Wanted
from tidegate.project import Project, State, load_project
from tidegate.reconciler import Reconciler, applied, note, roster
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.pauses import feeds
from tidegate_bus.broker.topology import Limits
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.identity.register import Entry, Key
from tidegate_bus.ledger import LedgerReader
from tidegate_policy.roster import BUILT_IN
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import Denied, ServerFailed
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import IDENTITY_REGISTER, IDENTITY_REVOKE

NO_NEWCOMERS = """
@id("everything") permit (principal, action, resource);
@id("no-newcomers") forbid (principal, action in Action::"control", resource)
when { context.to == "identity.register" };
"""


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Broker]:
    """A broker with streams."""
    async with running_broker(tmp_path) as running:
        yield running


def agent(name: str, *capabilities: str, **fields: str) -> Entry:
    """An agent that takes these."""
    key = Key(public_key(new_seed()), rfc3339(time.time_ns()))
    return msgspec.structs.replace(
        Entry(principal=name, role=Role.AGENT, keys=(key,), capabilities=capabilities), **fields
    )


async def nothing() -> None:
    """Nobody is stopped."""


def wants(*entries: Entry) -> Wanted:
    """That these are wanted."""
    return Wanted({one.principal: one for one in entries}, {}, time.time_ns())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The scaffold, with the streams of the tests."""

    def limits(_: Project) -> Limits:
        return LIMITS

    monkeypatch.setattr(Project, "limits", limits)
    init(tmp_path / "hello")
    found = load_project(tmp_path / "hello")
    found.state.folder.mkdir()
    return found


NOBODY = tuple(BUILT_IN.members.values())


class Admissions:
    """Whom the broker was told to let in, each time; fails on demand."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.failing = False

    async def __call__(self, who: Wanted) -> None:
        """Admit."""
        if self.failing:
            raise ServerFailed("not now")
        self.told.append(sorted(str(user.principal) for user in who.users()))


async def spoken(broker: Broker) -> list[tuple[str, str]]:
    """What the ledger was told of identities."""
    found: list[tuple[str, str]] = []
    for record in await broker.records():
        message = record.message()
        if message and record.to in (IDENTITY_REGISTER, IDENTITY_REVOKE):
            found.append((record.to.removeprefix("identity."), message.payload()["principal"]))
    return found


async def test_deliveries_are_right_before_anybody_is_let_in(
    broker: Broker, project: Project
) -> None:
    """Who comes into what is stopped has a consumer that stands still by then."""
    admit = Admissions()
    seen: list[tuple[list[Principal], int]] = []

    async def align() -> None:
        there = await feeds(await broker.connect(REGISTRAR))
        seen.append(([feed.principal for feed in there], len(admit.told)))

    one = agent("a.one", "x")
    async with broker.gateway(roster=NOBODY):
        await Reconciler(broker.connect, align).apply(project, wants(one), "1", admit)

    ((found, told_before),) = seen
    assert one.who in found
    assert admit.told[told_before:] == [["a.one"]]


async def test_who_comes_is_let_in_when_the_ledger_knows_them(
    broker: Broker, project: Project
) -> None:
    """And who goes is locked out before the ledger is told; a second round says nothing."""
    admit = Admissions()
    reconciler, one, two = (
        Reconciler(broker.connect, nothing),
        agent("a.one", "x"),
        agent("a.two", "y"),
    )
    async with broker.gateway(roster=NOBODY):
        await reconciler.apply(project, wants(one, two), "1", admit)
        assert admit.told == [[], ["a.one", "a.two"]]
        await reconciler.apply(project, wants(one, two), "2", admit)
        assert admit.told[2:] == [["a.one", "a.two"]] * 2
        admit.told.clear()
        gone = msgspec.structs.replace(one, revoked=rfc3339(time.time_ns()), reason="left")
        taker = agent("a.three", "x")
        done = await reconciler.apply(project, wants(gone, two, taker), "3", admit)

        assert admit.told == [["a.two"], ["a.three", "a.two"]]
        assert await spoken(broker) == [
            ("register", "a.one"),
            ("register", "a.two"),
            ("revoke", "a.one"),
            ("register", "a.three"),
        ]
        known = (await roster(LedgerReader(await broker.connect(OPERATOR)))).members
        assert {n for n in known if n.startswith("a.")} == {"a.two", "a.three"}
        assert applied(project.state) == done
        assert (done.register, done.refused) == ("3", {})


async def test_a_broker_that_cannot_be_told_is_tried_again(
    broker: Broker, project: Project
) -> None:
    """Nothing is in force until then, and nothing is said twice to the ledger."""
    admit = Admissions()
    reconciler, one = Reconciler(broker.connect, nothing), agent("a.one", "x")
    async with broker.gateway(roster=NOBODY):
        admit.failing = True
        with pytest.raises(ServerFailed):
            await reconciler.apply(project, wants(one), "1", admit)
        assert applied(project.state) is None
        admit.failing = False
        await reconciler.apply(project, wants(one), "1", admit)
        await reconciler.apply(project, wants(one), "1", admit)

        assert await spoken(broker) == [("register", "a.one")]
        done = applied(project.state)
        assert done and done.register == "1"


async def test_who_policy_refuses_is_noted_and_stays_outside(
    broker: Broker, project: Project
) -> None:
    """The others come in; when policy allows it and something changes, so does who was refused."""
    admit = Admissions()
    reconciler, one, two = Reconciler(broker.connect, nothing), agent("a.one"), agent("a.two")
    async with broker.gateway(roster=NOBODY):
        await reconciler.apply(project, wants(one), "1", admit)
    async with broker.gateway(NO_NEWCOMERS, roster=NOBODY):
        done = await reconciler.apply(project, wants(one, two), "2", admit)
    assert list(done.refused) == ["a.two"]
    assert done.refused["a.two"].startswith("forbidden (ledger record ")
    assert admit.told[-2:] == [["a.one"], ["a.one"]]
    async with broker.gateway(roster=NOBODY):
        done = await reconciler.apply(project, wants(one, two), "3", admit)

    assert done.refused == {}
    assert admit.told[-2:] == [["a.one"], ["a.one", "a.two"]]


def test_what_is_in_force_is_read_as_it_was_noted(tmp_path: Path) -> None:
    """Where nothing is, or what is there is damaged, nothing is known to be in force."""
    state = State(tmp_path)
    assert applied(state) is None
    refusal = Denied("forbidden", "because", 7, ("no",))
    done = note(state, "v1", {"a.b": refusal})

    assert applied(state) == done
    assert done.refused == {"a.b": "forbidden: because (ledger record 7)"}
    assert parse_rfc3339(done.time) <= time.time_ns()
    assert list(tmp_path.iterdir()) == [state.applied]
    for damage in (b"", b"{", b"[]", b'{"register": 1}', b"\xff"):
        state.applied.write_bytes(damage)
        assert applied(state) is None
