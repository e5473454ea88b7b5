"""What watches over a running bus: its connections, what the broker refuses, and the probe.

None of it is needed for mediation, which the broker does by itself. It makes attempts visible,
keeps one identity from taking all connections, and says so loudly if mediation ever fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from prometheus_client import Gauge

from tidegate_bus.broker.accounts import PROBE, WARDEN
from tidegate_bus.broker.tls import client_context
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.tasks import end
from tidegate_bus.telemetry import Health
from tidegate_bus.watch.broker_log import BrokerLog, Told
from tidegate_bus.watch.incidents import What
from tidegate_bus.watch.probe import Report
from tidegate_bus.watch.prober import Prober
from tidegate_bus.watch.warden import Warden
from tidegate_schemas.errors import TidegateError
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import OPERATOR

from .access import Connect
from .child import OnLine
from .identities import Wanted
from .project import Project, client_tls

_AGAIN_SECONDS = 1.0
_ECHO_SECONDS = 2.0
"""How long after a round of the probe the broker's log may still tell of it."""

_identities = Gauge("tidegate_identities", "Identities that may connect", ["role"])


class Guards:
    """Start them when the bus is ready, and stop them before it ends.

    Args:
        project: whose bus it is.
        connect: gives a connection of one of the bus's own principals.
        on_line: called with what is to be said, as JSON lines.
        health: beats as long as connections are watched.
    """

    def __init__(self, project: Project, connect: Connect, on_line: OnLine, health: Health) -> None:
        self._project = project
        self._connect = connect
        self._on_line = on_line
        self._health = health
        self._principals: dict[str, Principal] = {}
        self._warden: Warden | None = None
        self._prober: Prober | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()

    async def start(self, who: Wanted, url: str) -> None:
        """Begin to watch.

        Raises:
            Unavailable: the broker does not answer.
        """
        project, server = self._project, self._project.settings.server
        self.know(who)
        watching = await self._stack.enter_async_context(await self._connect(WARDEN))
        warden = Warden(watching, self._principals, self._health, limit=server.connections)
        self._warden = warden
        log = BrokerLog(
            project.state.server_log,
            self._principals,
            self._tell,
            owner=warden.owner,
            expected=self._is_of_the_probe,
        )
        self._stack.callback(log.close)
        self._tasks = [
            asyncio.create_task(self._keep(warden.run)),
            asyncio.create_task(self._keep(log.run)),
        ]
        if server.probe:
            reading = await self._stack.enter_async_context(await self._connect(OPERATOR))
            self._prober = Prober(
                url,
                project.state.keyring.path(PROBE),
                victim=victim(who),
                reader=LedgerReader(reading),
                tls=client_context(folder) if (folder := client_tls(project.state)) else None,
                interval=server.probe,
                tell=self._probed,
            )
            self._tasks.append(asyncio.create_task(self._prober.run()))
        await warden.ready()

    def know(self, who: Wanted) -> None:
        """Identities have come or gone."""
        roles = [entry.role for entry in who.entries.values() if entry.good(who.now)]
        for role in Role:
            _identities.labels(role.value).set(roles.count(role))
        self._principals.clear()
        self._principals.update({user.public_key: user.principal for user in who.users()})
        if self._warden:
            self._warden.look()

    async def cut(self, chosen: Callable[[Principal], bool], why: str) -> None:
        """Cut the connections of some principals, see `Warden.cut`.

        Raises:
            Unavailable: nobody who could do it is connected.
        """
        if self._warden:
            await self._warden.cut(chosen, why)

    async def stop(self) -> None:
        """Watch no more."""
        for task in self._tasks:
            await end(task)
        await self._stack.aclose()

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (TidegateError, OSError) as error:
                self._say("error", "not watching", error=str(error))
            await asyncio.sleep(_AGAIN_SECONDS)

    def _is_of_the_probe(self, told: Told) -> bool:
        """It does such things, also under keys of nobody."""
        nobody = told.principal is None and told.incident.what is What.LOGIN
        probing = self._prober is not None and self._prober.is_recent(_ECHO_SECONDS)
        return told.principal == PROBE or (nobody and probing)

    def _tell(self, told: Told) -> None:
        facts: dict[str, Any] = {"principal": str(told.principal or "unknown")}
        if told.incident.subject:
            facts["subject"] = told.incident.subject
        if told.left_out:
            facts["more"] = told.left_out
        self._say("warning", f"refused: {told.incident.what}", **facts)

    def _probed(self, report: Report) -> None:
        if report.through:
            self._say(
                "error",
                "the gateway can be bypassed",
                attempts=list(report.through),
                record=report.alarm,
            )

    def _say(self, level: str, event: str, **facts: Any) -> None:
        line = msgspec.json.encode({"level": level, "event": event, **facts})
        self._on_line("broker", line.decode())


def victim(who: Wanted) -> Principal:
    """Whom the probe pretends to attack: an agent, if there is one."""
    subscriptions = who.subscriptions()
    return subscriptions[0].principal if subscriptions else OPERATOR
