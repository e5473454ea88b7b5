"""How the broker learns who may connect: what is written, issued, taken back, and when."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support import Raw
from support.broker import IN_CONTAINER
from tidegate.access import Listed, Signed, access, recorded_mode
from tidegate.cli.init import init
from tidegate.identities import Wanted, ensure_keys, wanted
from tidegate.project import Project, load_project
from tidegate_bus.broker.accounts import WARDEN
from tidegate_bus.broker.generated import read_generated
from tidegate_bus.broker.server import Server
from tidegate_bus.connection import Connection, connect
from tidegate_bus.identity import jwt
from tidegate_bus.identity.credentials import Credentials, public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.identity.register import Entry, Key
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import InvalidInput, ServerFailed
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

NOW = parse_rfc3339("2026-01-31T12:00:00Z")
SECOND = 1_000_000_000
GREETER = Principal("front-desk", "greeter")
WEBSITE = Principal("outside", "website")
REFUSED = "Authorization Violation|closed the connection"


def made(folder: Path, mode: str) -> Project:
    """The scaffold with keys for everybody."""
    init(folder)
    path = folder / "tidegate.yaml"
    path.write_text(path.read_text() + f"server: {{mode: {mode}}}\n")
    project = load_project(folder)
    ensure_keys(project, NOW)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose broker lists everybody."""
    return made(tmp_path / "hello", "static")


def world(project: Project, now: int = NOW, **more: Entry | None) -> Wanted:
    """Who is wanted by the register, with changes; None is somebody who is not there any more."""
    entries = dict(project.state.register.read())
    for entry in more.values():
        if entry:
            entries[entry.principal] = entry
    return wanted(project, entries, now)


def outsider(name: str = "a.b", key: str = "", **fields: Any) -> Entry:
    """Somebody of the register, with a key of their own."""
    keys = (Key(key or public_key(new_seed()), rfc3339(NOW)),)
    given: dict[str, Any] = {"keys": keys, **fields}
    return Entry(principal=name, role=Role.PUBLISHER, **given)


class Reloads:
    """Counts what the broker is told, and fails on demand."""

    def __init__(self) -> None:
        self.count = 0
        self.failing: list[int] = []

    async def __call__(self) -> None:
        """Reload."""
        self.count += 1
        if self.count in self.failing:
            raise ServerFailed("not now", "")

    def since(self) -> int:
        """How many there were since the last time."""
        count, self.count = self.count, 0
        return count


def accounts(project: Project) -> Mapping[str, Any]:
    """What is written for the broker; whole and as it was written."""
    body, whole = read_generated(project.state.server_configuration)
    assert whole
    found: Mapping[str, Any] = json.loads(body)["accounts"]
    return found


def test_what_is_written_depends_on_who_is_wanted_only(project: Project) -> None:
    """Byte by byte the same for the same people, at any time; another file for others."""
    listed, path = Listed(project, Reloads()), project.state.server_configuration
    assert listed.write(world(project), 4222, None)
    text = path.read_bytes()
    assert not listed.write(world(project, NOW + 10**18), 4222, None)
    assert path.read_bytes() == text
    guest = outsider()
    assert listed.write(world(project, a=guest), 4222, None)
    assert accounts(project)["a_b"]["users"][0]["nkey"] == guest.keys[0].public
    assert listed.write(world(project), 4222, None)

    assert path.read_bytes() == text
    seeds = [project.state.keyring.seed(who).encode() for who, _ in project.principals]
    assert not any(seed in text for seed in seeds)


async def test_only_who_comes_needs_a_second_reload(project: Project) -> None:
    """A new account does; a new key, somebody who goes, or nothing new does not."""
    reload, guest = Reloads(), outsider()
    listed = Listed(project, reload)
    listed.write(world(project), 4222, None)
    await listed.admit(world(project), 4222, None)
    assert reload.since() == 0
    await listed.admit(world(project, a=guest), 4222, None)
    assert reload.since() == 2
    await listed.admit(world(project, a=guest), 4222, None)
    assert reload.since() == 0
    rotated = msgspec.structs.replace(guest, keys=(*guest.keys, *outsider().keys))
    await listed.admit(world(project, a=rotated), 4222, None)
    assert reload.since() == 1
    await listed.admit(world(project), 4222, None)
    assert reload.since() == 1
    await listed.admit(world(project, a=guest), 4222, None)
    assert reload.since() == 2


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_reload_that_fails_is_made_up_for(project: Project, failing: int) -> None:
    """Although the file is written by then: both of them, for somebody new."""
    reload = Reloads()
    listed, guest = Listed(project, reload), outsider()
    listed.write(world(project), 4222, None)
    reload.failing = [failing]
    with pytest.raises(ServerFailed):
        await listed.admit(world(project, a=guest), 4222, None)
    assert reload.since() == failing
    reload.failing = []
    await listed.admit(world(project, a=guest), 4222, None)

    assert reload.since() == 2


