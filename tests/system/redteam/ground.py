"""The ground of an attack: a broker, a gateway, and others who go on with their work.

The others are real users of our own library: a publisher, the coordinator, and a worker that holds
one delivery all the time and settles every other one at once. Whatever they send bears the same
words, so that it is known when somebody hears it who should not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from support import ADMIN, AGENT, CAPABILITY, LIMITS, OTHER, PUBLISHER, TOPIC, until
from tidegate_bus.broker import topology
from tidegate_bus.broker.topology import Limits, Subscription
from tidegate_bus.connection import Connection
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_bus.publisher import Publisher
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import TidegateError
from tidegate_schemas.record import Receipt, encode_record
from tidegate_schemas.subjects import consumer_create
from tidegate_schemas.vocabulary import COORDINATOR

from .layouts import Alter, Layout, Site, start
from .wire import Wire

POLICIES = """
@id("everything") permit (principal, action, resource);
@id("only-the-coordinator-assigns-work")
forbid (principal, action in Action::"task", resource)
unless { principal.role == "coordinator" };
@id("only-the-coordinator-commands")
forbid (principal, action in Action::"control", resource)
unless { principal.role == "coordinator" };
@id("only-the-probe-raises-alarms")
forbid (principal, action in Action::"event", resource)
when { ["bus.probed", "bus.bypassed"].contains(context.to) }
unless { principal.role == "probe" };
"""
CANARY = b"not for your ears"
_LEASE = 3600.0  # nothing comes back by itself while a test runs
_PACE_SECONDS = 0.005
_HANDS = 100


class Ground:
    """Make one with `ground`.

    Attributes:
        sent: ids of what the others sent, with their receipts once these are there.
        got: what the worker received: sequence and bytes of the record, and which delivery it is.
        trouble: what went wrong for the others.
        rounds: how often an event went from the publisher to the worker and was answered.
        held: the delivery that the worker holds.
        patience: seconds after which a round is late.
    """

    def __init__(self, broker: Site, admin: Connection) -> None:
        """Strictly private: use `ground`."""
        self.broker = broker
        self.admin = admin
        self.sent: dict[str, Receipt | None] = {}
        self.got: dict[str, list[tuple[int, bytes, int]]] = {}
        self.trouble: list[str] = []
        self.rounds = 0
        self.held: Delivery | None = None
        self.patience = 8.0
        self.source: Publisher
        self.other: Publisher
        self.coordinator: Publisher
        self.worker: Inbox
        self._numbers = itertools.count(1)
        self._settling: set[asyncio.Task[None]] = set()
        self._arrived: dict[str, asyncio.Event] = {}
        self._turn = asyncio.Event()

    @property
    def shared(self) -> bool:
        """Whether attacker and worker are in one account, so that answers reach each other."""
        return self.broker.layout.shared

    async def start(self) -> None:
        """Connect the others; the worker takes what it will hold."""
        self.source = await self.broker.publisher(PUBLISHER)
        self.coordinator = await self.broker.publisher(COORDINATOR)
        connection = await self.broker.connect(OTHER)
        self.other = await Publisher.start(connection)
        self.worker = Inbox(connection, self._receive)
        await self.worker.start()
        self.worker.want(_HANDS)
        await self._send(self.source, _envelope(TOPIC, "canary-held"))
        await until(lambda: self.held is not None)

    async def feed(self, number: int = 1, size: int = 0) -> list[str]:
        """Have the coordinator assign work to the attacker; ids of the tasks."""
        ids = [f"task-{next(self._numbers)}" for _ in range(number)]
        for id_ in ids:
            task = Envelope.new(CAPABILITY, "x" * size, id=id_, kind="task", to=CAPABILITY)
            await self._send(self.coordinator, task)
        return ids

    @contextlib.asynccontextmanager
    async def others_at_work(self) -> AsyncGenerator[None]:
        """The others do their rounds meanwhile, and a whole one when all is done."""
        stop = asyncio.Event()
        working = asyncio.create_task(self._work(stop))
        try:
            yield
            goal = self.rounds + 2  # the round that is under way proves nothing
            while self.rounds < goal and not self.trouble:
                self._turn.clear()
                await self._turn.wait()
        finally:
            stop.set()
            await working

    async def _work(self, stop: asyncio.Event) -> None:
        while not stop.is_set() and not self.trouble:
            try:
                async with asyncio.timeout(self.patience):
                    await self._round()
            except TimeoutError:
                self.trouble.append("a round took too long")
            self._turn.set()
            await asyncio.sleep(_PACE_SECONDS)  # a pace, so that the ledger stays small

    async def _round(self) -> None:
        number = next(self._numbers)
        name = f"canary-{number}"
        arrived = self._arrived[name] = asyncio.Event()
        await self._send(self.source, _envelope(TOPIC, name))
        await arrived.wait()
        await self._send(self.other, _envelope("answer", f"canary-answer-{number}"))
        self.rounds += 1

    async def _send(self, publisher: Publisher, envelope: Envelope) -> None:
        self.sent[envelope.id] = None
        try:
            self.sent[envelope.id] = await publisher.publish(envelope, timeout=self.patience)
        except TidegateError as error:
            self.trouble.append(f"{envelope.id}: {error!r}")

    def _receive(self, delivery: Delivery) -> None:
        record = delivery.record
        message = record.message()
        name = message.id if message else ""
        self.got.setdefault(name, []).append(
            (record.seq, encode_record(record), delivery.delivered)
        )
        if name in self._arrived:
            self._arrived[name].set()
        if name == "canary-held" and self.held is None:
            self.held = delivery
            return
        task = asyncio.create_task(delivery.done())
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        self.worker.want(_HANDS)

    async def close(self) -> None:
        """The worker stops; connections end with the broker."""
        await self.worker.close()

    # What an attacker cannot know, and is given all the same: no defence may rest on it.

    @property
    def held_ack(self) -> str:
        """Ack subject of what the worker holds."""
        assert self.held
        return self.held._ack  # pyright: ignore[reportPrivateUsage]

    @property
    def worker_inbox(self) -> str:
        """Where the worker's deliveries arrive."""
        puller = self.worker._puller  # pyright: ignore[reportPrivateUsage]
        return f"{puller._inbox.subject}.1"  # pyright: ignore[reportPrivateUsage]

    @property
    def publisher_inbox(self) -> str:
        """Where the publisher of the same principal hears that an envelope was accepted."""
        publisher = self.other
        inbox = publisher._inbox  # pyright: ignore[reportPrivateUsage]
        return f"{inbox}.{publisher._sent + 1:x}"  # pyright: ignore[reportPrivateUsage]


