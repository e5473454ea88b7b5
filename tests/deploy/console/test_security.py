"""The guard by itself: what depends on how the console is served."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tidegate.console.security import Guard
from tidegate.console.session import Sessions
from tidegate.tokens import Tokens
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

FOLLOWER = SimpleNamespace(sample=SimpleNamespace(asked=0), behind="")
CONTEXT = SimpleNamespace(name="hello", follower=FOLLOWER)


def served(folder: Path, *, names: tuple[str, ...] = (), secure: bool = False) -> httpx.AsyncClient:
    """A client of a guard whose application logs everybody in."""
    tokens = Tokens(folder / "tokens.json")
    sessions = Sessions(tokens, lambda who, now: Role.OPERATOR)
    _, text = tokens.add(Principal("ops", "ann"), now=0)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        request, response = Request(scope), PlainTextResponse("in")
        request.state.guard.let_in(request, response, sessions.open(text, 0))
        await response(scope, receive, send)

    guard = Guard(application, CONTEXT, sessions, names, secure=secure)
    scheme = "https" if secure else "http"
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url=f"{scheme}://127.0.0.1")


async def test_over_tls_a_cookie_is_of_this_host_and_never_sent_in_the_clear(
    tmp_path: Path,
) -> None:
    """`Secure`, and a name with `__Host-`, which no other host of the domain can set."""
    async with served(tmp_path, secure=True) as tls, served(tmp_path) as plain:
        over_tls = (await tls.get("/login")).headers["set-cookie"]
        in_the_clear = (await plain.get("/login")).headers["set-cookie"]

    assert over_tls.startswith("__Host-tidegate_")
    assert "; Secure" in over_tls
    assert "Secure" not in in_the_clear


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("bus.example", 200),
        ("BUS.example:8443", 200),
        ("localhost:1", 200),
        ("10.1.2.3:80", 200),
        ("[fe80::1]", 200),
        ("bus.example.evil.example", 421),
        ("evil.example@127.0.0.1", 421),
        ("127.0.0.1.evil.example", 421),
        ("[", 421),
        ("", 421),
    ],
)
async def test_it_answers_under_addresses_and_the_names_that_are_set(
    tmp_path: Path, host: str, status: int
) -> None:
    """Nobody can lead an address elsewhere; a name only who owns it."""
    async with served(tmp_path, names=("bus.example",)) as client:
        answer = await client.get("/login", headers={"Host": host})

    assert answer.status_code == status
    assert ("set-cookie" in answer.headers) == (status == 200)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_nothing_is_done_but_by_forms(tmp_path: Path, method: str) -> None:
    """Other methods get nowhere, so no page has to think of them."""
    async with served(tmp_path) as client:
        assert (await client.request(method, "/login")).status_code == 405