def test_keys_that_are_not_good_are_not_listed(project: Project) -> None:
    """Ended, expired, revoked, or not admitted."""
    listed = Listed(project, Reloads())
    ended = Key(public_key(new_seed()), rfc3339(NOW), rfc3339(NOW))
    guest = outsider(keys=(ended, *outsider().keys))
    gone = outsider("c.d", revoked=rfc3339(NOW))
    over = outsider("e.f", expires=rfc3339(NOW))
    listed.write(world(project, a=guest, c=gone, e=over), 0, None)
    users = [user["nkey"] for found in accounts(project).values() for user in found["users"]]
    assert guest.keys[1].public in users
    assert not {ended.public, gone.keys[0].public, over.keys[0].public} & set(users)
    listed.write(world(project, a=guest).only([str(GREETER)]), 0, None)

    own = {name for name in accounts(project) if "_" in name}
    bus = {f"tidegate_{name}" for name in ("coordinator", "operator", "edge", "console", "probe")}
    assert own == {"front-desk_greeter", *bus}


def test_credentials_of_operator_mode_are_not_used_in_the_other(project: Project) -> None:
    """They go before the seed, and the broker would not take them."""
    path = project.state.keyring.creds_path(GREETER)
    path.write_text("token")
    Listed(project, Reloads()).write(world(project), 0, None)

    assert project.state.keyring.path(GREETER).suffix == ".nk"


@pytest.mark.parametrize("mode", ["static", "operator"])
async def test_the_mode_of_a_ledger_is_not_changed(tmp_path: Path, mode: str) -> None:
    """Its streams would be in an account that nobody sees: refused, with both ways out."""

    async def nowhere(principal: Principal) -> Connection:
        raise AssertionError(principal)

    project = made(tmp_path / "hello", mode)
    assert recorded_mode(project.state) is None
    first = access(project, nowhere, Reloads())
    assert isinstance(first, Signed if mode == "operator" else Listed)
    assert recorded_mode(project.state) == mode
    settings = project.root / "tidegate.yaml"
    other = "static" if mode == "operator" else "operator"
    settings.write_text(settings.read_text().replace(f"mode: {mode}", f"mode: {other}"))
    changed = load_project(project.root)
    expected = rf"made with `server\.mode: {mode}`.* set it back, or name another --state"
    with pytest.raises(InvalidInput, match=expected):
        access(changed, nowhere, Reloads())
    elsewhere = load_project(project.root, tmp_path / "elsewhere")
    elsewhere.state.folder.mkdir()
    access(elsewhere, nowhere, Reloads())

    project.state.mode.write_text("")  # as a crash may leave it, before there is a ledger
    access(changed, nowhere, Reloads())
    assert recorded_mode(project.state) == other


class Deployment:
    """A broker in operator mode, and what tells it who may connect."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.signed = Signed(project, self.connect)
        self.server: Server | None = None
        self.pushed = 0

    async def start(self, who: Wanted) -> None:
        """Start the broker with what is written for these."""
        self.signed.write(who, 0, None)
        state = self.project.state
        self.server = await Server.start(state.server_configuration, state.logs / "server.log")

    async def connect(self, principal: Principal) -> Connection:
        """Of one of the bus's own, to tell the broker something."""
        self.pushed += 1
        assert principal == WARDEN
        assert self.server
        return await connect(self.server.url, principal, self.project.state.keyring.path(principal))

    async def admit(self, who: Wanted) -> int:
        """Apply it; how often the broker was told something."""
        self.pushed = 0
        await self.signed.admit(who, 0, None)
        return self.pushed

    def creds(self, who: Principal) -> Credentials:
        """What is issued."""
        return Credentials.of(self.project.state.keyring.creds_path(who))

    async def knock(self, credentials: Credentials) -> bool:
        """Whether the broker lets somebody in."""
        assert self.server
        try:
            link = await Raw.open(self.server.url, credentials)
        except AssertionError:
            return False
        await link.close()
        return True


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncGenerator[Deployment]:
    """A running one."""
    if IN_CONTAINER:
        pytest.skip("the folder of accounts is not mounted")
    running = Deployment(made(tmp_path / "hello", "operator"))
    await running.start(world(running.project, time.time_ns()))
    try:
        yield running
    finally:
        if running.server:
            await running.server.stop()


def claims(credentials: Credentials) -> jwt.Claims[jwt.User]:
    """Of a token."""
    return jwt.decode(credentials.jwt, jwt.User)


async def test_everybody_with_a_seed_here_gets_credentials(deployment: Deployment) -> None:
    """Which only their owner may read; they are not issued again while they are good."""
    project = deployment.project
    keyring, now = project.state.keyring, time.time_ns()
    before = {who: keyring.creds_path(who).read_bytes() for who, _ in project.principals}
    text = project.state.server_configuration.read_bytes()
    for who in before:
        assert stat.S_IMODE(keyring.creds_path(who).stat().st_mode) == 0o600
        assert await deployment.knock(deployment.creds(who))
        assert deployment.creds(who).seed.encode() not in text
    assert await deployment.admit(world(project, now + 60 * SECOND)) == 0

    assert {who: keyring.creds_path(who).read_bytes() for who in before} == before
    assert project.state.server_configuration.read_bytes() == text


