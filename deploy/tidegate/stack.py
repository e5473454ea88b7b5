"""The local stack: a project's broker, gateway, notary, coordinator, agents and HTTP faces."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO
from urllib.parse import urlsplit

from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.server import Server
from tidegate_bus.broker.topology import converge
from tidegate_bus.connection import Connection, connect
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_bus.tasks import end
from tidegate_bus.telemetry import Health
from tidegate_policy.bundle import Bundle, load_bundle
from tidegate_policy.genesis import genesis
from tidegate_schemas.errors import InvalidInput, Refused, TidegateError, Unavailable
from tidegate_schemas.subjects import Principal, Verdict
from tidegate_schemas.vocabulary import OPERATOR

from .access import Access, access
from .child import Child, OnLine
from .deliveries import Deliveries
from .evidence import EvidenceKeeper
from .faces import FACES, check_faces
from .guards import Guards
from .identities import Wanted, ensure_keys, wanted
from .policies import put_in_force, shelf
from .processes import running, telemetry
from .project import (
    Project,
    State,
    address,
    check_blueprints,
    client_tls,
    load_project,
)
from .reconciler import Applied, Reconciler, note

_POLL_SECONDS = 0.02
_GRACE_SECONDS = 5.0
_PATIENCE_SECONDS = 10.0
_READY_SECONDS = 60.0
_AGAIN_SECONDS = 1.0
_LOOK_SECONDS = 0.2


def _ignore(name: str, line: str) -> None:
    """Nobody listens."""


class Stack:
    """A running project. Make one with `async with Stack(project)`.

    Args:
        project: what to run.
        on_line: called with each process's name and log lines.
        agents: run only these, as `team.name`; all by default.
        faces: run these of `FACES`; none by default.
        apart: start the broker alone; others start the gateway meanwhile, and the rest when this is
            ready.
    """

    def __init__(
        self,
        project: Project,
        *,
        on_line: OnLine = _ignore,
        agents: Collection[str] | None = None,
        faces: Collection[str] = (),
        apart: bool = False,
    ) -> None:
        self.project = project
        self._on_line = on_line
        self._lock: TextIO | None = None
        self._server: Server | None = None
        self._apart = apart
        self._agents = () if apart else agents
        self._tls: dict[str, Any] | None = None  # as it was at the start, whatever is written since
        self._keeper: asyncio.Task[None] | None = None
        self._identities: asyncio.Task[None] | None = None
        self._gateway = self._child("gateway", "gateway")
        self._coordinator = self._child("coordinator", "coordinator")
        self._notary = self._child("notary", "notary")
        self._faces = [self._child(face, face) for face in FACES if face in faces]
        self._workers: dict[str, Child] = {}
        self._health = Health()
        self._guards = Guards(project, self.connect, on_line, self._health)
        self._deliveries = Deliveries(self.connect, self._guards.cut)
        self._reconciler = Reconciler(self.connect, self._deliveries.align)
        self._evidence = EvidenceKeeper(project, self.connect, on_line)
        self._rotations: asyncio.Task[None] | None = None
        self._telemetry = contextlib.ExitStack()
        self._access: Access | None = None

    @property
    def server(self) -> Server:
        """The broker."""
        assert self._server, "the stack is not running"
        return self._server

    @property
    def children(self) -> list[Child]:
        """Every other process, in the order in which they are stopped."""
        last = (self._coordinator, self._gateway, self._notary)
        return [*self._faces, *self._workers.values(), *last]

    async def start(self) -> None:
        """Start everything; returns when all of it is ready.

        Raises:
            InvalidPolicy: the policies do not load.
            InvalidInput: another stack runs in this folder, or a process cannot start with what
                it is given.
            Refused: policy does not let the agents be registered.
            Unavailable: something does not start; says what.
            VerificationError: the ledger is not the one that was signed.
            TopologyDrift: the ledger stream is not what it should be.
        """
        state = self.project.state
        check_blueprints(self.project)
        check_faces(self.project, [face.name for face in self._faces])
        state.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = locked(state.folder / "lock")
        _forget_dead(state)
        bundle = load_bundle(self.project.policy)  # what is bad is said before anything runs
        now = time.time_ns()
        ensure_keys(self.project, now)
        self._evidence.prepare()
        version = state.register.version()
        who = wanted(self.project, state.register.read(), now)
        # Others are let in when the ledger is found to know them, or has been told.
        own = {name for name, entry in who.entries.items() if entry.declared}
        await self._start_server(who.only(own))
        self._keeper = asyncio.create_task(self._keep_server())
        async with await self.connect(REGISTRAR) as connection:
            await converge(connection, self.project.limits(), who.subscriptions())
        await self._deliveries.start()  # before anybody is let in who is stopped
        await self._admit(who.only(own | (await self._reconciler.members()).keys()))
        if not self._apart:
            self._gateway.start()
        await self._until_ready([self._gateway])
        await self._put_in_force(bundle)
        await self._evidence.announce()
        self._rotations = asyncio.create_task(self._evidence.keep())
        self._add_workers({str(user.principal) for user in who.users()})
        if not self._apart:
            others = [child for child in self.children if child is not self._gateway]
            for child in others:
                child.start()
            await self._until_ready(others)
        refused = await self._reconciler.announce(who)
        for name, error in refused.items():
            if name in who.registrations() and name in own:
                raise error  # what the project is made of cannot be left out
        await self._admit(who.admitted(refused, self._reconciler.known))
        note(state, version, refused)
        await self._guards.start(who, self.server.url)
        self._telemetry.enter_context(telemetry(state, "stack", self._health))
        self._identities = asyncio.create_task(self._keep_identities(version, who))

    async def stop(self) -> None:
        """Drain: the HTTP faces, agents, then coordinator and gateway, the broker last.

        Does nothing to a stack that could not start because another one runs in the folder.
        """
        if self._lock is None:
            return
        drains = [m.drain for m in self.project.manifests]
        grace = _GRACE_SECONDS + max(drains, default=0.0)
        await end(self._identities)
        await end(self._rotations)
        self._telemetry.close()
        await self._deliveries.stop()
        await self._guards.stop()
        await asyncio.gather(*(face.stop(_GRACE_SECONDS) for face in self._faces))
        await asyncio.gather(*(worker.stop(grace) for worker in self._workers.values()))
        await self._coordinator.stop(_GRACE_SECONDS)
        await self._gateway.stop(_GRACE_SECONDS)
        await self._notary.stop(_GRACE_SECONDS)
        await end(self._keeper)
        if self._server:
            await self._server.stop()
        if not self._apart:  # others go on, and look for the broker where it was
            self.project.state.address.unlink(missing_ok=True)
        self.project.state.applied.unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def hurry(self) -> None:
        """While it stops: let the agents give back what they are still working on."""
        for worker in self._workers.values():
            worker.hurry()

    async def connect(self, principal: Principal) -> Connection:
        """A connection as one of the project's principals."""
        state = self.project.state
        key, tls = state.keyring.path(principal), client_tls(state)
        return await connect(self.server.url, principal, key, tls=tls)

    def check(self) -> None:
        """Raise if the bus is down and will not come back by itself.

        An agent that cannot start any more is not the bus: the others go on without it.

        Raises:
            InvalidInput: gateway or coordinator cannot start with what they are given.
            VerificationError: the ledger is not the one that was signed.
            Unavailable: says what.
        """
        for child in (self._coordinator, self._gateway):
            child.check()
        for keeper in (self._keeper, self._identities, self._rotations):
            if keeper and keeper.done() and not keeper.cancelled():
                raise Unavailable(
                    f"nobody keeps the broker as it should be: {keeper.exception()!r}"
                )

    def _child(self, name: str, *arguments: str) -> Child:
        project = self.project
        return Child(
            name,
            [
                sys.executable,
                "-m",
                "tidegate",
                *arguments,
                "--project",
                str(project.root),
                "--state",
                str(project.state.folder),
            ],
            project.root,
            project.state.logs / f"{name}.log",
            self._on_line,
        )

    async def _put_in_force(self, bundle: Bundle) -> None:
        """The project's policies are in force, or it is said why the ones before still are."""
        async with await self.connect(OPERATOR) as operator:
            known = await shelf(LedgerReader(operator))
            if known.active == bundle.digest:
                return
            sender = await Publisher.start(operator)
            try:
                receipt = await put_in_force(sender, bundle, known, reason="tidegate up")
            except Refused as error:
                if known.active == genesis().bundle.digest:
                    raise  # nothing may move under those
                self._on_line(
                    "stack",
                    f"the policies in {self.project.policy} are not in force; "
                    f"those before still are: {error}",
                )
                return
            if receipt.verdict is Verdict.HOLD:
                self._on_line(
                    "stack",
                    f"the policies in {self.project.policy} wait for approval "
                    f"(record {receipt.seq}); those before are in force",
                )

    async def _start_server(self, who: Wanted) -> None:
        self._tls = self.project.server_tls()
        self._access = access(self.project, self.connect, self._reload)
        port = self.project.settings.server.port or _port_before(self.project.state)
        self._access.write(who, port, self._tls)
        await self._run_server()
        self._access.write(who, self.server.port, self._tls)  # where it is from now on
        await self._reload()

    async def _reload(self) -> None:
        await self.server.reload()

    async def _admit(self, who: Wanted) -> None:
        assert self._access, "the stack is not running"
        await self._access.admit(who, self.server.port, self._tls)

    async def _run_server(self) -> None:
        state = self.project.state
        self._server = await Server.start(state.server_configuration, state.server_log)
        if self._tls:
            state.tls_location.write_text(f"{Path(self._tls['cert_file']).parent}\n", "utf-8")
        state.address.write_text(self._server.url + "\n")

    async def _keep_server(self) -> None:
        """Start the broker again, on the same port, if it ends by itself."""
        while True:
            status = await self.server.wait()
            self._on_line("server", f"ended with status {status}; starting it again")
            while True:
                try:
                    await self._run_server()
                    break
                except (TidegateError, OSError) as error:
                    self._on_line("server", str(error))
                    await asyncio.sleep(_AGAIN_SECONDS)

    async def _keep_identities(self, version: str, who: Wanted) -> None:
        """Apply the register whenever it changes, and whenever something in it expires."""
        state = self.project.state
        failed = ""
        while True:
            expiry = who.next_change()
            while state.register.version() == version and not failed:
                if expiry is not None and time.time_ns() >= expiry:
                    break
                await asyncio.sleep(_LOOK_SECONDS)
            try:
                project = load_project(self.project.root, state.folder)
                ensure_keys(project, time.time_ns())
                version = state.register.version()
                who = wanted(project, state.register.read(), time.time_ns())
                done = await self._reconciler.apply(project, who, version, self._admit)
                self.project, failed = project, ""
                self._guards.know(who)
                await self._match_workers(who, done)
            except (TidegateError, OSError) as error:
                if str(error) != failed:
                    self._on_line("stack", f"identities are not applied: {error}")
                failed = str(error)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _match_workers(self, who: Wanted, done: Applied) -> None:
        """Start the workers of agents that came, and stop those of agents that went."""
        known = {str(user.principal) for user in who.users()} - set(done.refused)
        for name in [name for name in self._workers if name not in known]:
            self._on_line("stack", f"stopping {name}: it is not wanted any more")
            await self._workers.pop(name).stop(_GRACE_SECONDS)
        for child in self._add_workers(known):
            child.start()

    def _add_workers(self, known: Collection[str]) -> list[Child]:
        """Workers for those of the project's agents that may connect and have none yet."""
        added: list[Child] = []
        for manifest in self.project.manifests:
            name = str(manifest.principal)
            chosen = self._agents is None or name in self._agents
            if chosen and name in known and name not in self._workers:
                self._workers[name] = self._child(name, "agent", "run", name)
                added.append(self._workers[name])
        return added

    async def _until_ready(self, children: Collection[Child]) -> None:
        """Wait for all of them, as long as it takes: a long ledger is read from its beginning."""
        loop = asyncio.get_running_loop()
        missing = {child.name for child in children}
        say = loop.time() + _PATIENCE_SECONDS
        while missing:
            for child in children:
                child.check()
            missing -= {info.name for info in running(self.project.state)}
            if loop.time() > say:
                say = loop.time() + _PATIENCE_SECONDS
                names = ", ".join(sorted(missing))
                why = "; others start it" if self._apart else "; they read the ledger"
                self._on_line("stack", f"still waiting for {names}{why}")
            await asyncio.sleep(_POLL_SECONDS)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


def _forget_dead(state: State) -> None:
    """Remove what processes that were killed left behind."""
    alive = {info.file for info in running(state)}
    for path in state.processes.glob("*.json"):
        if path.name not in alive:
            path.unlink(missing_ok=True)


def _port_before(state: State) -> int:
    """Where a broker listened that has ended, if that is still free; else 0.

    Whoever is left of that time finds it again there.
    """
    try:
        port = urlsplit(address(state)).port or 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (InvalidInput, OSError, ValueError):
        return 0
    return port


def locked(path: Path) -> TextIO:
    """A file that is locked as long as it is open, so that two stacks never share a store.

    Raises:
        InvalidInput: another process has it.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a+"))
        os.fchmod(file.fileno(), 0o600)  # whoever may open it may lock it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip()
            raise InvalidInput(
                f"a stack runs here already (pid {pid}), with its state in {path.parent}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        stack.pop_all()
        return file
