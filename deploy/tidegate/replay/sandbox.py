"""A broker of the moment, with agents of a project at it, and no way back.

A process, a store and keys of its own: nobody in it knows an address or has a key of the bus whose
messages are delivered again, and its broker knows of no other. Nor do handlers get to the bus of
the project whose folder they run in, see `Bus.of_project`. What they do to the world outside of
the bus is theirs: they find `TIDEGATE_SANDBOX=1` in their environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.child import Child, OnLine
from tidegate.processes import running
from tidegate.project import SANDBOX, Project, State
from tidegate_bus.broker.accounts import REGISTRAR, Identity, configuration
from tidegate_bus.broker.server import Server
from tidegate_bus.broker.topology import Limits, Subscription, converge, streams
from tidegate_bus.connection import Connection, connect
from tidegate_schemas import subjects
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.identity import Role
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.vocabulary import GATEWAY

ENVIRONMENT = {SANDBOX: "1"}

_STORE_BYTES = 2**40
"""More than there will be: a full disk is found out when it is full."""
_LIMITS = Limits(ledger_bytes=2**39, ingress_bytes=2**38, backlog=1_000_000)
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.02
_GRACE_SECONDS = 2.0


@dataclass(slots=True)
class Sandbox:
    """Make one with `sandbox`.

    Attributes:
        gateway: a connection in the gateway's place.
        server: the broker.
        workers: the processes of the agents.
    """

    gateway: Connection
    server: Server
    workers: tuple[Child, ...]
    _registrar: Connection
    _agents: tuple[Manifest, ...]

    async def unsettled(self) -> int:
        """How many deliveries are not handled to their end.

        Raises:
            Unavailable: the broker does not answer.
        """
        count = 0
        for manifest in self._agents:
            name = subjects.consumer(manifest.principal)
            info = await self._registrar.api(
                subjects.consumer_info(subjects.ledger_stream(0), name)
            )
            count += info["num_pending"] + info["num_ack_pending"]
        return count

    def check(self) -> None:
        """Raise if an agent cannot start any more.

        Raises:
            InvalidInput, Unavailable: says which, and why.
        """
        for worker in self.workers:
            worker.check()


@contextlib.asynccontextmanager
async def sandbox(
    project: Project, state: State, agents: Sequence[Manifest], first: int, on_line: OnLine
) -> AsyncGenerator[Sandbox]:
    """Run one; everything in it has ended when this does.

    Args:
        project: whose code the agents are.
        state: of the sandbox; an empty folder.
        agents: who runs in it, one worker each.
        first: sequence of the first message in its ledger.
        on_line: called with each process's name and log lines.

    Raises:
        InvalidInput: an agent cannot start with what it is given.
        Unavailable: something does not start; says what.
    """
    async with contextlib.AsyncExitStack() as stack:
        roles = {GATEWAY: Role.GATEWAY, REGISTRAR: Role.REGISTRAR}
        roles |= {manifest.principal: Role.AGENT for manifest in agents}
        identities = [Identity(p, role, state.keyring.ensure(p)) for p, role in roles.items()]
        state.server_configuration.write_text(
            configuration(identities, store=state.store, store_bytes=_STORE_BYTES), "utf-8"
        )
        server = await stack.enter_async_context(
            await Server.start(state.server_configuration, state.server_log)
        )
        state.address.write_text(f"{server.url}\n", "ascii")
        gateway, registrar = [
            await stack.enter_async_context(await connect(server.url, p, state.keyring.path(p)))
            for p in (GATEWAY, REGISTRAR)
        ]
        for config in streams(_LIMITS):
            await registrar.api(
                f"$JS.API.STREAM.CREATE.{config['name']}", _beginning(config, first)
            )
        await converge(registrar, _LIMITS, map(_subscription, agents))
        workers = tuple(_worker(project, state, manifest, on_line) for manifest in agents)
        stack.push_async_callback(_stop, workers)
        for worker in workers:
            worker.start()
        made = Sandbox(gateway, server, workers, registrar, tuple(agents))
        await _until_ready(made, state)
        yield made


def _beginning(config: dict[str, Any], first: int) -> dict[str, Any]:
    """A record bears the sequence under which it is stored, here too."""
    ledger = config["name"] == subjects.ledger_stream(0)
    return {**config, "first_seq": first} if ledger else config


def _subscription(manifest: Manifest) -> Subscription:
    return Subscription(
        manifest.principal, manifest.capabilities, manifest.subscribes, manifest.lease
    )


def _worker(project: Project, state: State, manifest: Manifest, on_line: OnLine) -> Child:
    name = str(manifest.principal)
    where = ("--project", str(project.root), "--state", str(state.folder))
    command = [sys.executable, "-m", "tidegate", "agent", "run", name, *where]
    log = state.logs / f"{name}.log"
    return Child(name, command, project.root, log, on_line, ENVIRONMENT)


async def _until_ready(made: Sandbox, state: State) -> None:
    missing = {worker.name for worker in made.workers}
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while missing:
                made.check()
                missing -= {info.name for info in running(state)}
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise Unavailable(
            f"{', '.join(sorted(missing))}: not ready after {_READY_SECONDS:g} s; "
            f"logs in {state.logs}"
        ) from None


async def _stop(workers: Sequence[Child]) -> None:
    """Nothing that they are working on is worth waiting for."""
    await asyncio.gather(*(worker.stop(_GRACE_SECONDS) for worker in workers))
