"""`tidegate identity` against a running stack: who gets in, who is cut, and what stays secret."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support import Raw, until
from tidegate.bus import Bus
from tidegate.policies import put_in_force, shelf
from tidegate.project import Project, address, load_project
from tidegate_bus.connection import connect
from tidegate_bus.identity.credentials import Credentials, public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_policy.bundle import load_bundle
from tidegate_schemas import Envelope, Verdict
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import Denied
from tidegate_schemas.vocabulary import OPERATOR

from .test_cli import Shell, bytecode, here
from .test_cli_alone import Program

__all__ = ["here"]  # a fixture

REFUSED = r"Authorization Violation|Authentication Expired|closed the connection"
GREETER = "front-desk.greeter"
NO_NEWCOMERS = """
@id("no-newcomers")
forbid (principal, action in Action::"control", resource)
when { context.to == "identity.register" };
"""


@pytest.fixture(scope="module", params=["static", "operator"])
def tidegate(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Shell]:
    """A shell in a project whose stack runs."""
    folder = tmp_path_factory.mktemp("identity")
    outside = Shell(folder, bytecode(pytestconfig))
    assert outside("init", "hello").status == 0
    shell = outside.there(folder / "hello")
    settings = shell.folder / "tidegate.yaml"
    settings.write_text(settings.read_text() + f"server: {{mode: {request.param}}}\n")
    process = shell.up(shell.folder / "up.log")
    shell.environment["TIDEGATE_TEST_UP"] = str(process.pid)
    try:
        yield shell
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (shell.folder / "up.log").read_text()


@pytest.fixture
def project(tidegate: Shell) -> Project:
    """Its project."""
    return load_project(tidegate.folder)


def secret(project: Project, name: str, seed: str) -> str:
    """What proves a principal whose seed is kept elsewhere: in operator mode its token too."""
    path = project.state.folder / "keys" / f"{name}.jwt"
    if not path.exists():
        return seed
    token = path.read_text().strip()
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


async def connects(project: Project, credentials: str | Path) -> bool:
    """Whether the broker lets somebody in."""
    try:
        link = await Raw.open(address(project.state), Credentials.of(credentials))
    except ConnectionError:
        return False
    except AssertionError as error:
        assert re.search(REFUSED, str(error))
        return False
    with contextlib.suppress(ConnectionError):
        await link.close()
    return True


async def closed(link: Raw) -> None:
    """Wait until the broker closes a connection."""
    with contextlib.suppress(AssertionError, OSError):
        while True:
            await link.say()
            await asyncio.sleep(0.01)
    with contextlib.suppress(OSError):
        await link.close()


def test_a_seed_kept_elsewhere_works_end_to_end(here: Program, project: Project) -> None:
    """The gateway knows the sender by the first message, and records what it does."""
    seed = new_seed()
    done = here(
        *("identity", "add", "desk.ada", "--role", "operator", "--expires", "30d"),
        *("--key", public_key(seed)),
    )
    assert (done.status, done.out) == (0, "")
    assert "added desk.ada; in force" in done.err

    async def speak() -> None:
        url, name = address(project.state), "desk.ada"
        async with await Bus.connect(url, name, secret(project, name, seed)) as bus:
            receipt = await bus.publish(Envelope.new("greeting.requested", {"name": "Ada"}))
            assert receipt.verdict is Verdict.ALLOW
            with pytest.raises(Denied):
                await bus.publish(Envelope.new("run.finished", {}))
            records = [record async for record in bus.records()]
            assert [r.verdict for r in records if r.by == name] == [Verdict.ALLOW, Verdict.DENY]

    asyncio.run(speak())
    assert not (project.state.folder / "keys" / "desk.ada.nk").exists()
    row = next(r for r in here("identity", "list", "--json").json if r["principal"] == "desk.ada")
    assert (row["state"], row["keys"], row["seed_here"]) == ("active", [public_key(seed)], False)


def test_an_overlap_and_its_end(here: Program, project: Project) -> None:
    """Both keys connect meanwhile; without an overlap the old one is cut at once."""
    assert here("identity", "add", "over.lap", "--hears", "x").status == 0
    keyring = project.state.keyring
    who = next(e.who for e in project.state.register.read().values() if e.principal == "over.lap")

    def credentials() -> str:
        return keyring.path(who).read_text()

    async def check() -> None:
        first = credentials()
        link = await Raw.open(address(project.state), Credentials.of(first))
        done = await asyncio.to_thread(here, "identity", "rotate", "over.lap", "--overlap", "1h")
        assert done.status == 0
        second = credentials()
        assert set(await link.say()) <= {b"PING"}
        assert second != first
        assert [await connects(project, c) for c in (first, second)] == [True, True]
        done = await asyncio.to_thread(here, "identity", "rotate", "over.lap", "--overlap", "0s")
        assert done.status == 0
        await closed(link)
        third = credentials()
        found = [await connects(project, c) for c in (first, second, third)]
        assert found == [False, False, True]

    asyncio.run(check())


def test_expiry_cuts_a_live_connection_and_leaves_others(here: Program, project: Project) -> None:
    """At its time and soon; and it cannot come back."""
    seeds = {name: new_seed() for name in ("long.guest", "brief.guest")}
    for (name, seed), expires in zip(seeds.items(), ("1d", "4s"), strict=True):
        done = here(
            *("identity", "add", name, "--role", "publisher"),
            *("--key", public_key(seed), "--expires", expires),
        )
        assert done.status == 0
    end = project.state.register.read()["brief.guest"].expires
    assert end

    async def check() -> None:
        url = address(project.state)
        other, brief = [
            await Raw.open(url, Credentials.of(secret(project, name, seed)))
            for name, seed in seeds.items()
        ]
        await closed(brief)
        late = time.time_ns() - parse_rfc3339(end)
        assert -1.1e9 < late < 5e9  # tokens end with the second before
        await until(refused)  # a token is good in the whole second in which it ends
        assert set(await other.say()) <= {b"PING"}
        await other.close()

    async def refused() -> bool:
        return not await connects(project, secret(project, "brief.guest", seeds["brief.guest"]))

    def expired() -> bool:
        return bool(here("identity", "show", "brief.guest", "--json").json["state"] == "expired")

    asyncio.run(check())
    asyncio.run(until(expired))
    assert here("identity", "rotate", "brief.guest").status == 2


def test_a_printed_seed_is_nowhere_and_no_seed_is_where_it_does_not_belong(
    tidegate: Shell, here: Program, project: Project
) -> None:
    """Neither in a file nor in the ledger, in the log, or in what `ps` shows."""
    done = here("identity", "add", "own.seed", "--role", "publisher", "--print")
    printed = done.out.strip()
    assert asyncio.run(connects(project, secret(project, "own.seed", printed)))
    assert here("identity", "rotate", GREETER, "--overlap", "0s").status == 0
    assert here("identity", "revoke", "own.seed", "--reason", "over").status == 0
    keys = project.state.folder / "keys"
    seeds = {printed: "own.seed"}
    seeds |= {Credentials.of(path).seed: path.stem for path in keys.glob("*.nk")}

    async def ledger() -> str:
        async with await Bus.of_project(str(OPERATOR), project.root) as bus:
            return "".join([repr(record) async for record in bus.records()])

    said = asyncio.run(ledger())
    assert '"identity.register"' in said.replace("'", '"')
    said += subprocess.run(["ps", "-axwwo", "args"], capture_output=True, text=True).stdout
    assert not [name for seed, name in seeds.items() if seed in said]
    for path in tidegate.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found = {name for seed, name in seeds.items() if seed.encode() in content}
            assert found <= ({path.stem} if path.suffix in (".nk", ".creds") else set()), path
    for path in keys.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert keys.stat().st_mode & 0o077 == 0


def test_a_revocation_is_for_good_and_its_key_does_not_come_back(
    here: Program, project: Project
) -> None:
    """Cut, locked out, said so; let in again with another key only."""
    seed = new_seed()
    add = ("identity", "add", "in.out", "--role", "publisher", "--key")
    assert here(*add, public_key(seed)).status == 0
    first = secret(project, "in.out", seed)

    async def revoke() -> None:
        link = await Raw.open(address(project.state), Credentials.of(first))
        done = await asyncio.to_thread(here, "identity", "revoke", "in.out", "--reason", "left us")
        assert done.status == 0
        await closed(link)
        assert not await connects(project, first)

    asyncio.run(revoke())
    shown = here("identity", "show", "in.out", "--json").json
    assert (shown["state"], shown["reason"], shown["rights"]) == ("revoked", "left us", [])
    again = new_seed()
    assert here(*add, public_key(seed)).status == 2
    assert here(*add, public_key(again)).status == 0
    assert asyncio.run(connects(project, secret(project, "in.out", again)))
    assert not asyncio.run(connects(project, first))


def test_many_at_once_are_all_in_force(tidegate: Shell, here: Program, project: Project) -> None:
    """Commands of several processes wait for each other's changes, and for no longer."""
    names = [f"many.n{number}" for number in range(6)]
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "tidegate", "identity", "add", name, "--role", "publisher"],
            cwd=tidegate.folder,
            env=tidegate.environment,
            stderr=subprocess.PIPE,
        )
        for name in names
    ]
    for name, command in zip(names, commands, strict=True):
        err = command.communicate(timeout=60)[1].decode()
        assert (command.returncode, f"added {name}; in force\n" in err) == (0, True), err
    states = {row["principal"]: row["state"] for row in here("identity", "list", "--json").json}
    assert [states[name] for name in names] == ["active"] * 6
    done = here("identity", "add", "one.more", "--takes", "x", "--takes", "x", "--json")
    assert (done.status, done.json["capabilities"], done.json["in_force"]) == (0, ["x"], True)
    taken = here("identity", "add", "two.more", "--takes", "x")
    assert (taken.status, "x is taken by one.more already" in taken.err) == (2, True)


