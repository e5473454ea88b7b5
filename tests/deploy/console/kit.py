"""What the tests of the console share: a project that it runs for, and people at browsers."""

from __future__ import annotations

import contextlib
import html
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Self

import httpx

from tidegate.cli.init import init
from tidegate.identities import ensure_keys
from tidegate.project import Project, load_project
from tidegate.testing import RunningProject, running_project
from tidegate.tokens import Token, Tokens
from tidegate_bus.identity.register import Entry, Key
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

ANN, BOB = Principal("ops", "ann"), Principal("ops", "bob")
WEBSITE = Principal("outside", "website")
POLICY = """
@id("ann-governs")
permit (principal == Agent::"ops.ann", action in Action::"control", resource)
when { context.to like "control.*" || context.to like "policy.*" };

@id("website-measures")
permit (
  principal == Agent::"outside.website", action in Action::"event", resource == Topic::"metric"
);

@id("a-kill-takes-two")
@require_approval("1 of ops.bob within never")
permit (principal == Agent::"ops.ann", action in Action::"control", resource)
when { context.to == "control.kill" };
"""
_CSRF = re.compile(r'name="csrf" value="([^"]+)"')
_NOTICE = re.compile(r'<div class="notice (\w+)" role="status">(.*?)</div>', re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


def project(folder: Path) -> Project:
    """The project of `tidegate init`, with two people who operate it; one may say nothing."""
    init(folder / "hello")
    with (folder / "hello" / "policy" / "main.cedar").open("a") as policy:
        policy.write(POLICY)
    made = load_project(folder / "hello")
    now = time.time_ns()
    ensure_keys(made, now)
    with made.state.register.edit() as entries:
        for who in (ANN, BOB):
            key = Key(made.state.keyring.ensure(who), rfc3339(now))
            entries[str(who)] = Entry(principal=str(who), role=Role.OPERATOR, keys=(key,))
    return made


class Ground:
    """A stack with its console."""

    def __init__(self, running: RunningProject) -> None:
        self.running = running
        self.project = running.stack.project
        self.tokens = Tokens(self.project.state.tokens)

    @property
    def url(self) -> str:
        """Where the console is."""
        return self.project.state.console_url.read_text().strip()

    def token(self, who: Principal) -> tuple[Token, str]:
        """A new token of somebody."""
        return self.tokens.add(who, now=time.time_ns())

    @contextlib.asynccontextmanager
    async def visitor(self, who: Principal | None = None) -> AsyncGenerator[Visitor]:
        """Somebody at a browser, logged in if they are named."""
        async with Visitor(self.url) as visitor:
            if who:
                answer = await visitor.login(self.token(who)[1])
                assert answer.status_code == 303, answer.text
            yield visitor


@contextlib.asynccontextmanager
async def ground(folder: Path) -> AsyncGenerator[Ground]:
    """A stack with a console, for the tests of a file."""
    made = project(folder)
    async with running_project(made.root, made.state.folder, faces=("console",)) as running:
        yield Ground(running)


class Visitor:
    """Somebody at a browser without JavaScript."""

    def __init__(self, url: str, address: str = "127.0.0.1") -> None:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        self.http = httpx.AsyncClient(base_url=url, transport=transport, timeout=20)

    async def get(self, path: str) -> str:
        """The text of a page that there is."""
        answer = await self.http.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.text

    async def login(self, token: str) -> httpx.Response:
        """Log in; what is answered."""
        return await self.send("/login", "/login", token=token)

    async def send(self, page: str, path: str, **fields: str) -> httpx.Response:
        """Fill in the form of a page and send it; what is answered."""
        found = _CSRF.findall(await self.get(page))
        return await self.http.post(path, data={"csrf": found[-1], **fields})

    async def act(self, page: str, path: str, **fields: str) -> tuple[str, str]:
        """The same, and what is told on the page after it: verdict and words."""
        answer = await self.send(page, path, **fields)
        assert answer.status_code == 303, answer.text
        return told(await self.get(answer.headers["location"]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()


def told(page: str) -> tuple[str, str]:
    """The last notice of a page: its verdict and its words."""
    verdict, inside = _NOTICE.findall(page)[-1]
    return verdict, text_of(inside)


def text_of(page: str) -> str:
    """What is to be read on a page, in one line."""
    return " ".join(html.unescape(_TAG.sub(" ", page)).split())


def totals(page: str) -> dict[str, int]:
    """The counters of the start page, by verdict."""
    found = re.findall(r'id="total-(\w+)">([\d,]+)<', page)
    return {verdict: int(number.replace(",", "")) for verdict, number in found}
