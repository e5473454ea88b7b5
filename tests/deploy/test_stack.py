"""The local stack: real processes of a real project, supervised."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support import OPERATOR, Raw, until
from support.processes import alive
from tidegate.bus import Bus
from tidegate.cli.init import init
from tidegate.processes import running
from tidegate.project import address, load_project
from tidegate.stack import Stack, locked
from tidegate.testing import running_project
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, InvalidPolicy
from tidegate_schemas.identity import Registration, is_built_in
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import IDENTITY_REGISTER, RUN_FINISHED

from .test_cli import Shell, bytecode


@pytest.fixture(autouse=True)
def _bytecode(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(bytecode(pytestconfig)))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project that `tidegate init` makes."""
    init(tmp_path / "hello")
    return tmp_path / "hello"


def test_nobody_else_may_open_the_lock(project: Path) -> None:
    """Whoever can open a file can lock it, also one who may not write to it."""
    lock = project / ".tidegate" / "lock"
    lock.parent.mkdir()
    lock.touch(0o644)

    file = locked(lock)

    assert lock.stat().st_mode & 0o777 == 0o600
    file.close()


async def _greet(project: Path, name: str) -> dict[str, Any]:
    """Start a run by an event; how it ended."""
    async with (
        await Bus.of_project("outside.website", project) as website,
        await Bus.of_project(str(OPERATOR), project) as operator,
    ):
        event = Envelope.new("greeting.requested", {"name": name}, correlationid=name)
        receipt = await website.publish(event)
        async with asyncio.timeout(60):
            async for record in operator.records(receipt.seq, follow=True):
                message = record.message()
                if record.to == RUN_FINISHED and message and message.correlationid == name:
                    end: dict[str, Any] = message.payload()
                    return end
    raise AssertionError("unreachable")


@pytest.mark.timeout(180)
async def test_a_stack_survives_the_death_of_each_of_its_parts(project: Path) -> None:
    """It starts, works, and after SIGKILL of any process the next run succeeds."""
    lines: list[str] = []
    stack = Stack(load_project(project), on_line=lambda name, line: lines.append(f"{name} {line}"))
    async with stack:
        assert {info.name for info in running(stack.project.state)} == {
            "gateway",
            "notary",
            "coordinator",
            "front-desk.greeter",
            "stack",
        }
        assert (await _greet(project, "nobody"))["output"] == "Hello, nobody!"
        for child in stack.children:
            before = child.pid
            assert before
            os.kill(before, signal.SIGKILL)
            await until(lambda child=child, before=before: child.pid != before)
            assert (await _greet(project, child.name))["output"] == f"Hello, {child.name}!"
            assert child.restarts == 1
        server = stack.server.pid
        os.kill(server, signal.SIGKILL)
        await until(lambda: stack.server.pid != server)
        assert (await _greet(project, "server"))["output"] == "Hello, server!"
        stack.check()
        pids = [child.pid or 0 for child in stack.children] + [stack.server.pid]

    assert any("server ended with status -9; starting it again" in line for line in lines)
    assert not any(alive(pid) for pid in pids)
    assert running(stack.project.state) == []
    assert not stack.project.state.address.exists()


async def test_identities_are_registered_once_and_the_ledger_goes_on(project: Path) -> None:
    """The second start continues the ledger of the first."""
    last = 0
    for _ in (1, 2):
        async with (
            Stack(load_project(project)),
            await Bus.of_project(str(OPERATOR), project) as operator,
        ):
            records = [record async for record in operator.records()]
        assert last in (0, len(records))
        last = len(records)
        registered = [m for r in records if r.to == IDENTITY_REGISTER and (m := r.message())]
        assert [m.payload(Registration).principal for m in registered] == [
            "front-desk.greeter",
            "outside.website",
        ]
    assert [record.seq for record in records] == list(range(1, last + 1))


