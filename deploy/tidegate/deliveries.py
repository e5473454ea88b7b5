"""Operators' controls where messages are delivered: what was admitted before, and waits.

The gateway stops what is submitted. What is in the ledger already would still reach the agents
that it is for. So the consumer of an agent that is stopped stands still, until nothing stops it
any more, and a kill cuts its connections besides.

Level-triggered: consumers are compared with what the ledger says, whenever it says something new,
when consumers have come, after a reconnect, and every half minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Gauge

from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.pauses import Feed, feeds, pause, resume
from tidegate_bus.connection import Connection
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.message import Message
from tidegate_bus.tasks import end
from tidegate_policy.controls import Controls, Level
from tidegate_schemas import subjects
from tidegate_schemas.errors import TidegateError
from tidegate_schemas.governance import Target, What
from tidegate_schemas.record import decode_growth
from tidegate_schemas.subjects import Kind, Principal
from tidegate_schemas.vocabulary import CONTROL_KILL, OPERATOR

from .access import Connect
from .governance import commands

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.deliveries")

_LOOK_SECONDS = 1.0
_REST_SECONDS = 0.02
"""Between two looks at a ledger that grows."""
_COMMANDS = subjects.delivery(0, Kind.CONTROL, "control.")
_ALIGN_SECONDS = 30.0
_AGAIN_SECONDS = 1.0

_paused = Gauge("tidegate_paused_consumers", "Agents to which nothing is delivered")

Cut = Callable[[Callable[[Principal], bool], str], Awaitable[None]]
"""Cuts the connections of some principals, and says why."""


def stops(controls: Controls, principal: Principal) -> tuple[Level, Target] | None:
    """What stops deliveries to a principal, the highest level first.

    Not a control of a capability, a blueprint or a run: of these what is admitted goes on.
    """
    targets = (
        Target(What.BUS),
        Target(What.TEAM, principal.team),
        Target(What.AGENT, str(principal)),
    )
    found = [(level, target) for target in targets if (level := controls.levels.get(target))]
    return max(found, default=None)


def misaligned(controls: Controls, found: list[Feed]) -> list[Feed]:
    """Those that stand still and should not, or do not and should."""
    return [feed for feed in found if feed.paused != bool(stops(controls, feed.principal))]


class Deliveries:
    """Brings consumers in line with the controls of the ledger.

    Args:
        connect: gives a connection of one of the bus's own principals.
        cut: called once for each kill of an agent or a team that comes while it follows.
    """

    def __init__(self, connect: Connect, cut: Cut) -> None:
        self._connect = connect
        self._cut = cut
        self._controls = Controls()
        self._next = 1
        self._kills: list[Target] = []
        self._unsure = True
        self._lock = asyncio.Lock()
        self._nudge = asyncio.Event()
        self._reading: Connection | None = None
        self._acting: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bring everything in line with the ledger as it is, then follow it.

        Raises:
            LedgerError: a record is none that a gateway writes.
            Unavailable: the broker does not answer.
        """
        self._reading = await self._connect(OPERATOR)
        self._acting = await self._connect(REGISTRAR)
        for connection in (self._reading, self._acting):
            connection.on_reconnect(self._doubt)
        await self._read(self._reading)
        self._kills.clear()  # they were cut then, and have come again since
        await self.align()
        self._task = asyncio.create_task(self._keep(self._reading))

    async def stop(self) -> None:
        """Follow no more. What stands still stays so."""
        await end(self._task)
        for connection in (self._reading, self._acting):
            if connection:
                await connection.close()

    async def align(self) -> None:
        """Compare every consumer with what the ledger says; call it when consumers have come.

        Raises:
            Unavailable: the broker does not answer.
        """
        acting = self._acting
        assert acting, "not started"
        async with self._lock:
            found = await feeds(acting)
            for feed in misaligned(self._controls, found):
                stopped = stops(self._controls, feed.principal)
                await (pause if stopped else resume)(acting, feed.principal)
                why = f"{stopped[1]} is {stopped[0].word}" if stopped else "nothing stops it"
                event = "deliveries paused" if stopped else "deliveries resumed"
                _log.info(event, principal=str(feed.principal), why=why)
            _paused.set(sum(bool(stops(self._controls, feed.principal)) for feed in found))

    def _doubt(self) -> None:
        self._unsure = True
        self._nudge.set()

    async def _read(self, connection: Connection) -> None:
        """Take in what the ledger says since the last time."""
        async for command in commands(LedgerReader(connection), self._next):
            self._controls = command.after(self._controls)
            self._next = command.seq + 1
            self._unsure = True
            if command.to == CONTROL_KILL and command.target.what in (What.AGENT, What.TEAM):
                self._kills.append(command.target)

    async def _keep(self, connection: Connection) -> None:
        failed = ""
        while True:
            self._unsure = True
            try:
                await self._follow(connection)
            except TidegateError as error:
                if str(error) != failed:
                    _log.error("controls are not applied to deliveries", error=str(error))
                failed = str(error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _follow(self, connection: Connection) -> None:
        hinted = 0

        def hint(message: Message) -> None:
            nonlocal hinted
            growth = decode_growth(message.data)
            if growth:
                hinted = max(hinted, growth.last)
            if growth is None or growth.subjects is None or any(map(_commands, growth.subjects)):
                self._nudge.set()

        clock = asyncio.get_running_loop().time
        hints = await connection.hear(subjects.tail(0), hint)
        due = clock() + _ALIGN_SECONDS
        try:
            while True:
                self._nudge.clear()
                grown = hinted
                await self._read(connection)
                self._next = max(self._next, grown + 1)  # up to there, nothing else was found
                if self._unsure or clock() >= due:
                    self._unsure = False
                    await self.align()
                    due = clock() + _ALIGN_SECONDS
                while self._kills:  # once nothing is delivered any more
                    target = self._kills[0]
                    await self._cut(_named_by(target), f"{target} is killed")
                    del self._kills[0]
                await asyncio.sleep(_REST_SECONDS)
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._nudge.wait()
                except TimeoutError:
                    pass
        finally:
            await connection.forget(hints)


def _commands(subject: str) -> bool:
    """Whether what is stored under it may be a control."""
    return subject.startswith(_COMMANDS)


def _named_by(target: Target) -> Callable[[Principal], bool]:
    if target.what is What.TEAM:
        return lambda principal: principal.team == target.name
    return lambda principal: str(principal) == target.name
