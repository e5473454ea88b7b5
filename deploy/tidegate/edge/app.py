"""The application: which request goes where, and what becomes of errors.

No layer of middleware: a handler is given an `Exchange`, and whatever it raises becomes a problem
document here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from prometheus_client import Counter, Gauge
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from tidegate_schemas.errors import LedgerError, TidegateError

from .bodies import Bodies
from .exchange import Exchange, Gone
from .problems import Problem, problem_of

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.edge")

REQUESTS = Counter(
    "tidegate_edge_requests", "Requests, by route and status of the answer", ["route", "status"]
)
IN_FLIGHT = Gauge("tidegate_edge_in_flight", "Requests that are not answered yet")

Handler = Callable[[Exchange], Awaitable[None]]

_NOWHERE = "-"
_GONE = 499
"""Counted where nobody was there any more to be told."""


class Route:
    """A path and what may be done with it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.handlers: dict[str, Handler] = {}
        self.pattern: re.Pattern[str] = compile_path(path)[0]


class Application:
    """An ASGI application.

    Args:
        routes: method, path (as of starlette) and handler of each; a GET is a HEAD too.
        bodies: bytes of all bodies that are in memory.
    """

    def __init__(
        self, routes: Iterable[tuple[str, str, Handler]], bodies: int = 64 * 1024 * 1024
    ) -> None:
        self._bodies = Bodies(bodies)
        self._routes: dict[str, Route] = {}
        self._counted: dict[tuple[str, int], Any] = {}
        self._in_flight = 0
        IN_FLIGHT.set_function(lambda: self._in_flight)
        for method, path, handler in routes:
            handlers = self._routes.setdefault(path, Route(path)).handlers
            handlers[method] = handler
            if method == "GET":
                handlers["HEAD"] = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        exchange, path = Exchange(scope, receive, send, self._bodies), _NOWHERE
        self._in_flight += 1
        try:
            route = self._route(exchange)
            path = route.path
            exchange.check_headers()
            handler = route.handlers.get(scope["method"])
            if handler is None:
                raise _no_method(scope["method"], route)
            await handler(exchange)
        except Gone:
            pass
        except Exception as error:
            if exchange.status is not None:
                _log.error("broke off", path=scope["path"], exc_info=error)
                raise
            await exchange.tell(_problem(error, scope))
        finally:
            self._in_flight -= 1
            exchange.release()
            self._count(path, exchange.status or _GONE)

    def _route(self, exchange: Exchange) -> Route:
        path: str = exchange.scope["path"]
        if found := self._routes.get(path):  # a path without parameters is its own pattern
            return found
        for route in self._routes.values():
            if match := route.pattern.match(path):
                exchange.parameters = match.groupdict()
                return route
        detail = "GET /v1/openapi.json tells what there is"
        raise Problem(404, "nowhere", "Nothing here", detail)

    def _count(self, path: str, status: int) -> None:
        found = self._counted.get((path, status))
        if found is None:
            found = self._counted[path, status] = REQUESTS.labels(path, status)
        found.inc()


def _no_method(method: str, route: Route) -> Problem:
    allowed = ", ".join(route.handlers)
    detail = f"{method} is not; {allowed} is"
    return Problem(405, "method", "Method not allowed", detail, headers=(("allow", allowed),))


def _problem(error: Exception, scope: Scope) -> Problem:
    match error:
        case Problem():
            return error
        case LedgerError():
            _log.error("the ledger is not as it should be", error=str(error))
            return problem_of(error)
        case TidegateError():
            return problem_of(error)
        case _:
            _log.error("failed", path=scope["path"], exc_info=error)
            return Problem(500, "failed", "A fault of the edge", "it is in the log")
