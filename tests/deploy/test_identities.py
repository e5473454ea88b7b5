"""Who is wanted, what the ledger is told of it, and rotations that are interrupted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.cli.init import init
from tidegate.identities import Wanted, changes, ensure_keys, wanted
from tidegate.project import Project, load_project
from tidegate_bus.identity.credentials import Credentials, public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.identity.register import Entry, Key
from tidegate_policy.roster import BUILT_IN, Roster, change_of
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.envelope import decode, encode
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.subjects import Principal

EXAMPLES = settings(
    database=None,
    deadline=None,  # a busy machine is no bug
    derandomize=True,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow],
)
NOW = parse_rfc3339("2026-01-31T12:00:00Z")
BEFORE, AFTER = rfc3339(NOW - 1), rfc3339(NOW + 1)
NAMES = ["a.one", "a.two", "b.one", "b.two"]
CAPABILITIES = ["w", "x", "y", "z"]
GREETER = Principal("front-desk", "greeter")


def entry(name: str = "a.one", role: Role = Role.AGENT, **fields: Any) -> Entry:
    """An identity with one key."""
    given: dict[str, Any] = {"keys": (Key(f"U{name}", BEFORE),), **fields}
    return Entry(principal=name, role=role, **given)


def agent(name: str, *capabilities: str) -> Entry:
    """An agent that takes these."""
    return entry(name, capabilities=capabilities)


def wants(*entries: Entry) -> Wanted:
    """That these are wanted."""
    return Wanted({one.principal: one for one in entries}, {}, NOW)


@st.composite
def worlds(draw: st.DrawFn, *, agreed: bool = True) -> Wanted:
    """Anybody who may be wanted; if agreed, no two of them want the same capability."""
    free = draw(st.permutations(CAPABILITIES))
    found: list[Entry] = []
    for name in draw(st.permutations(NAMES))[: draw(st.integers(0, len(NAMES)))]:
        role = draw(st.sampled_from([Role.AGENT, Role.AGENT, Role.PUBLISHER, Role.OPERATOR]))
        own: list[str] = []
        if role is Role.AGENT:
            many = draw(st.integers(0, 2))
            own = [free.pop() for _ in range(min(many, len(free)))] if agreed else free[:many]
        if not agreed:
            free = draw(st.permutations(CAPABILITIES))
        over = draw(st.sampled_from([{}, {}, {}, {"revoked": BEFORE}, {"expires": BEFORE}]))
        if over and agreed:
            free.extend(own)  # who is not wanted holds nothing
        key = Key(f"U{name}{draw(st.integers(0, 1))}", BEFORE)
        later = {"expires": draw(st.sampled_from([None, AFTER])), **over}
        hears = ("h",) if role is Role.AGENT and draw(st.booleans()) else ()
        found.append(
            entry(name, role, keys=(key,), capabilities=tuple(own), subscribes=hears, **later)
        )
    details = {name: {"version": draw(st.sampled_from("12")), "owner": "me"} for name in NAMES[:2]}
    return Wanted({one.principal: one for one in found}, details, NOW)


def told(wanted: Wanted, roster: Roster) -> Roster:
    """The roster after a gateway has admitted all commands, as bytes; one that it cannot raises."""
    for envelope in changes(wanted, roster.members):
        change = change_of(envelope.to or "", decode(encode(envelope)))
        assert change
        roster = roster.after(change)
    return roster


def members(roster: Roster) -> dict[str, Registration]:
    """Without the bus's own."""
    return {n: m for n, m in roster.members.items() if n not in BUILT_IN.members}


@EXAMPLES
@given(st.lists(worlds(), min_size=1, max_size=4))
def test_the_ledger_ends_up_saying_who_is_wanted(steps: list[Wanted]) -> None:
    """Whoever comes, goes, or passes capabilities around: each command can be admitted.

    And nothing is left to be said then.
    """
    roster = BUILT_IN
    for step in steps:
        roster = told(step, roster)

        assert members(roster) == step.registrations()
        assert list(changes(step, roster.members)) == []
        assert {n: roster.members[n] for n in BUILT_IN.members} == BUILT_IN.members


SWAP = ([agent("a.one", "x"), agent("a.two", "y")], [agent("a.one", "y"), agent("a.two", "x")])
RING = (
    [agent("a.one", "x"), agent("a.two", "y"), agent("b.one", "z")],
    [agent("a.one", "y"), agent("a.two", "z"), agent("b.one", "x")],
)
TAKEN_OVER = ([agent("a.one", "x", "y")], [entry("a.one", Role.PUBLISHER), agent("a.two", "x")])
LEFT = ([agent("a.one", "x")], [agent("a.two", "x")])
EXPIRED = ([agent("a.two", "x")], [entry("a.two", expires=BEFORE), agent("a.one", "x")])


@pytest.mark.parametrize("steps", [SWAP, RING, TAKEN_OVER, LEFT, EXPIRED])
def test_capabilities_pass_from_one_to_another(steps: tuple[list[Entry], list[Entry]]) -> None:
    """There and back; in no record between have they two providers."""
    first, second = (wants(*step) for step in steps)
    roster = told(second, told(first, BUILT_IN))
    assert members(roster) == second.registrations()
    assert members(told(first, roster)) == first.registrations()


