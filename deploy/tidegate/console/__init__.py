"""The web console."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tidegate.project import Project
from tidegate.web import WebServer
from tidegate_bus.telemetry import Health


async def _healthz(request: Request) -> Response:
    return JSONResponse({"ok": True})


class Console:
    """The server of a project's stack.

    Args:
        project: whose it is.
        health: of this process.
    """

    def __init__(self, project: Project, health: Health) -> None:
        self._health = health
        app = Starlette(routes=[Route("/healthz", _healthz)])
        own = project.settings.console
        self._server = WebServer(app, own.host, own.port, project.state.console_url)

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._server.run()

    def stop(self) -> None:
        """Take no more requests."""
        self._server.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass
