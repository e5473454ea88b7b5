"""Projects whose steps are governed, and what the tests do with their stacks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import textwrap
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import until
from tidegate.bus import Bus
from tidegate.child import Child
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_policy.invariants import Checker
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import OPERATOR, RUN_FINISHED

PEOPLE = ("ops.ann", "ops.bob", "ops.cy")
CLIENT = "outside.client"
ELSE = """
@id("rest") permit (principal, action, resource)
unless { context.to like "pay.*" || context.to like "work.*" };
@id("answers") permit (principal, action in Action::"result", resource);
"""
"""What the tests do not limit is permitted."""


def write_project(
    root: Path, *, policy: str, code: str, capabilities: list[str], blueprints: dict[str, str]
) -> Path:
    """A project with one agent, `pay.worker`, whose handlers are in `code`."""
    files = {
        "tidegate.yaml": f"project: governed\npublishers: [{', '.join((CLIENT, *PEOPLE))}]\n",
        "policy/main.cedar": ELSE + policy,
        "governed_handlers.py": code,
        "agents/worker.yaml": f"""\
            team: pay
            name: worker
            version: "1"
            owner: pay@tidegate.invalid
            run: governed_handlers:agent
            capabilities: [{", ".join(capabilities)}]
            concurrency: 32
            lease: 2s
            drain: 1s
            retry: {{ attempts: 1 }}
            """,
        **{f"blueprints/{name}.yaml": text for name, text in blueprints.items()},
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), "utf-8")
    return root


@dataclass
class Governed:
    """A running stack, and everybody who takes part."""

    stack: Stack
    buses: dict[str, Bus]

    @property
    def gateway(self) -> Child:
        """Its process."""
        return self._child("gateway")

    @property
    def coordinator(self) -> Child:
        """Its process."""
        return self._child("coordinator")

    def _child(self, name: str) -> Child:
        return next(child for child in self.stack.children if child.name == name)

    async def records(self) -> list[Record]:
        """The ledger."""
        return [made async for made in self.buses[str(OPERATOR)].records()]

    async def begin(self, topic: str, data: Any, *, by: str = CLIENT, **more: Any) -> str:
        """Start a run by an event; its correlation."""
        envelope = Envelope.new(topic, data, **more)
        await self.buses[by].publish(envelope, timeout=120)
        return envelope.id

    async def of(self, correlation: str, kind: Kind, to: str) -> list[Record]:
        """The records of a run to some destination, but no duplicates."""
        return [
            made
            for made in await self.records()
            if (made.kind, made.to) == (kind, to)
            and made.verdict is not Verdict.DUPLICATE
            and (message := made.message())
            and message.correlationid == correlation
        ]

    async def held(self, correlation: str, to: str) -> Record:
        """The record that holds a run's task, once there is one."""
        found: list[Record] = []

        async def there() -> bool:
            found[:] = await self.of(correlation, Kind.TASK, to)
            return bool(found)

        await until(there, seconds=60)
        assert found[0].verdict is Verdict.HOLD, found[0].why
        return found[0]

    async def ended(self, correlation: str, *, seconds: float = 60) -> dict[str, Any]:
        """How a run ended, once it did."""
        found: list[Record] = []

        async def there() -> bool:
            found[:] = await self.of(correlation, Kind.EVENT, RUN_FINISHED)
            return bool(found)

        await until(there, seconds=seconds)
        (made,) = found
        message = made.message()
        assert message
        data: dict[str, Any] = message.payload()
        return data

    async def finish(self) -> list[Record]:
        """The ledger, found to be good by an outsider, once every submission has its record."""
        records: list[Record] = []

        async def settled() -> bool:
            checker = Checker()
            records.clear()
            async for stored in self.buses[str(OPERATOR)].ledger.read():
                made = checker.add(stored)
                assert made
                records.append(made)
            last = await self._submitted()
            if checker.last_ingress != last:
                return False
            assert checker.finish(ingress_last=last, quiet=False) == []
            return True

        await until(settled, seconds=60)
        return records

    async def _submitted(self) -> int:
        async with await self.stack.connect(REGISTRAR) as connection:
            return (await connection.stream_state(subjects.ingress_stream(0))).last_seq


async def kill(*children: Child) -> None:
    """SIGKILL them, and wait until others are there instead."""
    before = [child.pid for child in children]
    for pid in before:
        assert pid
        os.kill(pid, signal.SIGKILL)
    for child, pid in zip(children, before, strict=True):
        await until(lambda child=child, pid=pid: child.pid not in (None, pid), seconds=60)


@contextlib.asynccontextmanager
async def governed(project: Path, state: Path) -> AsyncGenerator[Governed]:
    """Run a project for the length of a test."""
    async with Stack(load_project(project, state)) as stack, contextlib.AsyncExitStack() as opened:
        names = (CLIENT, *PEOPLE, str(OPERATOR))
        buses = await asyncio.gather(*(Bus.of_project(n, project, state) for n in names))
        for bus in buses:
            await opened.enter_async_context(bus)
        yield Governed(stack, dict(zip(names, buses, strict=True)))
