"""The process of the edge: everything put together, and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from tidegate.faces import check_faces
from tidegate.project import Project, address, client_tls
from tidegate.web import WebServer
from tidegate_bus.bulk import Access
from tidegate_bus.connection import connect
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.tasks import end
from tidegate_bus.telemetry import Health
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Receipt
from tidegate_schemas.vocabulary import EDGE

from .app import Application
from .callers import Caller, Callers
from .events import Events, Limits, Submission
from .exchange import Exchange
from .follower import Follower
from .hooks import Hooks
from .links import Links
from .lookups import Lookups
from .messages import Heard, Messages
from .openapi import Document
from .protocol import EdgeProtocol
from .stream import Stream
from .tasks import Tasks
from .tls import server_context

if TYPE_CHECKING:
    from .webhooks import Webhooks

_BEAT_SECONDS = 1.0
_BODIES = 64 * 1024 * 1024
"""Bytes of bodies that are in memory, and as many again of webhooks."""
_SWITCH_SECONDS = 0.0005
"""For which the thread of the index may hold up all requests, where Python would let it for 5 ms.
"""


class Edge:
    """The HTTP edge of a project's stack; use it in `async with`.

    Args:
        project: whose it is.
        health: of this process.
    """

    def __init__(self, project: Project, health: Health) -> None:
        self._project = project
        self._health = health
        self._stopping = asyncio.Event()
        self._closing = contextlib.AsyncExitStack()
        self._follower: Follower | None = None
        self._server: WebServer | None = None

    async def run(self) -> None:
        """Serve until `stop`; then answer what is on its way."""
        assert self._server, "used in `async with`"
        _allow_files(2 * EdgeProtocol.bounds.connections)
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # what is here stays: nobody need look through it again while requests wait
        await self._server.run()

    def stop(self) -> None:
        """Take no more requests; nobody waits on for what has not come yet."""
        assert self._server, "used in `async with`"
        assert self._follower, "used in `async with`"
        self._stopping.set()
        self._follower.wake()
        self._server.stop()

    async def __aenter__(self) -> Self:
        project, state = self._project, self._project.state
        check_faces(project, ("edge",))
        async with contextlib.AsyncExitStack() as stack:
            access = Access(address(state), EDGE, state.keyring.path(EDGE), client_tls(state))
            connection = await connect(access.url, EDGE, access.secret, tls=access.tls)
            await stack.enter_async_context(connection)
            reader = LedgerReader(connection)
            callers = Callers(project)
            stack.push_async_callback(callers.close)
            links = await stack.enter_async_context(Links(state))
            self._follower = follower = Follower(reader)
            stack.push_async_callback(follower.close)
            lookups = Lookups(access, connection, state.index)
            await stack.enter_async_context(lookups)

            own, heard = project.settings.edge, Heard()
            limits = Limits(own.body_bytes, project.settings.gateway.envelope_bytes)
            submission = Submission(links, heard)
            messages = Messages(callers, links, reader, lookups, heard, state.notary)
            tasks = Tasks(callers, submission, links, limits, follower, messages, self._stopping)

            bodies = max(_BODIES, 4 * limits.body)
            hooks = Hooks(_webhooks(project, callers, submission), limits, bodies)
            app = Application(
                [
                    ("POST", "/v1/events", Events(callers, submission, limits)),
                    ("POST", "/v1/tasks/{capability}", tasks),
                    ("POST", "/v1/webhooks/{name}", hooks),
                    ("GET", "/v1/messages/{id:path}", messages),
                    ("GET", "/v1/stream", Stream(callers, reader, follower, self._stopping)),
                    ("GET", "/v1/openapi.json", Document(limits)),
                    ("GET", "/healthz", self._healthz),
                ],
                bodies,
            )
            self._server = WebServer(
                app,
                own.host,
                own.port,
                state.edge_url,
                tls=server_context(project),
                protocol=EdgeProtocol,
            )
            stack.push_async_callback(end, asyncio.create_task(self._beat()))
            self._closing = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._closing.aclose()

    async def _beat(self) -> None:
        while True:
            self._health.beat()
            await asyncio.sleep(_BEAT_SECONDS)

    async def _healthz(self, exchange: Exchange) -> None:
        healthy, _ = self._health.report()
        status = "stopping" if self._stopping.is_set() else "ok" if healthy else "unhealthy"
        body = msgspec.json.encode({"status": status})
        await exchange.answer(200 if status == "ok" else 503, body)


def _allow_files(count: int) -> None:
    """Have so many open at once, as far as this process may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _webhooks(project: Project, callers: Callers, submission: Submission) -> Webhooks | None:
    if not project.settings.edge.webhooks:
        return None
    from .webhooks import Webhooks

    async def submit(caller: Caller, envelope: Envelope, seconds: float) -> Receipt:
        publisher = await submission.publisher(caller.principal)
        return await publisher.publish(envelope, timeout=seconds, when_full="raise")

    return Webhooks(project, callers, submit)
