"""The local stack: broker, gateway, coordinator and the agents of a project, supervised."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tidegate_bus.accounts import REGISTRAR, configuration
from tidegate_bus.connection import Connection, connect
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_bus.server import Server
from tidegate_bus.topology import converge
from tidegate_policy.bundle import load_bundle, write_bundle
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import (
    Denied,
    InvalidInput,
    InvalidPolicy,
    TidegateError,
    Unavailable,
)
from tidegate_schemas.subjects import Principal, Verdict
from tidegate_schemas.vocabulary import AGENT_REGISTER, OPERATOR

from .child import Child, OnLine
from .processes import running
from .project import Project, State, check_blueprints

_POLL_SECONDS = 0.02
_GRACE_SECONDS = 5.0
_PATIENCE_SECONDS = 10.0
_READY_SECONDS = 60.0
_AGAIN_SECONDS = 1.0


def _ignore(name: str, line: str) -> None:
    """Nobody listens."""


class Stack:
    """A running project. Make one with `async with Stack(project)`.

    Args:
        project: what to run.
        on_line: called with each process's name and log lines.
        agents: run only these, as `team.name`; all by default.
    """

    def __init__(
        self,
        project: Project,
        *,
        on_line: OnLine = _ignore,
        agents: Collection[str] | None = None,
    ) -> None:
        self.project = project
        self._on_line = on_line
        self._lock: TextIO | None = None
        self._server: Server | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._gateway = self._child("gateway", "gateway")
        self._coordinator = self._child("coordinator", "coordinator")
        self._workers = [
            self._child(str(m.principal), "agent", "run", str(m.principal))
            for m in project.manifests
            if agents is None or str(m.principal) in agents
        ]

    @property
    def server(self) -> Server:
        """The broker."""
        assert self._server, "the stack is not running"
        return self._server

    @property
    def children(self) -> list[Child]:
        """Every other process, in the order in which they are stopped."""
        return [*self._workers, self._coordinator, self._gateway]

    async def start(self) -> None:
        """Start everything; returns when all of it is ready.

        Raises:
            InvalidPolicy: the policies do not load.
            InvalidInput: another stack runs in this folder, or a process cannot start with what
                it is given.
            Refused: policy does not let the agents be registered.
            Unavailable: something does not start; says what.
            TopologyDrift: the ledger stream is not what it should be.
        """
        state = self.project.state
        check_blueprints(self.project)
        state.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(state.folder / "lock")
        _forget_dead(state)
        self._check_policy()  # so that bad policy is said before anything runs
        await self._start_server(self.project.settings.server.port)
        self._keeper = asyncio.create_task(self._keep_server())
        async with await self.connect(REGISTRAR) as connection:
            await converge(connection, self.project.limits(), self.project.subscriptions())
        async with await self.connect(OPERATOR) as operator:
            # Submitted first, so that the ledger knows who provides a task when a run needs it.
            reader = LedgerReader(operator)
            last = await reader.last()
            registrations = await self._register_agents(operator)
            for child in self.children:
                child.start()
            await self._until_ready()
            await _until_admitted(reader, last.seq + 1 if last else 1, registrations)

    async def stop(self) -> None:
        """Drain: agents first, then coordinator and gateway, the broker last.

        Does nothing to a stack that could not start because another one runs in the folder.
        """
        if self._lock is None:
            return
        drains = [m.drain for m in self.project.manifests]
        grace = _GRACE_SECONDS + max(drains, default=0.0)
        await asyncio.gather(*(worker.stop(grace) for worker in self._workers))
        await self._coordinator.stop(_GRACE_SECONDS)
        await self._gateway.stop(_GRACE_SECONDS)
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._server:
            await self._server.stop()
        self.project.state.address.unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def hurry(self) -> None:
        """While it stops: let the agents give back what they are still working on."""
        for worker in self._workers:
            worker.hurry()

    async def connect(self, principal: Principal) -> Connection:
        """A connection as one of the project's principals."""
        seed = self.project.state.keyring.seed(principal)
        return await connect(self.server.url, principal, seed)

    def check(self) -> None:
        """Raise if the bus is down and will not come back by itself.

        An agent that cannot start any more is not the bus: the others go on without it.

        Raises:
            InvalidInput: gateway or coordinator cannot start with what they are given.
            Unavailable: says what.
        """
        for child in (self._coordinator, self._gateway):
            child.check()
        if self._keeper and self._keeper.done() and not self._keeper.cancelled():
            raise Unavailable(f"nobody keeps the broker running: {self._keeper.exception()!r}")

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

    def _check_policy(self) -> None:
        """Put the bundle together and load it; faults are told of the files that people write."""
        bundle, policies = self.project.state.bundle, self.project.policies
        write_bundle(bundle, policies, self.project.roster())
        try:
            load_bundle(bundle)
        except InvalidPolicy as error:
            names = {str(bundle / path.name): str(path) for path in policies}
            names[f"{bundle}:"] = f"{self.project.root / 'policy'}:"
            problems = error.problems
            for copy, name in names.items():
                problems = [problem.replace(copy, name) for problem in problems]
            raise InvalidPolicy(problems) from None

    async def _start_server(self, port: int) -> None:
        state = self.project.state
        limits = self.project.limits()
        text = configuration(
            self.project.identities(),
            store=state.store,
            store_bytes=limits.ledger_bytes + limits.ingress_bytes,
            port=port or -1,
        )
        state.server_configuration.write_text(text)
        self._server = await Server.start(state.server_configuration, state.logs / "server.log")
        state.address.write_text(self._server.url + "\n")

    async def _keep_server(self) -> None:
        """Start the broker again, on the same port, if it ends by itself."""
        while True:
            status = await self.server.wait()
            self._on_line("server", f"ended with status {status}; starting it again")
            while True:
                try:
                    await self._start_server(self.server.port)
                    break
                except (TidegateError, OSError) as error:
                    self._on_line("server", str(error))
                    await asyncio.sleep(_AGAIN_SECONDS)

    async def _until_ready(self) -> None:
        """Wait for all of them, as long as it takes: a long ledger is read from its beginning."""
        loop = asyncio.get_running_loop()
        missing = {child.name for child in self.children}
        say = loop.time() + _PATIENCE_SECONDS
        while missing:
            for child in self.children:
                child.check()
            missing -= {info.name for info in running(self.project.state)}
            if loop.time() > say:
                say = loop.time() + _PATIENCE_SECONDS
                names = ", ".join(sorted(missing))
                self._on_line("stack", f"still waiting for {names}; they read the ledger")
            await asyncio.sleep(_POLL_SECONDS)

    async def _register_agents(self, operator: Connection) -> set[str]:
        """Tell the bus who provides what; the ids of the envelopes that say so.

        Each start of a stack is worth a record.
        """
        publisher = await Publisher.start(operator)
        envelopes = [
            Envelope.new(
                AGENT_REGISTER,
                manifest.model_dump(mode="json"),
                source=f"tidegate:{OPERATOR}",
                kind="control",
                to=AGENT_REGISTER,
            )
            for manifest in self.project.manifests
        ]
        await asyncio.gather(*(publisher.publish(e, wait="accepted") for e in envelopes))
        return {envelope.id for envelope in envelopes}

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


async def _until_admitted(reader: LedgerReader, start: int, ids: set[str]) -> None:
    """Wait until the ledger has the envelopes of the operator with these ids.

    Raises:
        Denied: policy said no to one of them.
        Unavailable: one is not there in time.
    """
    missing = set(ids)
    try:
        async with asyncio.timeout(_READY_SECONDS):
            records = reader.read(start, follow=True)
            while missing:
                record = (await anext(records)).record()
                message = record.message()
                if message is None or record.by != str(OPERATOR) or message.id not in missing:
                    continue
                missing.remove(message.id)
                if record.verdict is Verdict.DENY:
                    why = record.why
                    detail = str(why.facts.get("detail", ""))
                    raise Denied(why.reason, detail, record.seq, why.policies)
    except TimeoutError:
        raise Unavailable(f"agents are not registered after {_READY_SECONDS:g} s") from None


def _forget_dead(state: State) -> None:
    """Remove what processes that were killed left behind."""
    alive = {f"{info.name}.{info.pid}.json" for info in running(state)}
    for path in state.processes.glob("*.json"):
        if path.name not in alive:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> TextIO:
    """A file that is locked as long as it is open, so that two stacks never share a store.

    Raises:
        InvalidInput: another process has it.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a+"))
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
