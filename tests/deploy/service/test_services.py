"""The command lines of the units, run as a service manager would run them.

No systemd runs where tests do, so that its part is played here: it starts what the units name, in
their order, and again what was killed. It hears who is ready on a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deploy.test_cli import bytecode
from support import OPERATOR, until
from support.processes import alive
from tidegate.bus import Bus
from tidegate.notify import SOCKET
from tidegate.project import Project, address
from tidegate.service import Manager, units
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.vocabulary import RUN_FINISHED

FIRST = ("broker", "gateway")


class Services:
    """The services of a project, and who runs them."""

    def __init__(self, project: Project, environment: dict[str, str]) -> None:
        self._commands = {
            name.removeprefix("tidegate-hello-").removesuffix(".service"): _command(text)
            for name, text in units(project, Manager(None)).items()
            if name.endswith(".service")
        }
        self._folder = project.root
        self._environment = environment
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(project.root / "notify"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def others(self) -> list[str]:
        """Those that wait for the broker."""
        return [name for name in self._commands if name not in FIRST]

    def start(self, *names: str) -> None:
        """Begin to run services."""
        for name in names:
            with (self._folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    self._commands[name],
                    cwd=self._folder,
                    env={**self._environment, SOCKET: str(self._folder / "notify")},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    async def until_ready(self, count: int) -> None:
        """Wait until so many have said that they are ready. Who ends with 1 is started again."""
        for _ in range(count):
            async with asyncio.timeout(30):
                while not self._said():
                    self._again()
                    await asyncio.sleep(0.02)

    def _said(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            assert self._socket.recv(64) == b"READY=1"
            return True
        return False

    def _again(self) -> None:
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                log = (self._folder / f"{name}.log").read_text()
                assert process.returncode == 1, (name, log)
                self.start(name)

    def stop(self) -> dict[str, int]:
        """Stop all of them, the first ones last; their exit status."""
        for names in (self.others, FIRST):
            for name in names:
                if name in self.processes:
                    self.processes[name].terminate()
            for name in names:
                if name in self.processes:
                    self.processes[name].wait(30)
        self._socket.close()
        return {name: process.returncode for name, process in self.processes.items()}


def _command(unit: str) -> list[str]:
    (line,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart="))


@pytest.fixture
async def services(project: Project, pytestconfig: pytest.Config) -> AsyncGenerator[Services]:
    """All of them run."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode(pytestconfig))
    services = Services(project, environment)
    try:
        services.start(*FIRST)
        await services.until_ready(len(FIRST))
        services.start(*services.others)
        await services.until_ready(len(services.others))
        yield services
    finally:
        services.stop()


async def _greet(project: Project, name: str) -> None:
    """Start a run by an event; returns when it has ended well."""
    async with await Bus.of_project(str(OPERATOR), project.root) as bus:
        event = Envelope.new("greeting.requested", {"name": name}, correlationid=name)
        receipt = await bus.publish(event)
        async with asyncio.timeout(30):
            async for record in bus.records(receipt.seq, follow=True):
                message = record.message()
                if record.to == RUN_FINISHED and message and message.correlationid == name:
                    assert message.payload()["status"] == "succeeded"
                    return


async def test_the_bus_goes_on_after_the_death_of_each_service(
    services: Services, project: Project
) -> None:
    """Each is killed and started again by itself: all others stay as they are.

    Also the broker: it comes back where it was, so that whoever is connected finds it.
    """
    where = address(project.state)
    await _greet(project, "Ada")

    for name in list(services.processes):
        before = {n: p.pid for n, p in services.processes.items() if n != name}
        services.processes[name].kill()
        services.processes[name].wait()
        services.start(name)
        await services.until_ready(1)
        await _greet(project, f"after-{name}")
        assert before == {n: p.pid for n, p in services.processes.items() if n != name}
        assert all(alive(pid) for pid in before.values())

    assert where == address(project.state)
    assert set(services.stop().values()) == {0}


async def test_a_service_that_comes_before_the_broker_tries_again(
    project: Project, tmp_path: Path
) -> None:
    """Status 1: only status 2 would say that it does not help to start it again."""
    services = Services(project, dict(os.environ))
    services.start("gateway", "coordinator")
    await until(lambda: all(p.poll() is not None for p in services.processes.values()))

    assert services.stop() == {"gateway": 1, "coordinator": 1}
