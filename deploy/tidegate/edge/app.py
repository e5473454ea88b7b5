"""The application: which request goes where, and what becomes of errors.

No layer of middleware: a route is an endpoint that is given an `Exchange`, and whatever it raises
becomes a problem document here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from prometheus_client import Counter, Gauge
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from tidegate_schemas.errors import LedgerError, TidegateError

from .exchange import Exchange, Gone
from .problems import Problem, problem_of

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.edge")

REQUESTS = Counter(
    "tidegate_edge_requests", "Requests, by route and status of the answer", ["route", "status"]
)
IN_FLIGHT = Gauge("tidegate_edge_in_flight", "Requests that are not answered yet")

Handler = Callable[[Exchange], Awaitable[None]]

_NOWHERE = "-"


class Endpoint:
    """A handler as starlette wants it; a class, or it would be wrapped once more."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path = path
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._handler(Exchange(scope, receive, send))


class Application:
    """An ASGI application.

    Args:
        routes: method, path and handler of each.
    """

    def __init__(self, routes: Iterable[tuple[str, str, Handler]]) -> None:
        self._router = Router(
            [Route(path, Endpoint(path, run), methods=[method]) for method, path, run in routes],
            redirect_slashes=False,
            default=_nowhere,
        )
        self._counted: dict[tuple[str, int], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        status = 499  # nobody was there to be told

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope["app"] = self  # so starlette raises where there is no such method
        IN_FLIGHT.inc()
        try:
            await self._router(scope, receive, told)
        except Gone:
            pass
        except Exception as error:
            if status != 499:
                _log.error("broke off", path=scope["path"], exc_info=error)
                raise
            await Exchange(scope, receive, told).tell(_problem(error, scope))
        finally:
            IN_FLIGHT.dec()
            self._count(scope, status)

    def _count(self, scope: Scope, status: int) -> None:
        endpoint = scope.get("endpoint")
        path = endpoint.path if isinstance(endpoint, Endpoint) else _NOWHERE
        found = self._counted.get((path, status))
        if found is None:
            found = self._counted[path, status] = REQUESTS.labels(path, status)
        found.inc()


def _problem(error: Exception, scope: Scope) -> Problem:
    match error:
        case Problem():
            return error
        case HTTPException(status_code=405):
            allowed = (error.headers or {}).get("Allow", "")
            detail = f"{scope['method']} is not; {allowed} is"
            headers = (("allow", allowed),)
            return Problem(405, "method", "Method not allowed", detail, headers=headers)
        case LedgerError():
            _log.error("the ledger is not as it should be", error=str(error))
            return problem_of(error)
        case TidegateError():
            return problem_of(error)
        case _:
            _log.error("failed", path=scope["path"], exc_info=error)
            return Problem(500, "failed", "A fault of the edge", "it is in the log")


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "GET /v1/openapi.json tells what there is"
    raise Problem(404, "nowhere", "Nothing here", detail)
