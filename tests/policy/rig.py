"""Gateways, and an outsider's view of what they wrote, for the tests of this folder."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from nats.aio.msg import Msg

from policy.kit import write
from support import ADMIN, Broker, Raw
from support.broker import PERMIT_ALL, ROSTER
from tidegate_bus.connection import Connection, StreamState, connect
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.telemetry import Health
from tidegate_policy.bundle import load_bundle
from tidegate_policy.decide import Limits
from tidegate_policy.gateway import Gateway, GatewaySettings
from tidegate_policy.invariants import Checker
from tidegate_policy.personal.vault import Vault
from tidegate_policy.roster import Roster
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.identity import Registration
from tidegate_schemas.record import Receipt, Record, decode_receipts
from tidegate_schemas.subjects import Principal, Verdict
from tidegate_schemas.vocabulary import GATEWAY

LEDGER = subjects.ledger_stream(0)
INGRESS = subjects.ingress_stream(0)
_admins: WeakKeyDictionary[Broker, Connection] = WeakKeyDictionary()


class WatchedHealth(Health):
    """Keeps what was reported: failures, and None for each time that all was well."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[str | None] = []

    def fail(self, why: str | None) -> None:
        """See `Health`."""
        self.reports.append(why)
        super().fail(why)


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway at work."""

    task: asyncio.Task[None]
    health: WatchedHealth
    connection: Connection

    @property
    def status(self) -> str:
        """What `/healthz` says."""
        return str(self.health.report()[1]["status"])


@contextlib.asynccontextmanager
async def running(
    broker: Broker,
    policies: str = PERMIT_ALL,
    roster: Iterable[Registration] = tuple(ROSTER),
    *,
    clock: Callable[[], int] = time.time_ns,
    dedupe_window: float = 600.0,
    dedupe_entries: int = 100_000,
    retention: float | None = None,
) -> AsyncGenerator[Running]:
    """A gateway that has begun to read, or has ended; cancelled at the end."""
    bundle = load_bundle(write(broker.folder / "bundle", {"policy.cedar": policies}))
    snapshot = bundle.snapshot(Roster.of(roster))
    settings = GatewaySettings(
        "test/0", Limits(256 * 1024), dedupe_window, dedupe_entries, retention
    )
    seed = broker.keyring.seed(GATEWAY)
    async with contextlib.AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await connect(broker.url, GATEWAY, seed))
        vault = stack.enter_context(Vault.open(broker.vault))
        health = WatchedHealth()
        gateway = Gateway(connection, snapshot, settings, broker.heads(), health, vault, clock)
        task = asyncio.create_task(gateway.run())
        ready = asyncio.create_task(gateway.ready())
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        try:
            yield Running(task, health, connection)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@dataclass(slots=True)
class Sender:
    """A principal that writes bytes and listens for receipts. Make one with `sending`."""

    subject: str
    raw: Raw
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    sizes: list[int] = field(default_factory=list[int])

    async def send(self, payload: bytes, headers: bytes = b"") -> None:
        """Submit bytes."""
        if headers:
            await self.raw.publish_with(headers, self.subject, payload)
        else:
            await self.raw.publish(self.subject, payload)

    async def hear(self, message: Msg) -> None:
        """Receipts have come."""
        self.sizes.append(len(message.data))
        self.receipts += decode_receipts(message.data)


@contextlib.asynccontextmanager
async def sending(broker: Broker, who: Principal) -> AsyncGenerator[Sender]:
    """A sender that listens already."""
    sender = Sender(subjects.submission(who), await Raw.open(broker.url, broker.keyring.seed(who)))
    try:
        connection = await broker.connect(who)
        await connection.listen(subjects.receipt(who), sender.hear)
        await connection.nats.flush()
        yield sender
    finally:
        await sender.raw.close()


def event(name: str, type: str = "x.y", **attributes: Any) -> bytes:
    """An event with this id."""
    return encode(Envelope.new(type, id=name, **attributes))


async def admin(broker: Broker) -> Connection:
    """A connection of the administrator, always the same one."""
    if broker not in _admins:
        _admins[broker] = await broker.connect(ADMIN)
    return _admins[broker]


async def _state(broker: Broker, stream: str) -> StreamState:
    """Of a stream, also when the broker is just back and the connection not yet."""
    for _ in range(5):
        with contextlib.suppress(Unavailable):
            return await (await admin(broker)).stream_state(stream)
    raise AssertionError(f"no answer about {stream}")


async def ingress_state(broker: Broker) -> tuple[int, int]:
    """First and last sequence of the ingress."""
    state = await _state(broker, INGRESS)
    return state.first_seq, state.last_seq


async def length(broker: Broker) -> int:
    """Last sequence of the ledger."""
    return (await _state(broker, LEDGER)).last_seq


async def settled(broker: Broker) -> bool:
    """Whether every submission has its record."""
    last = await LedgerReader(await admin(broker)).last()
    recorded = last.record().ingress.seq if last else 0
    return recorded == (await ingress_state(broker))[1]


async def check(broker: Broker, *, whole: bool = True) -> list[Record]:
    """The whole ledger, read by somebody else and found to be good.

    With `whole`, the ingress has been recorded to its end. Every envelope has one first record.
    """
    checker = Checker()
    records: list[Record] = []
    async for stored in LedgerReader(await admin(broker)).read():
        made = checker.add(stored)
        if made is not None:
            records.append(made)
    last = (await ingress_state(broker))[1] if whole else None
    assert checker.finish(ingress_last=last, quiet=False) == []
    firsts = Counter(
        (made.by, message.key)
        for made in records
        if made.verdict is not Verdict.DUPLICATE and (message := made.message())
    )
    assert set(firsts.values()) <= {1}
    return records


async def limit(broker: Broker, stream: str, **config: object) -> None:
    """Change a stream as only an administrator may."""
    connection = await admin(broker)
    found = (await connection.api(subjects.stream_info(stream)))["config"]
    await connection.api(f"$JS.API.STREAM.UPDATE.{stream}", {**found, **config})
