"""Requests without end: what they cost the broker, and for how long.

Across accounts the broker keeps a note of where the answers of each pull go, some kilobyte. A pull
may bring many answers, so no answer ends the note; it goes with the connection that has asked, or
one to two times `SILENCE_SECONDS` after the last answer.

What remains: within that time a client that asks without end takes a kilobyte a request, and the
broker has no limit of them. A connection that is cut, as by a revocation, gives all of it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import urllib.request
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from support import ADMIN, until
from tidegate_bus.broker import accounts

from .attack import NOW, PULL
from .ground import Foe, Ground, bare, foe
from .layouts import Layout
from .wire import frame

REQUESTS = 5_000
_MiB = 2**20


@contextlib.asynccontextmanager
async def watched(folder: Path, layout: Layout) -> AsyncGenerator[tuple[Foe, str]]:
    """An attacker, and where the broker tells of its notes."""

    def monitored(document: dict[str, Any]) -> None:
        document["http"] = "127.0.0.1:-1"

    async with bare(folder, alter=monitored, layout=layout) as broker:
        found = re.search(r"http monitor on (\S+)", broker.server.log.read_text())
        assert found
        async with foe(Ground(broker, await broker.connect(ADMIN))) as attacker:
            yield attacker, f"http://{found[1]}/accountz?acc=BUS"


async def notes(url: str) -> int:
    """How many notes the broker keeps."""

    def ask() -> int:
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - of the broker, on this machine
            return len(json.load(answer)["account_detail"].get("responses") or ())

    return await asyncio.to_thread(ask)


async def ask_without_end(attacker: Foe) -> None:
    """As many requests, each to be answered somewhere else."""
    inboxes = [f"_INBOX_team_agent.{number}" for number in range(REQUESTS)]
    for first in range(0, REQUESTS, 1_000):
        part = inboxes[first : first + 1_000]
        await attacker.wire.say(*(frame(PULL, NOW, inbox) for inbox in part))


@pytest.mark.parametrize("layout", [Layout.APART, Layout.TOGETHER])
async def test_requests_cost_the_broker_nothing_once_the_connection_is_closed(
    tmp_path: Path, layout: Layout
) -> None:
    """A kilobyte or so each, all of it forgotten with the connection."""
    async with watched(tmp_path, layout) as (attacker, url):
        before = attacker.server_bytes()
        await ask_without_end(attacker)
        kept = await notes(url)
        grown = attacker.server_bytes() - before
        await attacker.wire.close()
        async with asyncio.timeout(accounts.SILENCE_SECONDS / 2):  # it is not the time that did it
            await until(lambda: none_left(url))

    assert kept == REQUESTS
    assert grown < 40 * _MiB


async def test_requests_cost_the_broker_nothing_that_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the connection stays, each note goes soon after it has served."""
    monkeypatch.setattr(accounts, "SILENCE_SECONDS", silence := 1.0)
    async with watched(tmp_path, Layout.APART) as (attacker, url):
        await ask_without_end(attacker)
        began, kept = time.monotonic(), await notes(url)
        await until(lambda: none_left(url))
        lasted = time.monotonic() - began
        still = await attacker.wire.publish(PULL, NOW, "_INBOX_team_agent.x")

    assert 0 < kept <= REQUESTS
    assert lasted < 4 * silence
    assert still == []


async def none_left(url: str) -> bool:
    """Whether the broker has forgotten all requests."""
    return await notes(url) == 0
