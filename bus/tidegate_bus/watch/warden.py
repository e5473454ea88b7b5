"""The warden: how many connections each identity holds, and the end of those that are too many.

nats-server limits the connections of all clients together and of an account, never those of one
user. So one identity could take every place there is. The warden listens to the broker's own
events of connections and lets the newest of an identity go when it has more than its share: what
was there first goes on working, also where somebody else uses the same key.

Recovery is the start-up path: on start, after a reconnect and every half minute it takes the whole
picture from the broker (`CONNZ`), then follows the events.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping

import msgspec
import prometheus_client
import structlog
from nats.aio.msg import Msg

from tidegate_bus.connection import Connection
from tidegate_bus.telemetry import Health
from tidegate_schemas import subjects
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.subjects import Principal

from .monitoring import Picture, read_event
from .roll import CONNECTIONS, Owner, Roll, label

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.warden")

_NO_TLS = "TLS Handshake Failure"
_PICTURE_SECONDS = 30.0
_TICK_SECONDS = 1.0
_PAGE = 256
_REMEMBERED = 4096
_CONNZ = "$SYS.REQ.SERVER.PING.CONNZ"

_connections = prometheus_client.Gauge(
    "tidegate_broker_connections", "Connections to the broker", ["principal"]
)
_kicked = prometheus_client.Counter(
    "tidegate_broker_kicked_total",
    "Connections cut: an identity had too many, or is stopped",
    ["principal"],
)
_refused = prometheus_client.Counter(
    "tidegate_broker_refused_logins_total", "Logins that the broker refused"
)


class Warden:
    """Watches the connections of one broker.

    Args:
        connection: of the principal `tidegate.warden`.
        principals: public key to principal, of everybody, the bus's own included. It may change at
            any time; call `look` when it did.
        health: told that the warden is alive, and how many connections there are.
        limit: most connections of an identity.
    """

    def __init__(
        self,
        connection: Connection,
        principals: Mapping[str, Principal],
        health: Health,
        *,
        limit: int = CONNECTIONS,
    ) -> None:
        self._connection = connection
        self._health = health
        self._nowhere = f"{subjects.inbox(connection.principal)}.nobody"
        self._roll = Roll(principals, limit)
        self._gone: dict[int, Owner] = {}
        self._server = ""
        self._look = asyncio.Event()
        self._ready = asyncio.Event()
        self._heard: dict[int, str | None] | None = None
        self._news: Count[tuple[str, str]] = Count()
        self._refusals = 0
        self._told: set[Principal] = set()
        self._labels: set[str] = set()

    async def ready(self) -> None:
        """Wait until the first picture is taken, and acted on."""
        await self._ready.wait()

    def look(self) -> None:
        """Take the whole picture soon: identities have come, gone or changed their keys."""
        self._look.set()

    async def cut(self, chosen: Callable[[Principal], bool], why: str) -> None:
        """Cut the connections that some principals have now; they may connect again.

        While the broker is away there is nothing to cut: they have lost them.

        Args:
            chosen: who.
            why: what the log says of it.

        Raises:
            Unavailable: the connection was closed.
        """
        if self._server:
            await self._kick(self._roll.of(chosen), why)

    def owner(self, cid: int) -> Principal | None:
        """Whose a connection is or was, proven by the broker; None if the warden cannot tell.

        Fit for `BrokerLog`. The broker counts connections anew when it starts again, so nothing
        is told while it is away, nor before the picture that follows.
        """
        if not self._connection.nats.is_connected or not self._server:
            return None
        owner = self._roll.owner(cid) or self._gone.get(cid)
        return owner if isinstance(owner, Principal) else None

    async def run(self) -> None:
        """Watch, for ever.

        Raises:
            Unavailable: the connection was closed.
        """
        connection = self._connection
        unlisten = connection.on_reconnect(self._lost)
        heard = [
            await connection.listen("$SYS.ACCOUNT.*.CONNECT", self._on_connect),
            await connection.listen("$SYS.ACCOUNT.*.DISCONNECT", self._on_disconnect),
            await connection.listen("$SYS.SERVER.*.CLIENT.AUTH.ERR", self._on_refused),
        ]
        _connections.clear()
        clock = asyncio.get_running_loop().time
        due = clock()
        try:
            while True:
                if self._look.is_set() or clock() >= due:
                    self._look.clear()
                    due = clock() + _PICTURE_SECONDS
                    try:
                        await self._take_picture()
                    except Unavailable as error:
                        if connection.nats.is_closed:
                            raise
                        _log.warning("no picture of the connections", error=str(error))
                        due = clock() + _TICK_SECONDS
                self._tick()
                try:
                    async with asyncio.timeout(_TICK_SECONDS):
                        await self._look.wait()
                except TimeoutError:
                    pass
        finally:
            unlisten()
            for subscription in heard:
                await connection.forget(subscription)

    def _lost(self) -> None:
        self._server = ""  # perhaps another one, with numbers of its own
        self._gone.clear()
        self._look.set()

    async def _take_picture(self) -> None:
        """The connections now. What is heard meanwhile is newer than the pages.

        Pages are in the order of the broker's numbers and overlap: who leaves makes the others
        move up, perhaps from the next page into one that was read. Where a page begins beyond
        what was seen, the one before it is read again.
        """
        keys: dict[int, str] = {}
        heard: dict[int, str | None] = {}
        self._heard = heard
        try:
            offset = seen = 0
            while True:
                request = {"auth": True, "sort": "cid", "limit": _PAGE, "offset": offset}
                body = await self._connection.api(_CONNZ, request)
                answer = msgspec.convert(body, Picture)
                rows = answer.data.connections
                if offset and (not rows or rows[0].cid > seen):
                    offset = max(0, offset - _PAGE)
                    continue
                # Who has no key is still logging in, as many do when the broker comes back; it has
                # some seconds for it, and an event tells when it is done.
                keys |= {row.cid: row.key for row in rows if row.key}
                if len(rows) < _PAGE:
                    break
                seen = rows[-1].cid
                offset += _PAGE - 1
        except msgspec.ValidationError as error:
            raise Unavailable(f"{_CONNZ}: {error}") from error
        finally:
            self._heard = None
        for cid, key in heard.items():
            if key is None:
                keys.pop(cid, None)
            else:
                keys[cid] = key
        self._server = answer.server.id
        self._roll.replace(keys)
        await self._enforce()
        self._ready.set()

    async def _on_connect(self, message: Msg) -> None:
        event = read_event(message.data)
        if event:
            cid, key = event.client.id, event.client.key
            if self._heard is not None:
                self._heard[cid] = key
            self._roll.add(cid, key)
            await self._enforce()

    async def _on_disconnect(self, message: Msg) -> None:
        event = read_event(message.data)
        if event:
            cid = event.client.id
            if event.reason == _NO_TLS:  # the only trace that it leaves
                _refused.inc()
                self._refusals += 1
            if self._heard is not None:
                self._heard[cid] = None
            owner = self._roll.remove(cid)  # None for a login that was refused
            if owner is not None:
                self._gone[cid] = owner
                if len(self._gone) > _REMEMBERED:
                    del self._gone[next(iter(self._gone))]

    async def _on_refused(self, _: Msg) -> None:
        # Whose login it was is not said: what stands in the event is a claim of the client.
        _refused.inc()
        self._refusals += 1

    async def _enforce(self) -> None:
        if not self._server:  # nobody to tell yet; the picture does
            return
        try:
            await self._kick(self._roll.excess(), "it had too many")
        except Unavailable:
            self._look.set()  # what was not cut is found again

    async def _kick(self, connections: Iterable[tuple[int, Owner]], why: str) -> None:
        for cid, owner in connections:
            await self._connection.publish(
                f"$SYS.REQ.SERVER.{self._server}.KICK",
                msgspec.json.encode({"cid": cid}),
                reply=self._nowhere,  # without one the broker does nothing; its event tells
            )
            name = label(owner)
            _kicked.labels(name).inc()
            self._news[name, why] += 1

    def _tick(self) -> None:
        """Say what happened, however often it did, in one line each."""
        counts = self._roll.counts()
        for name, count in counts.items():
            _connections.labels(name).set(count)
        for name in self._labels - set(counts):
            _connections.remove(name)
        self._labels = set(counts)
        self._health.beat(connections=counts.total())
        for (name, why), count in self._news.items():
            _log.warning(f"cut connections, {why}", principal=name, connections=count)
        self._news.clear()
        if self._refusals:
            _log.debug("refused logins", logins=self._refusals)
            self._refusals = 0
        crowded = set(self._roll.crowded())
        for principal in crowded - self._told:
            _log.error(
                "too many connections of the bus's own; is its key stolen?",
                principal=str(principal),
                connections=counts[str(principal)],
            )
        self._told = crowded