def _envelope(type_: str, name: str) -> Envelope:
    return Envelope.new(type_, CANARY.decode(), id=name)


class Foe:
    """Whoever has the key of `team.agent`.

    Attributes:
        wire: its connection, with its own inbox and receipts subscribed.
        wires: all that it has opened and listens to.
        hanging: those on which it will neither write nor listen any more.
        secret: its key, and in operator mode its token.
        keys: all public keys that it ever had.
    """

    def __init__(self, ground: Ground, wire: Wire) -> None:
        """Strictly private: use `foe`."""
        self.ground = ground
        self.wire = wire
        self.wires = [wire]
        self.hanging: list[Wire] = []
        self.url = ground.broker.url
        self.secret = ground.broker.secret(AGENT)
        self.keys = {self.secret.public_key}

    async def open(self, **options: Any) -> Wire:
        """One more connection with the own key, and other fields in CONNECT."""
        self.wires.append(await Wire.open(self.url, self.secret, **options))
        return self.wires[-1]

    async def dial(self) -> Wire:
        """One more connection, on which nothing was said yet."""
        self.wires.append(await Wire.dial(self.url))
        return self.wires[-1]

    def leave(self, wire: Wire) -> None:
        """Let a connection hang until the end of the attack."""
        self.wires.remove(wire)
        self.hanging.append(wire)

    def server_bytes(self) -> int:
        """Memory that the broker holds."""
        pid = self.ground.broker.server.pid
        status = Path(f"/proc/{pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@contextlib.asynccontextmanager
async def foe(ground: Ground) -> AsyncGenerator[Foe]:
    """An attacker, connected."""
    wire = await Wire.open(ground.broker.url, ground.broker.secret(AGENT))
    attacker = Foe(ground, wire)
    try:
        await wire.say(b"SUB _INBOX_team_agent.> 1", b"SUB receipt.team.agent 2")
        yield attacker
    finally:
        for opened in (*attacker.wires, *attacker.hanging):
            await opened.close()


@contextlib.asynccontextmanager
async def bare(
    folder: Path,
    *,
    alter: Alter | None = None,
    alter_stream: Alter | None = None,
    limits: Limits = LIMITS,
    layout: Layout = Layout.APART,
) -> AsyncGenerator[Site]:
    """A broker of the product's configuration and topology, or with a defence taken away.

    Args:
        folder: for its store.
        alter: changes the broker's configuration before it starts.
        alter_stream: changes the configuration of each stream before it is made.
        limits: of the streams.
        layout: see there.
    """
    broker = await start(folder, layout, alter)
    try:
        admin = await broker.connect(ADMIN)
        for config in topology.streams(limits):
            if alter_stream:
                alter_stream(config)
            await admin.api(f"$JS.API.STREAM.CREATE.{config['name']}", config)
        for subscription in (
            Subscription(AGENT, (CAPABILITY,), (), _LEASE),
            Subscription(OTHER, (), (TOPIC,), _LEASE),
        ):
            consumer = topology.consumer(subscription)
            await admin.api(
                f"{consumer_create('LEDGER_0')}.{consumer['durable_name']}",
                {"stream_name": "LEDGER_0", "config": consumer},
            )
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def ground(
    folder: Path,
    *,
    alter: Alter | None = None,
    alter_stream: Alter | None = None,
    policies: str = POLICIES,
    layout: Layout = Layout.APART,
) -> AsyncGenerator[Ground]:
    """A broker with a gateway and others at work; see `bare`."""
    async with (
        bare(folder, alter=alter, alter_stream=alter_stream, layout=layout) as broker,
        broker.gateway(policies),
    ):
        made = Ground(broker, await broker.connect(ADMIN))
        await made.start()
        try:
            yield made
        finally:
            await made.close()
