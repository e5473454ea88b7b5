"""The web console: for people who would rather look than read.

    app         all pages behind the guard
    security    the guard: hosts, sessions, forms, headers of every answer
    session     who is logged in
    here        what pages work with, and `act`: a command in the name of who is logged in
    pages       templates; `words` how values are written, `outcome` how an action is told
    login, flow_page, agents_page, controls_page, policies_page ...     each exports `routes`
    flow        live figures, a fold of the ledger; `follower` feeds it

A page is HTML that works by itself: links and forms. Where there is JavaScript, htmx keeps parts
of it fresh. There is no build step, and nothing is asked for outside.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tidegate.edge.protocol import EdgeProtocol
from tidegate.edge.tls import presenting
from tidegate.faces import check_faces
from tidegate.project import Project
from tidegate.web import WebServer
from tidegate_bus.tasks import end
from tidegate_bus.telemetry import Health

from .app import application
from .here import Here

_BEAT_SECONDS = 1.0


class Console:
    """The server of a project's stack. Use it in `async with`.

    Args:
        project: whose it is.
        health: of this process.
    """

    def __init__(self, project: Project, health: Health) -> None:
        self._project = project
        self._health = health
        self._here = Here(project)
        self._closing = contextlib.AsyncExitStack()
        self._server: WebServer | None = None

    async def run(self) -> None:
        """Serve until `stop`.

        Raises:
            TidegateError: what reads the ledger has ended.
        """
        assert self._server, "used in `async with`"
        serving = asyncio.create_task(self._server.run())
        beating = asyncio.create_task(self._beat())
        try:
            await asyncio.wait({serving, beating}, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await serving
            if beating.done():
                beating.result()
        finally:
            await end(beating)
            await end(serving)

    def stop(self) -> None:
        """Take no more requests, and end what is live."""
        self._here.stopping.set()
        if self._server:
            self._server.stop()

    async def _beat(self) -> None:
        while True:
            await self._here.tidy()
            self._health.beat(sessions=len(self._here.sessions))
            await asyncio.sleep(_BEAT_SECONDS)

    async def __aenter__(self) -> Self:
        root, own, state = self._project.root, self._project.settings.console, self._project.state
        check_faces(self._project, ("console",))
        tls = presenting(root / own.tls.certificate, root / own.tls.key) if own.tls else None
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._here)
            app = application(self._here)
            self._server = WebServer(
                app, own.host, own.port, state.console_url, tls=tls, protocol=EdgeProtocol
            )
            self._closing = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._closing.aclose()