async def test_a_second_stack_in_the_folder_is_refused_and_harms_nothing(project: Path) -> None:
    """Two brokers never share a store; the first one goes on and can still be found."""
    async with Stack(load_project(project)):
        with pytest.raises(InvalidInput, match=f"a stack runs here already .pid {os.getpid()}."):
            async with Stack(load_project(project)):
                pass
        assert address(load_project(project).state).startswith("nats://127.0.0.1:")
        assert (await _greet(project, "Ada"))["output"] == "Hello, Ada!"


async def test_bad_policy_is_said_before_anything_runs(project: Path) -> None:
    """The file is named, and no process was started."""
    (project / "policy" / "more.cedar").write_text("permit (principal, action);")
    stack = Stack(load_project(project))

    with pytest.raises(InvalidPolicy, match=r"more\.cedar"):
        async with stack:
            pass

    assert not list(stack.project.state.logs.glob("*"))
    assert not stack.project.state.address.exists()


def _forbid_books(project: Path) -> str:
    policy = project / "policy" / "more.cedar"
    policy.write_text(
        '@id("no-books") forbid (principal, action in Action::"control", resource)\n'
        'when { context.to == "blueprint.register" };\n'
    )
    return "coordinator cannot start: forbidden"


def _forbid_agents(project: Path) -> str:
    policy = project / "policy" / "more.cedar"
    policy.write_text(
        '@id("no-agents") forbid (principal, action in Action::"control", resource)\n'
        'when { context.to == "identity.register" };\n'
    )
    return "forbidden"


def _break_agent(project: Path) -> str:
    (project / "greeter.py").write_text("import nowhere\n")
    return "front-desk.greeter cannot start: cannot import greeter"


def _change_agent(project: Path) -> str:
    path = project / "greeter.py"
    path.write_text(path.read_text().replace("greeting.write", "greeting.sing"))
    return "front-desk.greeter cannot start: front-desk.greeter: a handler for task greeting.sing"


@pytest.mark.parametrize("spoil", [_forbid_books, _forbid_agents, _break_agent, _change_agent])
async def test_what_cannot_start_is_said_soon_and_nothing_is_left(
    project: Path, spoil: Any
) -> None:
    """Not after a minute of waiting, and with the reason instead of a hint at logs."""
    expected = spoil(project)
    stack = Stack(load_project(project))
    loop = asyncio.get_running_loop()
    began = loop.time()

    with pytest.raises(Exception, match=expected):
        async with stack:
            pass

    assert loop.time() - began < 30
    assert not any(alive(child.pid) for child in stack.children if child.pid)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", ["static", "operator"])
async def test_every_key_of_the_bus_itself_may_be_rotated_while_it_runs(
    project: Path, pytestconfig: pytest.Config, mode: str
) -> None:
    """Also the one that the ledger is told with, at once; no delivery is lost for a lease."""
    with (project / "tidegate.yaml").open("a") as settings:
        settings.write(f"server: {{ mode: {mode} }}\n")
    shell = Shell(project, bytecode(pytestconfig))
    async with Stack(load_project(project)) as stack:
        for principal, _ in stack.project.principals:
            if is_built_in(str(principal)):
                arguments = ("identity", "rotate", str(principal), "--overlap", "0s")
                done = await asyncio.to_thread(shell, *arguments)
                assert done.status == 0, done.err
                name = f"Ada {principal.name}"
                assert (await _greet(project, name))["output"] == f"Hello, {name}!"


async def test_who_is_not_declared_any_more_can_still_be_revoked(
    project: Path, pytestconfig: pytest.Config
) -> None:
    """Until the next change of an identity it is let in: nobody looks at manifests before that."""
    shell = Shell(project, bytecode(pytestconfig))
    async with Stack(load_project(project)) as stack:
        seed = stack.project.state.keyring.seed(Principal("front-desk", "greeter"))
        (project / "agents" / "greeter.yaml").unlink()
        (project / "blueprints" / "greet-visitor.yaml").unlink()
        await (await Raw.open(stack.server.url, seed)).close()
        done = await asyncio.to_thread(shell, "identity", "revoke", "front-desk.greeter", "--json")
        assert (done.status, done.json["state"]) == (0, "revoked"), done.err
        with pytest.raises(AssertionError, match=r"Authorization Violation|closed the connection"):
            await Raw.open(stack.server.url, seed)


