"""The application: all pages behind the guard."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tidegate_schemas.errors import InvalidInput, TidegateError, Unavailable

from . import (
    agents_page,
    approvals_page,
    controls_page,
    flow_page,
    ledger_page,
    login,
    policies_page,
    runs_page,
)
from .here import Here
from .pages import STATIC, error_page
from .security import Guard
from .session import Attempts

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.console")

_KEEP = "public, max-age=31536000, immutable"


def application(here: Here) -> Guard:
    """The console as an ASGI application.

    Args:
        here: what its pages work with.
    """
    app = Starlette(
        routes=[
            Route("/healthz", _healthz),
            Mount("/static", _Kept(directory=STATIC)),
            *login.routes,
            *flow_page.routes,
            *agents_page.routes,
            *controls_page.routes,
            *policies_page.routes,
            *ledger_page.routes,
            *runs_page.routes,
            *approvals_page.routes,
        ],
        exception_handlers={
            HTTPException: _http_error,
            TidegateError: _error,
            Exception: _failure,
        },
    )
    app.state.attempts = Attempts()
    own = here.project.settings.console
    names = (own.host, *own.names)
    return Guard(app, here, here.sessions, names, secure=own.tls is not None)


class _Kept(StaticFiles):
    """Files that a browser may keep for ever, where the address tells their content."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if scope.get("query_string"):
            response.headers["Cache-Control"] = _KEEP
        return response


async def _healthz(request: Request) -> Response:
    return JSONResponse({"ok": True})


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return error_page(request, 404, "There is no such page", "Perhaps a link was cut off.")
    return error_page(request, error.status_code, HTTPStatus(error.status_code).phrase, "")


async def _error(request: Request, error: Exception) -> Response:
    if isinstance(error, InvalidInput):
        return error_page(request, 400, "That cannot be done", str(error))
    if isinstance(error, Unavailable):
        return error_page(request, 503, "Not available now", f"{error}. Try again.")
    _log.error("a page failed", path=request.url.path, error=str(error))
    return error_page(request, 500, "Something is wrong with what was read", str(error))


async def _failure(request: Request, error: Exception) -> Response:
    _log.error("a page failed", path=request.url.path, exc_info=error)
    return error_page(request, 500, "This page failed", "The log of the console says why.")