@EXAMPLES
@given(worlds(), worlds(agreed=False))
def test_who_has_a_capability_keeps_it_against_others(first: Wanted, second: Wanted) -> None:
    """Where two want the same, the newcomer is refused; saying it again changes nothing."""
    roster = told(first, BUILT_IN)
    before = roster.providers
    for _ in range(2):
        refused: set[str] = set()
        for envelope in changes(second, roster.members):
            change = change_of(envelope.to or "", envelope)
            assert change
            try:
                roster = roster.after(change)
            except InvalidEnvelope:
                refused.add(change.principal)
        asked = second.registrations()
        for capability, name in before.items():
            if name in asked and capability in asked[name].capabilities and name not in refused:
                assert roster.providers[capability] == name
        before = roster.providers
        assert {n: m for n, m in asked.items() if n not in refused}.items() <= (
            roster.members.items()
        )


def test_why_somebody_goes_is_said() -> None:
    """Revoked with the reason, expired, or gone from the project's files."""
    roster = told(wants(*map(entry, NAMES[:3])), BUILT_IN)
    now = wants(entry("a.one", revoked=BEFORE, reason="left"), entry("a.two", expires=BEFORE))

    assert {
        e.payload()["principal"]: e.payload()["reason"] for e in changes(now, roster.members)
    } == {
        "a.one": "left",
        "a.two": "expired",
        "b.one": "no longer declared",
    }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The scaffold, which no stack has run yet."""
    init(tmp_path / "hello")
    return load_project(tmp_path / "hello")


def entries(project: Project) -> Mapping[str, Entry]:
    """Its register."""
    return project.state.register.read()


def test_everybody_whom_the_project_declares_has_a_key(project: Project) -> None:
    """One that the register and the keyring agree on; doing it again changes nothing."""
    ensure_keys(project, NOW)
    found, version = entries(project), project.state.register.version()
    ensure_keys(project, NOW + 1)

    assert project.state.register.version() == version
    assert sorted(found) == sorted(str(who) for who, _ in project.principals)
    for who, role in project.principals:
        assert found[str(who)].role == role
        assert found[str(who)].declared
        key = public_key(project.state.keyring.seed(who))
        assert found[str(who)].good(NOW) == (key,)


def test_declared_work_is_that_of_the_files(project: Project) -> None:
    """Whatever the register says of somebody who is declared; and nothing else of them."""
    ensure_keys(project, NOW)
    known = {
        **entries(project),
        str(GREETER): entry(str(GREETER), Role.PUBLISHER, lease=99.0),
        "outside.website": entry("outside.website", capabilities=("x",), subscribes=("y",)),
        "of.old": entry("of.old", declared=True, capabilities=("z",)),
        "by.hand": agent("by.hand", "w"),
    }
    found = wanted(project, known, NOW)

    greeter = found.entries[str(GREETER)]
    assert (greeter.role, greeter.capabilities) == (Role.AGENT, ("greeting.write",))
    assert greeter.lease == 30.0
    website = found.entries["outside.website"]
    assert (website.role, website.capabilities, website.subscribes) == (Role.PUBLISHER, (), ())
    assert "of.old" not in found.entries
    assert [user.public_key for user in found.gone] == ["Uof.old"]
    assert found.registrations()[str(GREETER)].owner == "you"
    for registration in found.registrations().values():
        registration.check()
    assert {s.principal for s in found.subscriptions()} == {GREETER, Principal("by", "hand")}


def test_who_is_not_good_is_no_user(project: Project) -> None:
    """Nor has a registration or a consumer; each key that is not good is gone."""
    keys = (Key("U1", BEFORE, BEFORE), Key("U2", BEFORE, AFTER), Key("U3", BEFORE))
    known = {
        "a.one": entry(keys=keys, capabilities=("x",), expires=rfc3339(NOW + 9)),
        "a.two": entry("a.two", capabilities=("y",), revoked=BEFORE),
        "b.one": entry("b.one", capabilities=("z",), expires=rfc3339(NOW)),
    }
    found = wanted(project, known, NOW)

    assert [user.public_key for user in found.users()] == ["U2", "U3"]
    assert {gone.public_key for gone in found.gone} == {"U1", "Ua.two", "Ub.one"}
    assert list(found.registrations()) == ["a.one"]
    assert [s.capabilities for s in found.subscriptions()] == [("x",)]
    assert found.next_change() == NOW + 1
    assert wanted(project, known, NOW + 1).next_change() == NOW + 9
    assert wanted(project, known, NOW + 9).next_change() is None
    assert found.only(()).users() == []
    assert {gone.public_key for gone in found.only(()).gone} == {"U1", "Ua.two", "Ub.one"}


KILLED = """
import os, signal, sys
from tidegate import identities
from tidegate.cli import main
from tidegate_bus.identity.guarded import GuardedFile
from tidegate_bus.identity.keyring import Keyring

owner = sys.argv.pop(1)
name, when = sys.argv.pop(1).split(":")
owner = {"keyring": Keyring, "register": GuardedFile}[owner]
whole = getattr(owner, name)

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def stopped(self, *arguments):
    if name == "adopt" and str(arguments[0]) != "front-desk.greeter":
        return whole(self, *arguments)
    if name == "adopt" and when == "before" and not self._next_path(arguments[0]).exists():
        return whole(self, *arguments)
    if when == "before":
        kill()
    found = whole(self, *arguments)
    if name != "adopt" or public(self, arguments[0]) != old:
        kill()
    return found

def public(keyring, who):
    from tidegate_bus.identity.credentials import Credentials
    return Credentials.of(keyring.path(who)).public_key

from pathlib import Path
from tidegate.project import load_project
from tidegate_schemas.subjects import Principal
old = public(load_project(Path.cwd()).state.keyring, Principal("front-desk", "greeter"))
setattr(owner, name, stopped)
main()
"""
STEPS = {
    "before the seed is proposed": ("keyring", "propose:before", False),
    "when the seed is proposed": ("keyring", "propose:after", False),
    "before the register is written": ("register", "write:before", False),
    "when the register is written": ("register", "write:after", True),
    "before the seed is adopted": ("keyring", "adopt:before", True),
    "when the seed is adopted": ("keyring", "adopt:after", True),
}


def rotate_until(project: Project, step: str) -> None:
    """Rotate the greeter's key, and be killed at a step."""
    owner, where, _ = STEPS[step]
    command = [sys.executable, "-c", KILLED, owner, where]
    done = subprocess.run(
        [*command, "identity", "rotate", str(GREETER), "--overlap", "0s"],
        cwd=project.root,
        capture_output=True,
    )
    assert done.returncode == -9, done.stderr.decode()


@pytest.mark.parametrize(
    ("step", "second"),
    [
        *((step, "") for step in STEPS),
        ("when the seed is proposed", "when the seed is proposed"),
        ("when the register is written", "before the register is written"),
    ],
)
def test_a_rotation_that_is_killed_is_finished_or_forgotten(
    project: Project, step: str, second: str
) -> None:
    """At any step, and also if the next rotation is killed too: the seed is that of a good key.

    Nothing else is left of it.
    """
    ensure_keys(project, NOW)
    old = public_key(project.state.keyring.seed(GREETER))
    rotate_until(project, step)
    if second:
        rotate_until(project, second)
    later = parse_rfc3339("9999-01-01T00:00:00Z")
    ensure_keys(project, later)

    found = entries(project)[str(GREETER)]
    key = Credentials.of(project.state.keyring.path(GREETER)).public_key
    assert found.good(later) == (key,)
    assert (key != old) == STEPS[step][2]
    files = [path.name for path in project.state.register.path.parent.glob("keys/front-desk.*")]
    assert files == ["front-desk.greeter.nk"]


def test_a_rotation_does_not_lose_the_seed_of_one_that_is_not_done_yet(project: Project) -> None:
    """Two at once: the register names the first key, whose seed waits; the second one is killed."""
    ensure_keys(project, NOW)
    keyring = project.state.keyring
    with project.state.register.edit() as found:
        key = Key(keyring.propose(GREETER), BEFORE)
        before = found[str(GREETER)]
        ended = msgspec.structs.replace(before.keys[0], until=AFTER)
        found[str(GREETER)] = msgspec.structs.replace(before, keys=(ended, key))
    script = KILLED.replace("main()\n", "identities.ensure_keys = lambda *_: None\nmain()\n")
    assert "ensure_keys = " in script
    command = [sys.executable, "-c", script, "keyring", "propose:after"]
    subprocess.run([*command, "identity", "rotate", str(GREETER)], cwd=project.root, check=False)
    ensure_keys(project, NOW)

    assert public_key(keyring.seed(GREETER)) == key.public


def test_a_seed_of_somebody_else_is_not_adopted(project: Project) -> None:
    """A damaged proposal stops nobody; it is said which file others may read."""
    ensure_keys(project, NOW)
    old = public_key(project.state.keyring.seed(GREETER))
    path = project.state.keyring.path(GREETER).with_suffix(".next")
    path.write_text(new_seed())
    path.chmod(0o600)
    ensure_keys(project, NOW)

    assert not path.exists()
    assert public_key(project.state.keyring.seed(GREETER)) == old


def test_who_was_admitted_before_stays_so_when_an_update_is_refused() -> None:
    """With the key of then, not one that the ledger was not told of; newcomers stay out."""
    rotated = entry("a.one", keys=(Key("Uold", BEFORE, AFTER), Key("Unew", BEFORE)))
    known = {"a.one": Registration("a.one", Role.AGENT, keys=("Uold",))}
    found = wants(rotated, entry("a.two"), entry("b.one"))

    admitted = found.admitted({"a.one", "a.two"}, known)

    assert [(str(u.principal), u.public_key) for u in admitted.users()] == [
        ("a.one", "Uold"),
        ("b.one", "Ub.one"),
    ]
    assert found.admitted((), known) == found
