"""A real broker with streams, identities and, on demand, a gateway."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tidegate_bus.broker import topology
from tidegate_bus.broker.accounts import (
    NOTARY,
    PROBE,
    REGISTRAR,
    WARDEN,
    Identity,
    configuration,
)
from tidegate_bus.broker.server import Server
from tidegate_bus.broker.topology import Limits as StreamLimits
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.connection import Connection, connect
from tidegate_bus.identity.keyring import Keyring
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_bus.telemetry import Health
from tidegate_evidence.note import Algorithm, Signer
from tidegate_policy.bundle import Bundle
from tidegate_policy.decide import Limits
from tidegate_policy.gateway import Gateway, GatewaySettings
from tidegate_policy.personal.vault import Vault
from tidegate_policy.roster import Roster
from tidegate_policy.signing.heads import Heads
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Principal, stream_info
from tidegate_schemas.vocabulary import COORDINATOR, EDGE, GATEWAY, OPERATOR

from .waiting import until

if TYPE_CHECKING:
    from .container import ContainerServer

IN_CONTAINER = os.environ.get("TIDEGATE_TEST_SERVER") == "docker"
"""Whether the tests use containers instead of the nats-server of the wheel."""

AGENT = Principal("team", "agent")
OTHER = Principal("team", "other")
PUBLISHER = Principal("outside", "source")
ADMIN = Principal("test", "admin")
"""May do everything in the account BUS. No product configuration has such a user."""
INTRUDER = Principal("test", "intruder")
"""May ask and hear whatever any agent may, in an account that the product does not have."""
CAPABILITY = "work.do"
TOPIC = "thing.happened"

ROLES = {
    GATEWAY: Role.GATEWAY,
    REGISTRAR: Role.REGISTRAR,
    WARDEN: Role.WARDEN,
    NOTARY: Role.NOTARY,
    PROBE: Role.PROBE,
    COORDINATOR: Role.COORDINATOR,
    OPERATOR: Role.OPERATOR,
    EDGE: Role.READER,
    AGENT: Role.AGENT,
    OTHER: Role.AGENT,
    PUBLISHER: Role.PUBLISHER,
}
ROSTER = [
    Registration(str(COORDINATOR), Role.COORDINATOR),
    Registration(str(OPERATOR), Role.OPERATOR),
    Registration(str(PROBE), Role.PROBE),
    Registration(str(AGENT), Role.AGENT, (CAPABILITY,), (TOPIC,)),
    Registration(str(OTHER), Role.AGENT, (), (TOPIC,)),
    Registration(str(PUBLISHER), Role.PUBLISHER),
]
PERMIT_ALL = """
@id("everything") permit (principal, action, resource);
@id("no-secrets") forbid (principal, action, resource == Topic::"secret");
"""
LIMITS = StreamLimits(ledger_bytes=2**30, ingress_bytes=2**28, backlog=100_000)


WRITER = Signer("test/0", Algorithm.NOTE, bytes(32))
"""Signs the heads of the ledgers of tests."""


def heads(folder: Path) -> Heads:
    """The heads of a gateway of tests."""
    return Heads(folder, "test/0", lambda: [WRITER])


class Broker:
    """A running broker; make one with `running_broker`."""

    def __init__(self, server: Server | ContainerServer, keyring: Keyring, folder: Path) -> None:
        self._server = server
        self.keyring = keyring
        self.folder = folder
        self._stack = contextlib.AsyncExitStack()

    @property
    def server(self) -> Server:
        """Its process. A test that asks for it is skipped where the broker is in a container."""
        if not isinstance(self._server, Server):
            pytest.skip("needs the process of the broker, which runs in a container")
        return self._server

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    @property
    def vault(self) -> Path:
        """Where the gateways here keep keys of data subjects."""
        return self.folder / "vault.db"

    async def kill(self) -> None:
        """Kill its process, as a crash would."""
        os.kill(self.server.pid, signal.SIGKILL)
        await self.server.wait()

    async def restart(self) -> None:
        """Start it again, on the same port and store, after `kill`."""
        configure(self.folder, self.keyring, self.server.port)
        self._server = await Server.start(self.folder / "nats.conf", self.server.log)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncGenerator[None]:
        """Its process stands still: connections stay and nothing is answered."""
        pid = self.server.pid
        stat = Path(f"/proc/{pid}/stat")
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # it may have been killed meanwhile
                os.kill(pid, signal.SIGCONT)

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

    async def stored(self, stream: str) -> list[tuple[str, bytes]]:
        """Subject and payload of every message of a stream, as the broker stores them."""
        admin = await self.connect(ADMIN)
        state = await admin.stream_state(stream)
        found: list[tuple[str, bytes]] = []
        for seq in range(max(state.first_seq, 1), state.last_seq + 1):
            message = (await admin.api(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
            found.append((message["subject"], base64.b64decode(message.get("data", ""))))
        return found

    async def delete(self, stream: str, seq: int) -> None:
        """Lose a message of a stream that may be changed."""
        admin = await self.connect(ADMIN)
        await admin.api(f"$JS.API.STREAM.MSG.DELETE.{stream}", {"seq": seq})

    async def length(self, stream: str) -> int:
        """Last sequence of a stream."""
        info = await (await self.connect(ADMIN)).api(stream_info(stream))
        return int(info["state"]["last_seq"])

    async def converge(self, *subscriptions: Subscription) -> None:
        """Create the streams, and consumers for these."""
        await topology.converge(await self.connect(REGISTRAR), LIMITS, subscriptions)

    def heads(self) -> Heads:
        """What the gateway of this broker signs with, and writes down."""
        return heads(self.folder / "writer")

    @contextlib.asynccontextmanager
    async def gateway(
        self,
        policies: str = PERMIT_ALL,
        roster: Iterable[Registration] = tuple(ROSTER),
        *,
        envelope_bytes: int = 256 * 1024,
        dedupe_window: float = 600.0,
        dedupe_entries: int = 100_000,
    ) -> AsyncGenerator[asyncio.Task[None]]:
        """A gateway in this process, ready; cancelled at the end."""
        snapshot = Bundle.of_files({"policy.cedar": policies}).snapshot(Roster.of(roster))
        settings = GatewaySettings("test/0", Limits(envelope_bytes), dedupe_window, dedupe_entries)
        async with await connect(self.url, GATEWAY, self.keyring.seed(GATEWAY)) as connection:
            with Vault.open(self.vault) as vault:
                gateway = Gateway(connection, snapshot, settings, self.heads(), Health(), vault)
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
        """Close what was opened and stop it."""
        await self._stack.aclose()
        await self._server.stop()


def configure(folder: Path, keyring: Keyring, port: int = -1, *, together: bool = False) -> Path:
    """Write the product's configuration, and the two users of the tests into it.

    With `together` everybody is in the account of the intruder, as in operator mode.
    """
    identities = [Identity(who, role, keyring.ensure(who)) for who, role in ROLES.items()]
    if IN_CONTAINER:
        from .container import EVERYWHERE, PORT, STORE

        text = configuration(
            identities,
            store=STORE,
            store_bytes=2**32,
            host=EVERYWHERE,
            port=PORT,
            together=together,
        )
    else:
        store = folder / "jetstream"
        text = configuration(
            identities, store=store, store_bytes=2**32, port=port, together=together
        )
    document = json.loads(text)
    document["accounts"]["BUS"]["users"].append({"nkey": keyring.ensure(ADMIN)})
    intruders = document["accounts"].setdefault("AGENTS", {"users": [], "imports": []})
    intruders["users"].append({"nkey": keyring.ensure(INTRUDER)})
    if not together:
        for export in document["accounts"]["BUS"]["exports"]:
            kind = "service" if "service" in export else "stream"
            intruders["imports"].append({kind: {"account": "BUS", "subject": export[kind]}})
    file = folder / "nats.conf"
    file.write_text(json.dumps(document, ensure_ascii=False))
    return file


@contextlib.asynccontextmanager
async def running_broker(
    folder: Path, *, streams: bool = True, together: bool = False
) -> AsyncGenerator[Broker]:
    """A broker with its store in `folder`; with `streams`, the topology is there already.

    For `together` see `configure`.

    It is the nats-server of the wheel, or with `TIDEGATE_TEST_SERVER=docker` a container.
    """
    keyring = Keyring(folder / "keys")
    file = configure(folder, keyring, together=together)
    server: Server | ContainerServer
    if IN_CONTAINER:
        from .container import ContainerServer

        server = await ContainerServer.start(file)
    else:
        server = await Server.start(file, folder / "server.log")
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
