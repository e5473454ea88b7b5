"""Logging in with a token, and logging out."""

from __future__ import annotations

import secrets
import time

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .here import console_of
from .pages import render
from .security import Guard, own_path
from .session import Attempts, NotLetIn, session_of

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.console")

_MAX_TOKEN = 200
_LEAST_SECRET = 40


async def _page(request: Request) -> Response:
    if request.state.session:
        return RedirectResponse(own_path(request.query_params.get("next", "/")), 303)
    return _form(request, own_path(request.query_params.get("next", "/")))


def _form(
    request: Request, wanted: str, problem: str = "", status: int = 200, wait: int = 0
) -> Response:
    guard: Guard = request.state.guard
    secret = guard.prepared(request)  # of another tab, whose form is to be good too
    if len(secret) < _LEAST_SECRET:
        secret = secrets.token_urlsafe(32)
    page = render(request, "login.html", status, wanted=wanted, problem=problem, csrf=secret)
    guard.prepare(request, page, secret)
    if wait:
        page.headers["Retry-After"] = str(wait)
    return page


async def _login(request: Request) -> Response:
    form, now = request.state.form, time.time_ns()
    wanted = own_path(form.get("next", "/"))
    attempts: Attempts = request.app.state.attempts
    address = request.client.host if request.client else ""
    if wait := attempts.wait(address, now):
        problem = f"Too many attempts from {address}. Try again in {wait} seconds."
        return _form(request, wanted, problem, 429, wait)
    try:
        session = console_of(request).sessions.open(form.get("token", "")[:_MAX_TOKEN], now)
    except NotLetIn as error:
        attempts.failed(address, now)
        _log.warning("login refused", address=address)
        return _form(request, wanted, str(error), 401)
    _log.info("logged in", principal=str(session.principal), token=session.token)
    response = RedirectResponse(wanted, 303)
    guard: Guard = request.state.guard
    guard.let_in(request, response, session)
    return response


async def _logout(request: Request) -> Response:
    session, here = session_of(request), console_of(request)
    here.sessions.close(session)
    await here.tidy()
    _log.info("logged out", principal=str(session.principal))
    response = RedirectResponse("/login", 303)
    guard: Guard = request.state.guard
    guard.let_out(request, response)
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


routes = [
    Route("/login", _page),
    Route("/login", _login, methods=["POST"]),
    Route("/logout", _logout, methods=["POST"]),
]
