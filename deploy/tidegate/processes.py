"""The processes of a stack, each the main function of an operating-system process.

They share one shape: connect as a principal, say when ready, work until SIGTERM or SIGINT. `up`
starts them all; a service manager starts each by itself, `broker` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import structlog

from tidegate_bus.broker.accounts import NOTARY
from tidegate_bus.broker.lifeline import share_evenly
from tidegate_bus.connection import Connection, connect
from tidegate_bus.telemetry import Health, TelemetryServer, configure_logging
from tidegate_schemas.errors import (
    InvalidInput,
    NoStack,
    Refused,
    TidegateError,
    VerificationError,
    first_error,
)
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import COORDINATOR, GATEWAY

from .notify import say_ready
from .project import Project, State, address, check_blueprints, client_tls

if TYPE_CHECKING:
    from tidegate_schemas.manifest import Manifest

    from .source.feed import Source
    from .source.pump import Outcome

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.process")

CANNOT_START = 2
"""Exit status of a process whose input is wrong: starting it again does not help."""
DAMAGED = 5
"""Of one that met another ledger than the one that was signed: neither does it then."""
_CHECK_SECONDS = 0.5


class ProcessInfo(msgspec.Struct, frozen=True):
    """What a process writes down once it is ready."""

    name: str
    pid: int
    telemetry: int
    """Port on loopback of `/metrics` and `/healthz`."""

    @property
    def file(self) -> str:
        """Name of the file. Not by the pid: in containers many processes have the same."""
        return f"{self.name}.{self.telemetry}.json"


def run_process(main: Coroutine[Any, Any, None], name: str) -> int:
    """Run a process to its end; the exit status.

    0 after a signal, 2 when its input is wrong or policy does not let it begin, 5 when the ledger
    is not the one that was signed, 1 after any other error, which is logged: also when there is no
    broker yet, which somebody may be starting.
    """
    configure_logging(name)
    try:
        _run(main)
    except (TidegateError, OSError, BaseExceptionGroup) as error:
        first = first_error(error)
        if isinstance(first, InvalidInput | Refused) and not isinstance(first, NoStack):
            _log.error("cannot start", error=str(first))
            return CANNOT_START
        if isinstance(first, VerificationError):
            _log.error("will not go on", error=str(first))
            return DAMAGED
        if isinstance(first, TidegateError | OSError):
            _log.error("stopped", error=str(first))
            return 1
        raise
    return 0


def _run(main: Coroutine[Any, Any, None]) -> None:
    share_evenly()
    try:
        import uvloop
    except ImportError:  # not on this platform
        asyncio.run(main)
    else:
        uvloop.run(main)


async def broker(project: Project) -> None:
    """The process of the broker, where others start the gateway and all that comes after it."""
    from .stack import Stack

    async def keep() -> None:
        async with Stack(project, on_line=_log_line, apart=True) as stack:
            while True:
                stack.check()
                await asyncio.sleep(_CHECK_SECONDS)

    await _until_signal(keep(), asyncio.sleep(0))


def _log_line(name: str, line: str) -> None:
    """Log what a part of the stack says: words, or an object as JSON."""
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        entry = {"level": "warning", "event": line}
    level, event = str(entry.pop("level", "info")), str(entry.pop("event", ""))
    _log.log(logging.getLevelNamesMapping()[level.upper()], event, part=name, **entry)


async def gateway(project: Project) -> None:
    """The process of the gateway.

    Raises:
        InvalidInput: a ledger is signed, and its vault is gone: an empty one in its place would
            look like everybody's data erased.
    """
    from tidegate_policy.decide import Limits
    from tidegate_policy.gateway import Gateway, GatewaySettings
    from tidegate_policy.genesis import genesis
    from tidegate_policy.personal.vault import Vault
    from tidegate_policy.signing.heads import HEAD, Heads
    from tidegate_schemas.evidence import KeyRole

    from .evidence_keys import signing_keys

    vault = project.state.vault
    if not vault.exists() and (project.state.writer / HEAD).exists():
        raise InvalidInput(
            f"{vault} is gone, which holds the keys of personal data; put it back. If it is lost, "
            f"an empty file in its place (touch {vault}) begins a new one: what was sealed before "
            "cannot be opened then"
        )
    configured, keys = project.settings.gateway, signing_keys(project)
    keys.ensure(time.time_ns())
    log = f"{project.settings.project}/0"
    heads = Heads(project.state.writer, log, lambda: keys.signers(KeyRole.WRITER))
    settings = GatewaySettings(
        log=log,
        limits=Limits(configured.envelope_bytes, configured.policy_report),
        dedupe_window=configured.dedupe_window,
        dedupe_entries=configured.dedupe_entries,
        retention=project.settings.privacy.retention,
    )
    async with _process(project.state, "gateway", GATEWAY) as (connection, health, ready):
        with Vault.open(vault) as opened:
            gateway = Gateway(connection, genesis(), settings, heads, health, opened)
            await _until_signal(gateway.run(), _after(gateway.ready(), ready))


async def notary(project: Project) -> None:
    """The process of the notary. It is ready before it has looked: the bus does not wait for it."""
    from tidegate_bus.bulk import Access
    from tidegate_policy.signing.notary import Notary, NotarySettings
    from tidegate_schemas.evidence import KeyRole

    from .evidence_keys import signing_keys, trusted_writers, witnesses

    state, keys, health = project.state, signing_keys(project), Health()
    settings = NotarySettings(
        log=f"{project.settings.project}/0",
        writers=lambda: trusted_writers(state),
        signers=lambda: keys.signers(KeyRole.NOTARY),
        witnesses=witnesses(project),
        keep=project.settings.evidence.checkpoints,
    )
    access = Access(address(state), NOTARY, state.keyring.path(NOTARY), client_tls(state))
    notary = Notary(access, state.notary, settings, health)
    with telemetry(state, "notary", health), contextlib.closing(notary):
        await _until_signal(notary.run(), asyncio.sleep(0))


async def coordinator(project: Project) -> None:
    """The process of the coordinator."""
    from tidegate_agents.coordinator import Coordinator

    check_blueprints(project)
    async with _process(project.state, "coordinator", COORDINATOR) as (connection, health, ready):
        blueprints = [blueprint for _, blueprint in project.blueprints]
        coordinator = Coordinator(connection, blueprints, health)
        await _until_signal(coordinator.run(), _after(coordinator.ready(), ready))


async def edge(project: Project) -> None:
    """The process of the HTTP edge."""
    from .edge import Edge

    health = Health()
    async with Edge(project, health) as edge:
        with telemetry(project.state, "edge", health):
            await _until_signal(edge.run(), asyncio.sleep(0), drain=edge.stop)


async def console(project: Project) -> None:
    """The process of the web console."""
    from .console import Console

    health = Health()
    async with Console(project, health) as console:
        with telemetry(project.state, "console", health):
            await _until_signal(console.run(), asyncio.sleep(0), drain=console.stop)


async def source(
    state: State,
    principal: Principal,
    name: str,
    made: Source[Any],
    on_outcome: Callable[[Outcome[Any]], None],
) -> None:
    """The process of a source of events.

    Args:
        state: of a stack that need not run yet.
        principal: who publishes.
        name: of the process.
        made: the source.
        on_outcome: told what became of each event.
    """
    from .source.feed import Feed
    from .source.sender import Sender

    health = Health()
    async with Sender(state, principal, health) as sender:
        feed = Feed(made, sender.publish, health, on_outcome)
        with telemetry(state, name, health):
            await _until_signal(feed.run(), asyncio.sleep(0), drain=feed.stop)


async def worker(project: Project, reference: str) -> None:
    """The process of a worker.

    Args:
        project: where the manifest is.
        reference: `module:attribute` of the agent, as its manifest names it, or `team.name`.

    Raises:
        InvalidInput: no such agent, or it does not match its manifest.
    """
    from tidegate_agents.agent import load_agent
    from tidegate_agents.worker import Worker

    manifest = _manifest(project, reference)
    agent = load_agent(manifest.run, project.root)
    name = str(manifest.principal)
    async with _process(project.state, name, manifest.principal) as (connection, health, ready):
        worker = Worker(connection, agent, manifest, health)
        await _until_signal(worker.run(), _after(worker.ready(), ready), drain=worker.stop)


def _manifest(project: Project, reference: str) -> Manifest:
    found = [m for m in project.manifests if reference in (m.run, str(m.principal))]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(m.principal) for m in found)
        raise InvalidInput(f"several agents run {reference}; name one of them: {names}")
    known = ", ".join(sorted(f"{m.run} ({m.principal})" for m in project.manifests)) or "none"
    raise InvalidInput(f"no manifest in {project.root / 'agents'} runs {reference}; known: {known}")


@contextlib.asynccontextmanager
async def _process(
    state: State, name: str, principal: Principal
) -> AsyncGenerator[tuple[Connection, Health, Callable[[], None]]]:
    """Connection, health and what to call when ready, of one process."""
    health = Health()
    with contextlib.ExitStack() as stack:
        key, tls = state.keyring.path(principal), client_tls(state)
        async with await connect(address(state), principal, key, tls=tls) as link:
            yield link, health, lambda: stack.enter_context(telemetry(state, name, health))


@contextlib.contextmanager
def telemetry(state: State, name: str, health: Health) -> Generator[None]:
    """Serve `/metrics` and `/healthz` of this process, write down where, and say it is ready."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(TelemetryServer(health)))
        info = ProcessInfo(name, os.getpid(), server.port)
        path = state.processes / info.file
        stack.enter_context(_written(path, info))
        stack.callback(path.unlink, missing_ok=True)
        say_ready()
        yield


