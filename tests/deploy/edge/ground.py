"""A stack with an edge, for the tests of a file: an agent, a publisher, and people who operate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tidegate.testing import RunningProject, running_project
from tidegate.tokens import Tokens
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Principal

SETTINGS = """
project: ground
publishers: [outside.web, outside.other, outside.flood]
server: {backlog: 60}
edge: {body_bytes: 400000}
gateway: {envelope_bytes: 100000}
"""
AGENT = """
import tidegate

agent = tidegate.Agent()


@agent.task("text.shout")
async def shout(text: str) -> str:
    return text.upper()


@agent.task("text.refuse")
async def refuse(text: str) -> str:
    raise tidegate.Permanent("it is not a text that I like")


@agent.event("shop.broken")
async def mend(what: str) -> None:
    raise tidegate.Permanent("I mend no shops")
"""
MANIFEST = """
team: work
name: shouter
version: "1"
owner: you
run: shouter:agent
capabilities: [text.shout, text.refuse]
subscribes: [shop.broken]
"""
POLICY = """
@id("outside-says-what-happened")
permit (principal, action in Action::"event", resource)
when { principal.role == "publisher" && context.to like "shop.*" };

@id("refunds-are-asked")
@require_approval("1 of role operator within 1h")
permit (principal == Agent::"outside.web", action in Action::"event", resource == Topic::"refund");

@id("web-gives-work")
permit (principal == Agent::"outside.web", action in Action::"task", resource);

@id("agents-answer")
permit (principal, action in Action::"result", resource) when { principal.role == "agent" };

@id("operators-command")
permit (principal == Agent::"tidegate.operator", action in Action::"control", resource);

@id("coordinator-keeps-its-books")
permit (principal == Agent::"tidegate.coordinator", action in Action::"control", resource);
"""
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


class Ground:
    """The stack, and clients of its edge."""

    def __init__(self, running: RunningProject) -> None:
        self.running = running
        self.state = running.stack.project.state
        self._tokens = Tokens(self.state.tokens)
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._known: dict[str, str] = {}

    @property
    def url(self) -> str:
        """Where the edge is."""
        return self.state.edge_url.read_text().strip()

    def token(self, principal: str, **more: Any) -> str:
        """A new token."""
        who = Principal.parse(principal)
        return self._tokens.add(who, now=time.time_ns(), **more)[1]

    def bearer(self, principal: str = "outside.web") -> dict[str, str]:
        """The header of somebody."""
        if principal not in self._known:
            self._known[principal] = self.token(principal)
        return {"Authorization": f"Bearer {self._known[principal]}"}

    @property
    def web(self) -> httpx.AsyncClient:
        """A client that shows the token of `outside.web`."""
        return self.client("outside.web")

    def client(self, principal: str) -> httpx.AsyncClient:
        """A client that shows a token."""
        if principal not in self._clients:
            self._clients[principal] = httpx.AsyncClient(
                base_url=self.url, headers=self.bearer(principal), timeout=30
            )
        return self._clients[principal]

    async def close(self) -> None:
        """Disconnect."""
        for client in self._clients.values():
            await client.aclose()

    async def send(self, event: Envelope | dict[str, Any], query: str = "") -> httpx.Response:
        """Send an event as `outside.web`, structured."""
        headers = {"content-type": STRUCTURED}
        body = msgspec.json.encode(event)
        return await self.web.post(f"/v1/events{query}", content=body, headers=headers)

    async def records(self, id: str) -> list[Record]:
        """All records of envelopes with an id, in order."""
        async with await self.running.bus() as bus:
            found = [record async for record in bus.records()]
        return [r for r in found if (m := r.message()) is not None and m.id == id]

    async def messages(self, *ids: str) -> dict[str, Envelope]:
        """The envelopes of records, by their ids."""
        async with await self.running.bus() as bus:
            found = [record.message() async for record in bus.records()]
        return {m.id: m for m in found if m and m.id in ids}


@contextlib.asynccontextmanager
async def ground(folder: Path, config: pytest.Config) -> AsyncGenerator[Ground]:
    """Run a stack with an edge."""
    root = folder / "ground"
    for name, text in (
        ("tidegate.yaml", SETTINGS),
        ("agents/shouter.yaml", MANIFEST),
        ("shouter.py", AGENT),
        ("policy/main.cedar", POLICY),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:  # processes start faster when they are compiled
        patch.setenv("PYTHONDONTWRITEBYTECODE", "")
        patch.setenv("PYTHONPYCACHEPREFIX", str(config.cache.mkdir("bytecode")))
        async with running_project(root, folder / "state", faces=("edge",)) as up:
            made = Ground(up)
            try:
                yield made
            finally:
                await made.close()


def example(id: str, **more: Any) -> Envelope:
    """An event that policy permits."""
    data = more.pop("data", {"total": 12.50, "müll": ["ä"]})
    return Envelope.new("shop.sold", data, id=id, source=more.pop("source", "/shop"), **more)