@contextlib.contextmanager
def policy(project: Project, text: str) -> Generator[None]:
    """Another policy, put in force."""
    path = project.root / "policy" / "more.cedar"
    path.write_text(text)
    _load(project)
    try:
        yield
    finally:
        path.unlink()
        _load(project)


def _load(project: Project) -> None:
    async def load() -> None:
        key = project.state.keyring.path(OPERATOR)
        async with await connect(address(project.state), OPERATOR, key) as operator:
            known = await shelf(LedgerReader(operator))
            sender = await Publisher.start(operator)
            await put_in_force(sender, load_bundle(project.policy), known, reason="test")

    asyncio.run(load())


def test_who_policy_refuses_is_not_let_in(here: Program, project: Project) -> None:
    """Exit status 3 and why; nobody else notices; let in when policy allows and something changes.

    Until then the broker does not know the key.
    """
    seed = new_seed()
    key = ("--key", public_key(seed))
    with policy(project, NO_NEWCOMERS):
        done = here("identity", "add", "no.entry", "--role", "publisher", *key)
        assert (done.status, done.out) == (3, "")
        assert "no.entry is not let in: forbidden (ledger record" in done.err
        assert done.err.count("ledger record") == 1
        data = here("identity", "add", "no.entry-2", "--role", "publisher", "--print", "--json")
        assert (data.status, data.json["state"], data.json["in_force"]) == (3, "refused", False)
        assert data.json["error"]["type"] == "Refused"
        shown = here("identity", "show", "no.entry")
        assert "publisher, refused" in shown.out
        assert "because forbidden" in shown.out
        assert "The broker does not know it." in shown.out
        assert not asyncio.run(connects(project, secret(project, "no.entry", seed)))
        assert asyncio.run(connects(project, project.state.keyring.path(OPERATOR)))
    assert here("identity", "revoke", "no.entry-2").status == 0

    assert here("identity", "show", "no.entry", "--json").json["state"] == "active"
    assert asyncio.run(connects(project, secret(project, "no.entry", seed)))


def test_ctrl_c_while_the_stack_is_busy(tidegate: Shell, here: Program, project: Project) -> None:
    """The command ends at once and says what it did; the stack follows when it can."""
    up = int(tidegate.environment["TIDEGATE_TEST_UP"])
    os.kill(up, signal.SIGSTOP)
    try:
        command = subprocess.Popen(
            [sys.executable, "-m", "tidegate", "identity", "add", "cut.off", "--hears", "x"],
            cwd=tidegate.folder,
            env=tidegate.environment,
            stderr=subprocess.PIPE,
        )
        asyncio.run(until(lambda: "cut.off" in project.state.register.read()))
        asyncio.run(until(lambda: (project.state.folder / "keys" / "cut.off.nk").exists()))
        command.send_signal(signal.SIGINT)
        err = command.communicate(timeout=30)[1].decode()
    finally:
        os.kill(up, signal.SIGCONT)
    assert command.returncode == 130
    assert "Traceback" not in err
    assert here("identity", "rotate", "cut.off").status == 0
    assert here("identity", "show", "cut.off", "--json").json["state"] == "active"
