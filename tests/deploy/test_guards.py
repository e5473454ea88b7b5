"""What watches over a running stack: attempts are visible, floods are cut, a bypass is an alarm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from support import OPERATOR, Raw, until
from tidegate.bus import Bus
from tidegate.cli.init import init
from tidegate.processes import running
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_bus.broker.generated import read_generated
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import BYPASSED, PROBED

from .test_cli import Shell, bytecode

WEBSITE = Principal("outside", "website")


class Watched:
    """A stack that probes every second and allows four connections an identity."""

    def __init__(self, stack: Stack, lines: list[str]) -> None:
        self.stack = stack
        self.lines = lines

    @property
    def folder(self) -> Path:
        """Of the project."""
        return self.stack.project.root

    async def metrics(self) -> str:
        """Of the process of the stack."""
        (port,) = [i.telemetry for i in running(self.stack.project.state) if i.name == "stack"]
        url = f"http://127.0.0.1:{port}/metrics"
        return await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())

    async def raw(self, who: Principal = WEBSITE) -> Raw:
        """A connection on which anything may be written."""
        keyring = self.stack.project.state.keyring
        return await Raw.open(self.stack.server.url, keyring.seed(who))

    async def records(self, to: str) -> list[Record]:
        """The records of one destination."""
        async with await Bus.of_project(str(OPERATOR), self.folder) as bus:
            return [record async for record in bus.records() if record.to == to]


@pytest.fixture
async def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> AsyncGenerator[Watched]:
    """A running stack."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(bytecode(pytestconfig)))
    folder = tmp_path / "hello"
    init(folder)
    with (folder / "tidegate.yaml").open("a") as settings:
        settings.write("server: { probe: 1s, connections: 4 }\n")
    lines: list[str] = []
    async with Stack(load_project(folder), on_line=lambda n, t: lines.append(f"{n} {t}")) as stack:
        yield Watched(stack, lines)


async def test_the_probe_tries_and_is_refused(watched: Watched) -> None:
    """Each round is a record, which a new project permits; nothing is said, no alarm is raised."""
    probed: list[Record] = []

    async def twice() -> bool:
        probed[:] = await watched.records(PROBED)
        return len(probed) >= 2

    await until(twice)
    metrics = await watched.metrics()

    assert {(r.by, r.verdict, r.why.policies) for r in probed} == {
        ("tidegate.probe", "allow", ("probe-reports",))
    }
    assert "tidegate_bypass 0.0" in metrics
    assert 'tidegate_probe_attempts_total{attempt="submit-as-other",outcome="refused"}' in metrics
    assert not [line for line in watched.lines if line.startswith("broker ")]


async def test_what_the_broker_refuses_is_told_and_counted(watched: Watched) -> None:
    """By the principal that proved its key, whatever name it gives itself."""
    raw = await watched.raw()
    await raw.publish("ledger.0.allow.task.greeting.write", b"{}")
    await raw.say(b"SUB > 1")
    await until(lambda: sum("refused: " in line for line in watched.lines) == 2)
    await raw.close()
    metrics = await watched.metrics()

    told = [json.loads(line.removeprefix("broker ")) for line in watched.lines if "refused" in line]
    assert {(t["event"], t["principal"], t["subject"]) for t in told} == {
        ("refused: publish", str(WEBSITE), "ledger.0.allow.task.greeting.write"),
        ("refused: subscribe", str(WEBSITE), ">"),
    }
    assert 'tidegate_broker_incidents_total{kind="publish",principal="outside.website"}' in metrics


async def test_one_identity_cannot_take_all_connections(watched: Watched) -> None:
    """The newest above its share are cut; others connect and work meanwhile."""
    opened = [await watched.raw() for _ in range(12)]

    async def cut() -> bool:
        return (await _alive(opened)) == 4

    await until(cut)
    async with await Bus.of_project(str(OPERATOR), watched.folder) as operator:
        assert [record async for record in operator.records()]
    assert (
        'tidegate_broker_kicked_total{principal="outside.website"} 8.0' in await watched.metrics()
    )
    for raw in opened:
        with contextlib.suppress(OSError):  # the broker has closed it
            await raw.close()


async def _alive(opened: list[Raw]) -> int:
    answers = await asyncio.gather(*(raw.say() for raw in opened), return_exceptions=True)
    return sum(not isinstance(answer, BaseException) for answer in answers)


def _widen(document: dict[str, Any]) -> None:
    for account in document["accounts"].values():
        for user in account["users"]:
            user["permissions"]["subscribe"]["allow"].append(">")


async def test_a_bypass_is_an_alarm_a_record_and_a_finding_of_the_doctor(
    watched: Watched, pytestconfig: pytest.Config
) -> None:
    """Somebody widens the broker's rights by hand; the probe gets through, and says so."""
    path = watched.stack.project.state.server_configuration
    document = json.loads(read_generated(path)[0])
    _widen(document)
    path.write_text(json.dumps(document))
    os.kill(watched.stack.server.pid, signal.SIGHUP)

    async def alarmed() -> bool:
        return "tidegate_bypass 1.0" in await watched.metrics()

    await until(alarmed)
    (first, *_) = await watched.records(BYPASSED)
    doctor = await asyncio.to_thread(
        Shell(watched.folder, bytecode(pytestconfig)), "doctor", "--probe", "--json"
    )

    message = first.message()
    assert (first.by, message and "hear-everything" in str(message.payload())) == (
        "tidegate.probe",
        True,
    )
    assert any("the gateway can be bypassed" in line for line in watched.lines)
    failed = {f["check"]: f["detail"] for f in doctor.json if f["status"] == "failed"}
    assert doctor.status == 1
    assert set(failed) == {"access", "probe"}
    assert "was changed by hand" in failed["access"]
    assert "lets outside.website subscribe on >" in failed["access"]
    assert "hear-everything" in failed["probe"]


async def test_drift_ends_with_the_next_change(
    watched: Watched, pytestconfig: pytest.Config
) -> None:
    """The file is written anew; what somebody wrote into it is never loaded by the stack."""
    path = watched.stack.project.state.server_configuration
    document = json.loads(read_generated(path)[0])
    _widen(document)
    path.write_text(json.dumps(document))
    shell = Shell(watched.folder, bytecode(pytestconfig))

    before = await asyncio.to_thread(shell, "doctor")
    added = await asyncio.to_thread(shell, "identity", "add", "a.b", "--role", "publisher")
    after = await asyncio.to_thread(shell, "doctor")
    raw = await watched.raw()
    answers = await raw.say(b"SUB > 1")
    await raw.close()

    assert (before.status, added.status, after.status) == (1, 0, 0)
    assert any(b"Permissions Violation" in line for line in answers)