async def test_the_doctor_finds_nothing_wrong_with_revocations_that_were_pushed(
    project: Path, pytestconfig: pytest.Config
) -> None:
    """In operator mode they stand in the file, which the broker has not read since it started."""
    with (project / "tidegate.yaml").open("a") as settings:
        settings.write("server: { mode: operator }\n")
    shell = Shell(project, bytecode(pytestconfig))
    async with Stack(load_project(project)):
        arguments = ("identity", "rotate", str(OPERATOR), "--overlap", "0s")
        done = await asyncio.to_thread(shell, *arguments)
        assert done.status == 0, done.err
        done = await asyncio.to_thread(shell, "doctor")
        assert done.status == 0, done.out


async def test_agents_may_share_their_code(project: Path) -> None:
    """Two principals that run the same handlers are two workers, each as itself."""
    (project / "both.py").write_text(
        "from tidegate import Agent, Context, Envelope\n"
        "agent = Agent()\n"
        '@agent.event("greeting.requested")\n'
        "async def seen(data: object, context: Context) -> None:\n"
        '    await context.publish(Envelope.new("seen"))\n'
    )
    for team in ("north", "south"):
        (project / "agents" / f"{team}.yaml").write_text(
            f'team: {team}\nname: both\nversion: "1"\nowner: me\nrun: both:agent\n'
            "subscribes: [greeting.requested]\n"
        )
    policy = project / "policy" / "more.cedar"
    policy.write_text('@id("seen") permit (principal, action, resource == Topic::"seen");\n')
    async with (
        running_project(project, project.parent / "state") as hello,
        await hello.bus("outside.website") as website,
        await hello.bus() as operator,
    ):
        await website.publish(Envelope.new("greeting.requested", {"name": "Ada"}))
        by: Counter[str] = Counter()
        async with asyncio.timeout(30):
            async for record in operator.records(follow=True):
                by.update([record.by] if record.to == "seen" else [])
                if by.total() == 2:
                    break

    assert by == {"north.both": 1, "south.both": 1}


async def test_nothing_is_left_of_a_stack_that_is_killed(project: Path) -> None:
    """SIGKILL of `tidegate up` ends all that it had started, and the next one starts."""
    state = load_project(project).state
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidegate", "up", cwd=project, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr
    async with asyncio.timeout(60):
        async for line in process.stderr:
            if b"Ctrl-C" in line:
                break
    children = [info.pid for info in running(state)]
    assert len(children) == 7
    broker = _listening(address(state))
    process.kill()
    await process.communicate()
    await until(lambda: not any(alive(pid) for pid in children))
    await until(lambda: not _listening(address(state)))
    assert broker

    assert state.address.exists()  # nobody was there to remove it
    async with Stack(load_project(project)) as stack:
        assert len(running(state)) == 5
        assert len(list(state.processes.iterdir())) == 5
        stack.check()


def _listening(url: str) -> bool:
    """Whether anything takes connections there."""
    host, port = url.removeprefix("nats://").split(":")
    with socket.socket() as link:
        return link.connect_ex((host, int(port))) == 0


async def test_a_stack_may_run_without_some_agents(project: Path) -> None:
    """Who runs elsewhere is not started here but registered; who is nobody gets no connection."""
    async with running_project(project, project.parent / "state", agents=()) as hello:
        assert [child.name for child in hello.stack.children] == [
            "coordinator",
            "gateway",
            "notary",
        ]
        async with await hello.bus() as operator:
            records = [record async for record in operator.records()]
        with pytest.raises(InvalidInput, match=r"no principal outside\.nobody .*identity add"):
            await hello.bus("outside.nobody")
        with pytest.raises(InvalidInput, match=r"write it as team\.name"):
            await hello.bus("nobody")

    assert IDENTITY_REGISTER in [record.to for record in records]
