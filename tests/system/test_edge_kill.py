"""The HTTP edge may be killed at any moment: clients that send again lose and repeat nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import until
from tidegate.bench import PROJECT
from tidegate.bench.requests import Answer, Client, request
from tidegate.project import Project, address, load_project
from tidegate.stack import Stack
from tidegate.tokens import Tokens
from tidegate_bus.bulk import Access, BulkReader
from tidegate_schemas.record import decode_record
from tidegate_schemas.subjects import Kind, Principal, delivery
from tidegate_schemas.vocabulary import OPERATOR

EVENTS = 100_000
CLIENTS = 50
KILLS = 3
BATCH = 25
"""Events a request, of one client in five; the others send one by one."""

_PAUSE_SECONDS = 0.2
_LOAD = Principal("bench", "load")
_TOPIC = "bench.event"


class _Crowd:
    """Clients that send until each of their events is known to be taken."""

    def __init__(self, project: Project, token: str) -> None:
        self._written = project.state.edge_url
        self._token = token
        self.taken = 0
        self.resent = 0

    async def client(self, number: int) -> None:
        """One of them, with a connection of its own."""
        connection: Client | None = None
        for events in _requests(number):
            left = events
            while left:
                try:
                    if connection is None:
                        connection = await Client.open(self._written.read_text().strip())
                    answer = await connection.ask(self._request(left, number))
                except OSError:  # killed, or not there again yet; what was heard nobody knows
                    connection = None
                else:
                    left = _left(left, answer)
                if left:
                    self.resent += len(left)
                    await asyncio.sleep(_PAUSE_SECONDS)
            self.taken += len(events)
        if connection:
            connection.close()

    def _request(self, events: list[str], number: int) -> bytes:
        whole = [
            {"specversion": "1.0", "id": id, "source": f"/client/{number}", "type": _TOPIC}
            for id in events
        ]
        mode = "cloudevents-batch" if len(whole) > 1 else "cloudevents"
        wait = "accepted" if number % 2 else "verdict"
        return request(
            f"/v1/events?wait={wait}",
            json.dumps(whole if len(whole) > 1 else whole[0]).encode(),
            ("host", "localhost"),
            ("authorization", f"Bearer {self._token}"),
            ("content-type", f"application/{mode}+json"),
        )


def _requests(number: int) -> Iterator[list[str]]:
    """Ids of the events of each request of a client; other clients have the same ones."""
    size = BATCH if number % 5 == 0 else 1
    for first in range(0, EVENTS // CLIENTS, size):
        yield [str(n) for n in range(first, first + size)]


def _left(events: list[str], answer: Answer) -> list[str]:
    """What has to be sent again."""
    if answer.status in (200, 202):
        return []
    if answer.status == 207:
        outcomes = json.loads(answer.body)
        return [outcome["id"] for outcome in outcomes if outcome["status"] not in (200, 202)]
    assert answer.status in (429, 503), answer
    return events


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_killing_the_edge_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """100,000 events of 50 clients, three SIGKILLs: each event has one record."""
    project = load_project(PROJECT, tmp_path)
    async with Stack(project, agents=set(), faces=("edge",)) as stack:
        _, token = Tokens(project.state.tokens).add(_LOAD, now=time.time_ns())
        edge = next(child for child in stack.children if child.name == "edge")
        crowd = _Crowd(project, token)
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(crowd.client(number))
            for kill in range(1, KILLS + 1):
                goal = kill * EVENTS // (KILLS + 1)
                await until(lambda goal=goal: crowd.taken >= goal, seconds=120)
                assert edge.pid
                os.kill(edge.pid, signal.SIGKILL)
        key = project.state.keyring.path(OPERATOR)
        ledger = _Ledger(Access(address(project.state), OPERATOR, key))
        await until(lambda: ledger.look() >= EVENTS, seconds=60)
        ledger.close()

    assert crowd.taken == EVENTS
    assert crowd.resent >= KILLS
    assert edge.restarts == KILLS
    assert len(ledger.records) == EVENTS
    assert set(ledger.records.values()) == {1}


class _Ledger:
    """What is recorded of the events. Of one that is sent again, the repeat has another subject."""

    def __init__(self, access: Access) -> None:
        self._reader = BulkReader(access)
        self._next = 1
        self.records: Counter[tuple[str, str]] = Counter()

    def look(self) -> int:
        """Read on; how many different events there are by now."""
        for entries in self._reader.read(self._next, filter=delivery(0, Kind.EVENT, _TOPIC)):
            self._next = entries[-1].seq + 1
            for entry in entries:
                record = decode_record(entry.payload)
                message = record.message()
                assert message
                assert record.by == str(_LOAD)
                self.records[message.source, message.id] += 1
        return len(self.records)

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()
