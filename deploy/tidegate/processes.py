"""The processes of a stack, each the main function of an operating-system process.

They share one shape: connect as a principal, say when ready, work until SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tidegate_bus.accounts import GATEWAY
from tidegate_bus.connection import Connection, connect
from tidegate_bus.telemetry import Health, TelemetryServer, configure_logging
from tidegate_schemas.errors import InvalidInput, TidegateError, first_error
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import COORDINATOR

from .project import Project, State, check_blueprints

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.process")

CANNOT_START = 2
"""Exit status of a process whose input is wrong: starting it again does not help."""


class ProcessInfo(msgspec.Struct, frozen=True):
    """What a process writes down once it is ready."""

    name: str
    pid: int
    telemetry: int
    """Port on loopback of `/metrics` and `/healthz`."""


def run_process(main: Coroutine[Any, Any, None], name: str) -> int:
    """Run a process to its end; the exit status.

    0 after a signal, 2 when its input is wrong, 1 after any other error, which is logged.
    """
    configure_logging(name)
    try:
        _run(main)
    except (TidegateError, BaseExceptionGroup) as error:
        first = first_error(error)
        if isinstance(first, InvalidInput):
            _log.error("cannot start", error=str(first))
            return CANNOT_START
        if isinstance(first, TidegateError):
            _log.error("stopped", error=str(first))
            return 1
        raise
    return 0


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # not on this platform
        asyncio.run(main)
    else:
        uvloop.run(main)


async def gateway(project: Project) -> None:
    """The process of the gateway.

    Raises:
        InvalidPolicy: the bundle does not load; nothing is admitted.
    """
    from tidegate_policy.bundle import load_bundle
    from tidegate_policy.decide import Limits
    from tidegate_policy.gateway import Gateway, GatewaySettings

    bundle = load_bundle(project.state.bundle)
    configured = project.settings.gateway
    settings = GatewaySettings(
        log=f"{project.settings.project}/0",
        limits=Limits(configured.envelope_bytes),
        dedupe_window=configured.dedupe_window,
        dedupe_entries=configured.dedupe_entries,
    )
    async with _process(project.state, "gateway", GATEWAY) as (connection, health, ready):
        gateway = Gateway(connection, bundle, settings, health)
        await _until_signal(gateway.run(), _after(gateway.ready(), ready))


async def coordinator(project: Project) -> None:
    """The process of the coordinator."""
    from tidegate_agents.coordinator import Coordinator

    check_blueprints(project)
    async with _process(project.state, "coordinator", COORDINATOR) as (connection, health, ready):
        blueprints = [blueprint for _, blueprint in project.blueprints]
        coordinator = Coordinator(connection, blueprints, health)
        await _until_signal(coordinator.run(), _after(coordinator.ready(), ready))


async def worker(project: Project, reference: str) -> None:
    """The process of a worker.

    Args:
        project: where the manifest is.
        reference: `module:attribute` of the agent, as its manifest names it.

    Raises:
        InvalidInput: no such agent, or it does not match its manifest.
    """
    from tidegate_agents.agent import load_agent
    from tidegate_agents.worker import Worker

    found = [m for m in project.manifests if m.run == reference]
    if not found:
        known = ", ".join(sorted(m.run for m in project.manifests)) or "none"
        raise InvalidInput(
            f"no manifest in {project.root / 'agents'} runs {reference}; known: {known}"
        )
    manifest = found[0]
    agent = load_agent(reference)
    name = str(manifest.principal)
    async with _process(project.state, name, manifest.principal) as (connection, health, ready):
        worker = Worker(connection, agent, manifest, health)
        await _until_signal(worker.run(), _after(worker.ready(), ready), drain=worker.stop)


@contextlib.asynccontextmanager
async def _process(
    state: State, name: str, principal: Principal
) -> AsyncGenerator[tuple[Connection, Health, Any]]:
    """Connection, health and what to call when ready, of one process."""
    health = Health()
    info = state.processes / f"{name}.{os.getpid()}.json"
    telemetry = TelemetryServer(health)
    try:
        async with await connect(address(state), principal, state.keyring.seed(principal)) as link:

            def ready() -> None:
                state.processes.mkdir(parents=True, exist_ok=True)
                part = info.with_suffix(".part")
                part.write_bytes(
                    msgspec.json.encode(ProcessInfo(name, os.getpid(), telemetry.port))
                )
                part.rename(info)

            yield link, health, ready
    finally:
        info.unlink(missing_ok=True)
        telemetry.close()


async def _after(event: Coroutine[Any, Any, None], call: Any) -> None:
    await event
    call()


async def _until_signal(
    work: Coroutine[Any, Any, None],
    beside: Coroutine[Any, Any, None],
    drain: Any = None,
) -> None:
    """Work until it ends, or until a signal: then `drain` and wait, or cancel.

    A second signal cancels at once.
    """
    loop = asyncio.get_running_loop()
    main = asyncio.create_task(work)
    side = asyncio.create_task(beside)

    def on_signal() -> None:
        nonlocal drain
        if drain is None:
            main.cancel()
        else:
            drain()
            drain = None

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await main
    except asyncio.CancelledError:
        pass
    finally:
        side.cancel()


def address(state: State) -> str:
    """Where the broker of a running stack listens.

    Raises:
        InvalidInput: no stack is running here.
    """
    try:
        return state.address.read_text("ascii").strip()
    except OSError:
        raise InvalidInput(
            f"no stack runs in {state.folder.parent}; start one with `tidegate up`"
        ) from None


def running(state: State) -> list[ProcessInfo]:
    """The processes that said they are ready and are still there."""
    found: list[ProcessInfo] = []
    for path in sorted(state.processes.glob("*.json")):
        info = msgspec.json.decode(Path(path).read_bytes(), type=ProcessInfo)
        if _alive(info.pid):
            found.append(info)
    return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