async def test_who_keeps_a_seed_elsewhere_gets_a_token(deployment: Deployment) -> None:
    """Which is of no use without the seed; and there is nothing else of them here."""
    seed, now = new_seed(), time.time_ns()
    guest = outsider(key=public_key(seed))
    assert await deployment.admit(world(deployment.project, now, a=guest)) == 0
    keyring = deployment.project.state.keyring
    token = keyring.token_path(guest.who).read_text().strip()

    assert await deployment.knock(Credentials(seed, token))
    assert not await deployment.knock(Credentials(new_seed(), token))
    assert sorted(path.name for path in keyring.path(guest.who).parent.glob("a.b*")) == ["a.b.jwt"]


async def test_tokens_follow_keys_and_expiry(deployment: Deployment) -> None:
    """Another key or another end is another token; the same is the same."""
    project, now = deployment.project, time.time_ns()
    state, register = project.state, project.state.register.read()[str(GREETER)]
    first = deployment.creds(GREETER)
    end = now // SECOND * SECOND + 3600 * SECOND
    ending = msgspec.structs.replace(register, expires=rfc3339(end))
    await deployment.admit(world(project, now, a=ending))
    second = deployment.creds(GREETER)
    assert claims(second).exp == end // SECOND
    assert second.seed == first.seed
    await deployment.admit(world(project, now + 5 * SECOND, a=ending))
    assert deployment.creds(GREETER) == second

    new = state.keyring.propose(GREETER)
    state.keyring.adopt(GREETER, new)
    old = msgspec.structs.replace(register.keys[0], until=rfc3339(now + SECOND))
    rotated = msgspec.structs.replace(register, keys=(old, Key(new, rfc3339(now))))
    assert await deployment.admit(world(project, now, a=rotated)) == 0
    assert deployment.creds(GREETER).public_key == claims(deployment.creds(GREETER)).sub == new
    assert await deployment.knock(first)
    assert await deployment.knock(deployment.creds(GREETER))
    later = now + SECOND
    assert await deployment.admit(world(project, later, a=rotated)) == 1

    assert not await deployment.knock(first)
    assert await deployment.knock(deployment.creds(GREETER))


async def test_a_key_is_taken_back_once(deployment: Deployment) -> None:
    """And never one of somebody who is only not admitted yet."""
    project, now = deployment.project, time.time_ns()
    register = project.state.register.read()[str(WEBSITE)]
    website = deployment.creds(WEBSITE)
    assert await deployment.admit(world(project, now).only([])) == 0
    assert await deployment.knock(website)
    gone = world(project, now, a=msgspec.structs.replace(register, revoked=rfc3339(now)))
    assert [await deployment.admit(gone) for _ in range(3)] == [1, 0, 0]
    assert not await deployment.knock(website)

    assert deployment.server
    await deployment.server.stop()
    await deployment.start(gone)
    assert not await deployment.knock(website)
    assert await deployment.knock(deployment.creds(GREETER))


async def test_who_was_gone_may_come_back_with_the_same_key_and_go_again(
    deployment: Deployment,
) -> None:
    """As an agent whose manifest is away for a moment: each time as if it were the first."""
    project, now = deployment.project, time.time_ns()
    there = world(project, now)
    manifest = project.root / "agents" / "greeter.yaml"
    text = manifest.read_text()
    stolen = deployment.creds(GREETER)
    for step in range(2):
        manifest.unlink()
        away = world(load_project(project.root), now + step * SECOND)
        assert [await deployment.admit(away) for _ in range(2)] == [1, 0]
        assert not await deployment.knock(deployment.creds(GREETER))
        manifest.write_text(text)
        assert await deployment.admit(there) == 0
        assert deployment.creds(GREETER).seed == stolen.seed
        assert await deployment.knock(deployment.creds(GREETER))
        assert not await deployment.knock(stolen)
        stolen = deployment.creds(GREETER)


async def test_an_identity_in_its_last_second_stops_nobody(deployment: Deployment) -> None:
    """Tokens are good for whole seconds, so there is none for less; others get theirs."""
    seed, now = new_seed(), time.time_ns() // SECOND * SECOND
    brief = outsider("a.b", expires=rfc3339(now + SECOND // 2))
    guest = outsider("c.d", public_key(seed))
    await deployment.admit(world(deployment.project, now, a=brief, c=guest))
    keyring = deployment.project.state.keyring

    assert not keyring.token_path(brief.who).exists()
    token = keyring.token_path(guest.who).read_text().strip()
    assert await deployment.knock(Credentials(seed, token))


async def test_a_token_that_was_damaged_is_issued_again(deployment: Deployment) -> None:
    """Whatever is in its place."""
    path = deployment.project.state.keyring.creds_path(GREETER)
    other = deployment.creds(WEBSITE)
    mine = deployment.creds(GREETER)
    for text in (b"", b"\xff", b"x" * 99, jwt.credentials_text(other).encode()):
        path.write_bytes(text)
        path.chmod(0o600)
        await deployment.admit(world(deployment.project, time.time_ns()))
        assert deployment.creds(GREETER).seed == mine.seed
        assert await deployment.knock(deployment.creds(GREETER))