def _written(path: Path, info: ProcessInfo) -> BinaryIO:
    """Write down a process. The file is locked while it lives, also if it ends unexpectedly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    file = part.open("wb", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(msgspec.json.encode(info))
    part.rename(path)
    return file


async def _after(event: Coroutine[Any, Any, None], call: Callable[[], None]) -> None:
    await event
    call()


async def _until_signal(
    work: Coroutine[Any, Any, None],
    beside: Coroutine[Any, Any, None],
    drain: Callable[[], None] | None = None,
) -> None:
    """Work until it ends, or until a signal: then `drain` and wait, or cancel.

    A second signal cancels at once; so does a failure of what is done beside, which is raised.
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

    def on_side(_: object) -> None:
        if not side.cancelled() and side.exception():
            main.cancel()

    side.add_done_callback(on_side)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await main
    except asyncio.CancelledError:
        if side.done():
            side.result()
    finally:
        side.cancel()


def running(state: State) -> list[ProcessInfo]:
    """The processes that said they are ready and are still there."""
    found: list[ProcessInfo] = []
    for path in sorted(state.processes.glob("*.json")):
        try:
            with path.open("rb") as file:
                if _is_locked(file):
                    found.append(msgspec.json.decode(file.read(), type=ProcessInfo))
        except (OSError, msgspec.DecodeError):  # it ended meanwhile
            continue
    return found


def _is_locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
