"""A real broker with streams, identities and, on demand, a gateway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

from tidegate_bus import topology
from tidegate_bus.accounts import GATEWAY, REGISTRAR, Identity, Role, configuration
from tidegate_bus.connection import Connection, connect
from tidegate_bus.keyring import Keyring
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_bus.server import Server
from tidegate_bus.telemetry import Health
from tidegate_bus.topology import Limits as StreamLimits
from tidegate_bus.topology import Subscription
from tidegate_policy.bundle import Member, load_bundle, write_bundle
from tidegate_policy.decide import Limits
from tidegate_policy.gateway import Gateway, GatewaySettings
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import COORDINATOR, OPERATOR

AGENT = Principal("team", "agent")
OTHER = Principal("team", "other")
PUBLISHER = Principal("outside", "source")
CAPABILITY = "work.do"
TOPIC = "thing.happened"

ROLES = {
    GATEWAY: Role.GATEWAY,
    REGISTRAR: Role.REGISTRAR,
    COORDINATOR: Role.COORDINATOR,
    OPERATOR: Role.OPERATOR,
    AGENT: Role.AGENT,
    OTHER: Role.AGENT,
    PUBLISHER: Role.PUBLISHER,
}
ROSTER = [
    Member(str(COORDINATOR), "coordinator"),
    Member(str(OPERATOR), "operator"),
    Member(str(AGENT), "agent", (CAPABILITY,)),
    Member(str(OTHER), "agent"),
    Member(str(PUBLISHER), "publisher"),
]
PERMIT_ALL = """
@id("everything") permit (principal, action, resource);
@id("no-secrets") forbid (principal, action, resource == Topic::"secret");
"""
LIMITS = StreamLimits(ledger_bytes=2**30, ingress_bytes=2**28, backlog=100_000)


class Broker:
    """A running broker; make one with `running_broker`."""

    def __init__(self, server: Server, keyring: Keyring, folder: Path) -> None:
        self.server = server
        self.keyring = keyring
        self.folder = folder
        self._stack = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.server.url

    async def connect(self, principal: Principal) -> Connection:
        """A connection that ends with the broker."""
        connection = await connect(self.url, principal, self.keyring.seed(principal))
        return await self._stack.enter_async_context(connection)

    async def publisher(self, principal: Principal = PUBLISHER, *, window: int = 256) -> Publisher:
        """A publisher that ends with the broker."""
        return await Publisher.start(await self.connect(principal), window=window)

    async def reader(self) -> LedgerReader:
        """A reader of the ledger."""
        return LedgerReader(await self.connect(OPERATOR))

    async def records(self) -> list[Record]:
        """The whole ledger."""
        return [stored.record() async for stored in (await self.reader()).read()]

    async def converge(self, *subscriptions: Subscription) -> None:
        """Create the streams, and consumers for these."""
        await topology.converge(await self.connect(REGISTRAR), LIMITS, subscriptions)

    @contextlib.asynccontextmanager
    async def gateway(
        self,
        policies: str = PERMIT_ALL,
        roster: Iterable[Member] = tuple(ROSTER),
        *,
        envelope_bytes: int = 256 * 1024,
        dedupe_window: float = 600.0,
        dedupe_entries: int = 100_000,
    ) -> AsyncGenerator[asyncio.Task[None]]:
        """A gateway in this process, ready; cancelled at the end."""
        source = self.folder / "policy.cedar"
        source.write_text(policies)
        write_bundle(self.folder / "bundle", [source], roster)
        settings = GatewaySettings("test/0", Limits(envelope_bytes), dedupe_window, dedupe_entries)
        async with await connect(self.url, GATEWAY, self.keyring.seed(GATEWAY)) as connection:
            gateway = Gateway(connection, load_bundle(self.folder / "bundle"), settings, Health())
            task = asyncio.create_task(gateway.run())
            ready = asyncio.create_task(gateway.ready())
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Close what was opened."""
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def running_broker(folder: Path, *, streams: bool = True) -> AsyncGenerator[Broker]:
    """A broker with its store in `folder`; with `streams`, the topology is there already."""
    keyring = Keyring(folder / "keys")
    identities = [Identity(who, role, keyring.ensure(who)) for who, role in ROLES.items()]
    file = folder / "nats.conf"
    file.write_text(configuration(identities, store=folder / "jetstream", store_bytes=2**32))
    async with await Server.start(file, folder / "server.log") as server:
        broker = Broker(server, keyring, folder)
        try:
            if streams:
                await broker.converge(
                    Subscription(AGENT, (CAPABILITY,), (), 2.0),
                    Subscription(OTHER, (), (TOPIC,), 2.0),
                )
            yield broker
        finally:
            await broker.close()
