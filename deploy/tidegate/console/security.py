"""The door of the console: who may ask for what, and what a browser may do with an answer.

Whatever page there is stands behind it, so no page can forget it:

* A request must name a host under which the console is known, so that no other site's name can be
  made to lead here (DNS rebinding).
* A form must come from a page of the console: its `Origin`, if it has one, is the host, and it
  holds the secret of the session (for the login: the one of a cookie of its own).
* Everything but the login and static files needs a session.
* Every answer forbids to be framed, to be taken for another type, to be kept, and to load or run
  anything that is not a file of the console.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Collection
from urllib.parse import parse_qsl, quote, urlsplit

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidegate_schemas.errors import TidegateError

from .pages import error_page
from .session import Session, Sessions, same

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.console")

_MAX_FORM_BYTES = 64 * 1024
_FORM_SECONDS = 10.0
_FORM = "application/x-www-form-urlencoded"
_PUBLIC = ("/static/", "/login", "/healthz")
_ON_THEIR_OWN = ("/live",)
"""Asked for by a page that stays open, not by a person: no use of a session."""

_POLICY = "; ".join(
    (
        "default-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Stands before an application; see above.

    Args:
        app: the application.
        context: what its pages find as `request.state.console`.
        sessions: who is logged in.
        names: host names under which it is known, besides addresses and `localhost`.
        secure: it speaks TLS.
    """

    def __init__(
        self,
        app: ASGIApp,
        context: object,
        sessions: Sessions,
        names: Collection[str],
        *,
        secure: bool,
    ) -> None:
        self._app = app
        self._context = context
        self._sessions = sessions
        self._names = {"localhost", *(name.lower() for name in names)}
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        state = scope.setdefault("state", {})
        state |= {"console": self._context, "session": None, "form": {}, "guard": self}
        state["cookie"] = self._cookie(scope)
        request = Request(scope, receive)
        static = request.url.path.startswith("/static/")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if not static:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            refusal = await self._refusal(request)
        except TidegateError as error:  # the file of tokens, or the register, is damaged
            _log.error("nobody can be let in", error=str(error))
            text = "Who may log in cannot be told; the log of the console says why."
            refusal = error_page(request, 503, "Nobody can be let in", text)
        await (refusal or self._app)(scope, receive, guarded)

    def let_in(self, request: Request, response: Response, session: Session) -> None:
        """Give a browser its session."""
        self._set(response, request.state.cookie, session.key)
        self._delete(response, f"{request.state.cookie}_login")

    def let_out(self, request: Request, response: Response) -> None:
        """Take it away."""
        self._delete(response, request.state.cookie)

    def prepare(self, request: Request, response: Response, secret: str) -> None:
        """Give a browser that is not logged in a secret for the form of the login."""
        self._set(response, f"{request.state.cookie}_login", secret)

    def prepared(self, request: Request) -> str:
        """The secret that it has been given; empty without."""
        return request.cookies.get(f"{request.state.cookie}_login", "")

    def _cookie(self, scope: Scope) -> str:
        """Name of the cookie of a session.

        A browser sends the cookies of a host to all its ports, so each has a name of its own.
        """
        _, port = scope.get("server") or ("", 0)
        return f"{'__Host-' if self._secure else ''}tidegate_{port}"

    def _delete(self, response: Response, name: str) -> None:
        response.delete_cookie(
            name, path="/", httponly=True, samesite="strict", secure=self._secure
        )

    def _set(self, response: Response, name: str, value: str) -> None:
        response.set_cookie(
            name, value, path="/", httponly=True, samesite="strict", secure=self._secure
        )

    async def _refusal(self, request: Request) -> Response | None:
        """What is answered instead of a page."""
        host = request.headers.get("host", "")
        if not self._known(host):
            return error_page(
                request,
                421,
                "Not known under this name",
                "The console answers to its address, to localhost, and to the names in "
                "`console.names` of tidegate.yaml.",
            )
        path, now = request.url.path, time.time_ns()
        session = self._sessions.find(request.cookies.get(request.state.cookie, ""), now)
        request.state.session = session
        public = path.startswith(_PUBLIC)
        if session and not public and path not in _ON_THEIR_OWN and not _polls(request):
            session.used = now
        if request.method == "POST":
            return await self._refused_form(request, host, public)
        if request.method not in ("GET", "HEAD"):
            return error_page(request, 405, "Not like this", "Pages are read with GET.")
        if session or public:
            return None
        return self._to_login(request)

    async def _refused_form(self, request: Request, host: str, public: bool) -> Response | None:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return error_page(request, 403, "From another site", "Forms are sent from here only.")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return error_page(request, 403, "From another site", "Forms are sent from here only.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _FORM:
            return error_page(request, 415, "Not a form", f"Forms are sent as {_FORM}.")
        try:
            request.state.form = await _form(request)
        except _TooMuch:
            return error_page(request, 413, "Too much", f"A form has at most {_MAX_FORM_BYTES} B.")
        except (TimeoutError, ClientDisconnect, ValueError):
            return error_page(request, 400, "Not a form", "It could not be read.")
        if not public and request.state.session is None:
            return self._to_login(request)
        if public and request.state.session:  # another tab has logged in meanwhile
            return RedirectResponse(own_path(request.state.form.get("next", "/")), 303)
        session: Session | None = None if public else request.state.session
        wanted = session.csrf if session else self.prepared(request)
        given = request.headers.get("x-csrf-token") or request.state.form.get("csrf", "")
        if not wanted or not same(given, wanted):
            return error_page(
                request,
                403,
                "The form was out of date",
                "Nothing was done. Go back, load the page again, and send it once more.",
            )
        return None

    def _to_login(self, request: Request) -> Response:
        if request.url.path in _ON_THEIR_OWN:
            return Response("event: over\ndata:\n\n", media_type="text/event-stream")
        if "hx-request" in request.headers:  # a part of a page: the whole of it must go there
            return Response(status_code=401, headers={"HX-Redirect": "/login"})
        wanted = request.url.path if request.method == "GET" else "/"
        if request.method == "GET" and request.url.query:
            wanted += f"?{request.url.query}"
        there = "/login" if wanted == "/" else f"/login?next={quote(wanted, safe='')}"
        return RedirectResponse(there, 303)

    def _known(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name = parts.hostname or ""
            if parts.netloc != host or "@" in host:
                return False
            if name in self._names:
                return True
            ipaddress.ip_address(name)  # is no name that anybody could lead elsewhere
        except ValueError:
            return False
        return True


def own_path(text: str) -> str:
    """A path of the console, from a form or an address; the start page if it is none.

    `//other.example` leads elsewhere, and so it does with a backslash.
    """
    parts = urlsplit(text)
    good = text.startswith("/") and text[1:2] not in ("/", "\\") and not parts.scheme
    return text if good and not parts.netloc and text.isprintable() else "/"


class _TooMuch(Exception):
    """A form is too large."""


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async with asyncio.timeout(_FORM_SECONDS):
        async for piece in request.stream():
            body += piece
            if len(body) > _MAX_FORM_BYTES:
                raise _TooMuch
    pairs = parse_qsl(
        body.decode("ascii"),
        keep_blank_values=True,
        errors="strict",
        max_num_fields=200,
    )
    return dict(pairs)


def _polls(request: Request) -> bool:
    """Whether a page asks by itself how things are."""
    return request.headers.get("hx-trigger", "").startswith("poll-")
