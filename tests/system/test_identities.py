"""Identities come, change their keys and go while the bus is at work."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deploy.test_cli import Shell, bytecode
from support import Raw, until
from tidegate.bench import PROJECT
from tidegate.bus import Bus
from tidegate.project import address, load_project
from tidegate_bus.connection import Connection
from tidegate_bus.identity.credentials import Credentials
from tidegate_policy.invariants import Checker
from tidegate_schemas import Envelope, Verdict
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.identity import Registration, Revocation
from tidegate_schemas.vocabulary import (
    IDENTITY_REGISTER,
    IDENTITY_REVOKE,
    OPERATOR,
    RUN_FINISHED,
)

LATE = "bench.late"
REFUSED = "Authorization Violation|closed the connection"
MANIFEST = """
team: bench
name: late
version: "1"
owner: bench@tidegate.invalid
run: late:agent
subscribes: [bench.event]
"""
HANDLER = """
from pathlib import Path
from typing import Any

from tidegate import Agent

agent = Agent()

@agent.event("bench.event")
async def hear(data: Any) -> None:
    with Path("heard").open("a") as file:
        file.write(f"{data}\\n")
"""


class Load:
    """Runs that others start all the while."""

    def __init__(self, bus: Bus, rate: int) -> None:
        self._bus = bus
        self._rate = rate
        self.started: list[str] = []
        self.verdicts: Counter[Verdict] = Counter()

    @property
    def connection(self) -> Connection:
        """Of the one who starts them."""
        return self._bus._connection  # pyright: ignore[reportPrivateUsage]

    async def _one(self, envelope: Envelope) -> None:
        receipt = await self._bus.publish(envelope, timeout=60)
        self.verdicts[receipt.verdict] += 1

    async def flow(self, stop: asyncio.Event) -> None:
        """Start runs, so many a second, until told to stop."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                while len(self.started) < (loop.time() - began) * self._rate:
                    envelope = Envelope.new("bench.started", {"payload": "x" * 200})
                    self.started.append(envelope.id)
                    tasks.create_task(self._one(envelope))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await stop.wait()


@contextlib.asynccontextmanager
async def running(shell: Shell, log: Path) -> AsyncGenerator[None]:
    """The stack of the project, as a process of its own."""
    process = await asyncio.to_thread(shell.up, log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        status = await asyncio.to_thread(process.wait, 60)
        assert status == 0


async def _cut(raw: Raw) -> int:
    """When the broker closes a connection, ns since 1970."""
    with contextlib.suppress(AssertionError, OSError):
        while True:
            await raw.say()
            await asyncio.sleep(0.005)
    at = time.time_ns()
    with contextlib.suppress(OSError):
        await raw.close()
    return at


async def _done(shell: Shell, *arguments: str) -> None:
    done = await asyncio.to_thread(shell, *arguments)
    assert done.status == 0, done.err


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("mode", "rate"), [("static", 250), ("operator", 50)])
async def test_identities_come_change_and_go_while_others_work(
    tmp_path: Path, pytestconfig: pytest.Config, mode: str, rate: int
) -> None:
    """During a flow of 1,000 messages a second nobody else reconnects or loses a message.

    Each run is four of them: event, task, result and end. In operator mode, where nobody reads a
    configuration again, it is a flow of 200.

    An agent that is added hears what is published from then on, goes on with its new key after a
    rotation, and is cut within 2 s of its revocation, for good.
    """
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder)
    (folder / "late.py").write_text(HANDLER)
    settings = (folder / "tidegate.yaml").read_text()
    (folder / "tidegate.yaml").write_text(settings.replace("backlog:", f"mode: {mode}, backlog:"))
    shell, log = Shell(folder, bytecode(pytestconfig)), tmp_path / "up.log"
    project = load_project(folder)
    heard = folder / "heard"

    def lines() -> int:
        return len(heard.read_text().splitlines()) if heard.exists() else 0

    async with running(shell, log):
        stop = asyncio.Event()
        async with (
            await Bus.of_project("bench.load", folder, window=2000) as bus,
            await Bus.of_project(str(OPERATOR), folder) as operator,
            asyncio.TaskGroup() as tasks,
        ):
            load = Load(bus, rate)
            flow = tasks.create_task(load.flow(stop))
            await until(lambda: load.verdicts[Verdict.ALLOW] > rate)

            (folder / "agents" / "late.yaml").write_text(MANIFEST)
            await _done(shell, "identity", "add", LATE)
            await bus.publish(Envelope.new("bench.event", "once added"))
            await until(lambda: lines() == 1)

            who = load_project(folder).manifests[-1].principal
            first = Credentials.of(project.state.keyring.path(who))
            await _done(shell, "identity", "rotate", LATE, "--overlap", "0s")
            await bus.publish(Envelope.new("bench.event", "once rotated"))
            await until(lambda: lines() == 2)
            with pytest.raises(AssertionError, match=REFUSED):
                await Raw.open(address(project.state), first)

            second = Credentials.of(project.state.keyring.path(who))
            cut = asyncio.create_task(_cut(await Raw.open(address(project.state), second)))
            await _done(shell, "identity", "revoke", LATE, "--reason", "left")
            revoked = project.state.register.read()[LATE].revoked
            assert revoked
            assert 0 < await cut - parse_rfc3339(revoked) < 2e9
            with pytest.raises(AssertionError, match=REFUSED):
                await Raw.open(address(project.state), second)
            await bus.publish(Envelope.new("bench.event", "once revoked"))

            stop.set()
            await flow
            assert load.verdicts == {Verdict.ALLOW: len(load.started)}
            assert load.connection.nats.stats["reconnects"] == 0

            checker, ended, said = Checker(), Counter[str](), list[str]()
            async with asyncio.timeout(60):
                async for stored in operator.ledger.read(follow=True):
                    record = checker.add(stored)
                    message = record.message() if record else None
                    if record and record.verdict is Verdict.DUPLICATE:
                        continue  # in operator mode a push may make the broker repeat a publish
                    if record and message and record.to == RUN_FINISHED:
                        ended[f"{message.correlationid} {message.payload()['status']}"] += 1
                    if record and message and record.to == IDENTITY_REGISTER:
                        said.append(f"+{message.payload(Registration).principal}")
                    if record and message and record.to == IDENTITY_REVOKE:
                        revocation = message.payload(Revocation)
                        said.append(f"-{revocation.principal} {revocation.reason}")
                    if len(ended) == len(load.started) and not checker.open_tasks:
                        break
            assert checker.finish(quiet=False) == []
            assert ended == {f"{name} succeeded": 1 for name in load.started}
            assert said[2:] == [f"+{LATE}", f"+{LATE}", f"-{LATE} left"]
            assert lines() == 2

    others = [
        line
        for line in log.read_text().splitlines()
        if ("disconnected" in line or "reconnected" in line or "ended with status" in line)
        and not line.startswith(LATE)
    ]
    assert others == []
    print(f"{4 * len(load.started)} messages")
