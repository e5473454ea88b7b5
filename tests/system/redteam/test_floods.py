"""More than can be taken: what one sender cannot take away from the others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from support import ADMIN, AGENT, LIMITS, OTHER, PUBLISHER, until
from tidegate_bus.broker.topology import Limits
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Receipt
from tidegate_schemas.settings import ServerSettings

from .attack import INBOX, OWN, event
from .ground import POLICIES, Ground, bare, foe
from .layouts import Layout, Site
from .wire import Wire, frame

BACKLOG = 50
_MiB = 2**20


def _answers(wire: Wire) -> list[bytes]:
    return [heard.payload for heard in wire.heard if heard.subject == INBOX]


async def flood(wire: Wire, number: int, size: int = 0) -> list[bytes]:
    """Submit without end while nobody takes anything away; what the broker answers."""
    wire.heard.clear()
    await wire.say(f"SUB {INBOX} 1".encode())
    for first in range(0, number, 100):
        names = [f"flood-{n}" for n in range(first, min(first + 100, number))]
        await wire.say(*(frame(OWN, event(n) + b" " * size, INBOX) for n in names))
        await _answered(wire, min(first + 100, number))
    return _answers(wire)


async def _answered(wire: Wire, number: int) -> None:
    await wire.until(lambda: len(_answers(wire)) >= number)


async def taken_again(wire: Wire) -> bool:
    """Whether the broker takes one more."""
    return b"10077" not in (await flood(wire, 1))[-1]


async def test_a_flood_fills_the_own_quota_only(tmp_path: Path) -> None:
    """While no gateway works, one sender is refused, the others are taken, and all is recorded."""
    limits = Limits(LIMITS.ledger_bytes, LIMITS.ingress_bytes, BACKLOG)
    async with bare(tmp_path, limits=limits) as broker:
        wire = await Wire.open(broker.url, broker.secret(AGENT))
        answers = await flood(wire, 4 * BACKLOG)
        source, other = await broker.publisher(PUBLISHER), await broker.publisher(OTHER)
        for number in range(BACKLOG // 2):
            await source.publish(Envelope.new("noise", id=f"s{number}"), wait="accepted")
            await other.publish(Envelope.new("noise", id=f"o{number}"), wait="accepted")
        ingress = [subject for subject, _ in await broker.stored("INGRESS_0")]
        async with broker.gateway(POLICIES):
            last = await source.publish(Envelope.new("noise", id="last"))
            await until(lambda: taken_again(wire))
        records = await broker.records()
        await wire.close()

    refused = [answer for answer in answers if b"10077" in answer]
    assert len(refused) == 3 * BACKLOG
    assert ingress.count("in.team.agent") == BACKLOG
    assert ingress.count("in.outside.source") == ingress.count("in.team.other") == BACKLOG // 2
    assert last.seq == 2 * BACKLOG + 1
    assert [record.by for record in records].count("outside.source") == BACKLOG // 2 + 1


def least_room(backlog: int) -> ServerSettings:
    """Settings with the smallest ingress that they take, for a backlog."""
    size = backlog * _MiB
    while True:
        try:
            return ServerSettings(backlog=backlog, ingress_bytes=size)
        except ValidationError:
            size += 1024


async def flood_of_large_messages(broker: Site, number: int) -> list[bytes]:
    """Submit as large as the broker takes, then smaller and smaller, until nothing fits."""
    wire = await Wire.open(broker.url, broker.secret(AGENT))
    answers: list[bytes] = []
    for size in (_MiB - 200, 50_000, 1_000, 0):
        answers += await flood(wire, number, size)
    await wire.close()
    return answers


async def test_a_flood_of_large_messages_leaves_room_for_others(tmp_path: Path) -> None:
    """In the smallest ingress that settings take: the quota ends before the room does."""
    backlog = 20
    settings = least_room(backlog)
    limits = Limits(LIMITS.ledger_bytes, settings.ingress_bytes, settings.backlog)
    async with bare(tmp_path, limits=limits) as broker:
        answers = await flood_of_large_messages(broker, 2 * backlog)
        source = await broker.publisher(PUBLISHER)
        for number in range(backlog):
            await source.publish(Envelope.new("noise", id=f"{number}"), wait="accepted")
        stored = [subject for subject, _ in await broker.stored("INGRESS_0")]

    assert not any(b"maximum bytes exceeded" in answer for answer in answers)
    assert sum(b"10077" in answer for answer in answers) == len(answers) - backlog
    assert stored == ["in.team.agent"] * backlog + ["in.outside.source"] * backlog


async def test_a_flood_of_ids_makes_nobody_forget_those_of_others(tmp_path: Path) -> None:
    """Each sender has a window of its own: what another repeats is known as a repetition."""
    async with bare(tmp_path) as broker, broker.gateway(POLICIES, dedupe_entries=BACKLOG):
        source = await broker.publisher(PUBLISHER)
        first = await source.publish(Envelope.new("noise", id="once"))
        wire = await Wire.open(broker.url, broker.secret(AGENT))
        await flood(wire, 2 * BACKLOG)
        await wire.close()
        second = await source.publish(Envelope.new("noise", id="once"))

    assert (second.verdict, second.seq) == ("duplicate", first.seq)


async def test_others_are_served_during_a_flood(tmp_path: Path) -> None:
    """The gateway takes what comes in turn: a flood delays others, and they lose nothing."""
    async with bare(tmp_path) as broker, broker.gateway(POLICIES):
        wire = await Wire.open(broker.url, broker.secret(AGENT))
        source = await broker.publisher(PUBLISHER)
        flooding = asyncio.create_task(flood(wire, 3_000))
        receipts = [
            await source.publish(Envelope.new("noise", id=f"s{number}")) for number in range(50)
        ]
        await flooding
        await source.publish(Envelope.new("noise", id="last"))
        records = await broker.records()
        await wire.close()

    by = [record.by for record in records]
    assert by.count("outside.source") == len(receipts) + 1
    assert by.count("team.agent") == 3_000
    assert [record.ingress.seq for record in records] == list(range(1, len(records) + 1))
    assert all(receipt.verdict == "allow" for receipt in receipts)


async def test_acceptances_that_are_made_up_cost_no_receipt(tmp_path: Path) -> None:
    """Whoever knows a publisher's secret inbox, in one account, makes it believe nothing.

    The broker answers a repeated `Nats-Msg-Id` with the sequence of the first submission, so two
    envelopes of the publisher get one sequence; each has its receipt all the same.
    """
    same = b"NATS/1.0\r\nNats-Msg-Id: same\r\n\r\n"

    def remembers(config: dict[str, Any]) -> None:
        config["duplicate_window"] = 10 * 10**9  # 0.1 s is enough, but not for a slow machine

    async with bare(tmp_path, alter_stream=remembers, layout=Layout.TOGETHER) as broker:
        made = Ground(broker, await broker.connect(ADMIN))
        made.other = await broker.publisher(OTHER)
        inboxes: list[str] = []
        publishing: list[asyncio.Task[Receipt]] = []
        for number in range(2):
            inboxes.append(made.publisher_inbox)
            envelope = Envelope.new("noise", id=f"o{number}")
            publishing.append(asyncio.create_task(made.other.publish(envelope)))
            await until(lambda inbox=inboxes[-1]: made.publisher_inbox != inbox)
        async with foe(made) as attacker:
            for inbox in inboxes:
                await attacker.wire.publish(OWN, event("same"), inbox, same)
            async with broker.gateway(POLICIES):
                receipts = await asyncio.gather(*publishing)

    assert [receipt.verdict for receipt in receipts] == ["allow", "allow"]
