"""What the account boundary costs: two brokers in one run, one with it and one without.

The first has the product's configuration: streams in one account, senders and receivers in others,
service imports between them. In the second the same users, with the same permissions,
live in the account of the streams. That is UNSAFE, a sender could aim the reply of a publish at
the ledger; it is made for the comparison, and nothing else uses it.

Rounds on the two take turns, and so does who begins: what else the machine does hits both alike.
No gateway takes part: the ledger is filled first, and then its deliveries are timed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import statistics
import subprocess
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.msg import Msg

from tidegate.figures import percentile
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.broker import topology
from tidegate_bus.broker.accounts import REGISTRAR, Identity, configuration
from tidegate_bus.broker.server import Server
from tidegate_bus.connection import Connection, connect
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_bus.identity.keyring import Keyring
from tidegate_schemas import subjects
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.identity import Role
from tidegate_schemas.record import VERSION, Ingress, Reason, Record, Why, encode_record
from tidegate_schemas.subjects import Kind, Principal, Verdict
from tidegate_schemas.vocabulary import GATEWAY

from .load import Figure, OnProgress
from .machine import processor_seconds

_AGENT = Principal("bench", "agent")
_SYSTEM = Principal("bench", "system")
"""Asks the broker how it is. No product configuration has such a user."""
_CAPABILITY = "bench.echo"

_ROUNDS = 10
_CHECKPOINTS = (1, 5, 10)
"""After which rounds of deliveries the broker's memory is looked at."""
_WINDOW = 500
_REFUSED = ("409", "503")
"""No more may wait, nobody answers."""
_TINY = {"batch": 1, "expires": 1_000_000}
_TINY_WINDOW = 400
"""Below the 512 pull requests that may wait at a consumer, so that none is refused."""
_EXPVARZ = "$SYS.REQ.SERVER.PING.EXPVARZ"
_MIB = 2**20
_PATIENCE_SECONDS = 120.0
_FORGOTTEN_SECONDS = 600.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, on each of the two brokers.

    Attributes:
        publishes: messages that are published many at once.
        awaited: messages that are published one by one, each when the one before is stored.
        deliveries: messages that a durable consumer delivers.
        hands: deliveries that its worker handles at once.
        pulls: pull requests for one message, gone at once, of a client that means harm.
        size: bytes of data a message.
        expiry: wait until the broker has forgotten those; up to twice its threshold.
        threshold: seconds after which it forgets; None leaves it as the product has it.
    """

    publishes: int = 50_000
    awaited: int = 2_000
    deliveries: int = 100_000
    hands: int = 100
    pulls: int = 20_000
    size: int = 512
    expiry: bool = False
    threshold: int | None = None

    @property
    def messages(self) -> int:
        """All of them, on both brokers."""
        return 2 * (self.publishes + self.awaited + self.deliveries + self.pulls)


@dataclass(frozen=True, slots=True)
class Row:
    """One number of both brokers. Where it comes from several rounds, their median counts."""

    name: str
    unit: str
    boundary: tuple[float, ...]
    one_account: tuple[float, ...]

    @property
    def figures(self) -> tuple[Figure, Figure]:
        """With the boundary, and without it."""
        values = map(statistics.median, (self.boundary, self.one_account))
        with_, without = (Figure(self.name, value, self.unit) for value in values)
        return with_, without

    @property
    def ratio(self) -> float | None:
        """The first by the second; None where the second is nothing."""
        with_, without = self.figures
        return with_.value / without.value if without.value else None


async def boundary(state: Path, plan: Plan, on_progress: OnProgress) -> list[Row]:
    """Publish, deliver, and pull for nothing, on both brokers in turns."""
    async with (
        _broker(state / "boundary", plan, lambda product: product) as with_,
        _broker(state / "one-account", plan, one_account) as without,
    ):
        bench = _Bench(with_, without, plan, on_progress)
        await bench.publish()
        await bench.deliver()
        await bench.pull()
    return bench.rows


def one_account(product: str) -> str:
    """The product's configuration with everybody in the account of the streams. UNSAFE."""
    document = json.loads(product)
    accounts = document["accounts"]
    for name in [name for name in accounts if name not in ("SYS", "BUS")]:
        accounts["BUS"]["users"] += accounts.pop(name)["users"]
    del accounts["BUS"]["exports"]
    return json.dumps(document, ensure_ascii=False)


def _product(folder: Path, keyring: Keyring, plan: Plan) -> str:
    """The product's configuration, with a user in it who may ask the broker how it is."""
    roles = {GATEWAY: Role.GATEWAY, REGISTRAR: Role.REGISTRAR, _AGENT: Role.AGENT}
    identities = [Identity(who, role, keyring.ensure(who)) for who, role in roles.items()]
    document = json.loads(configuration(identities, store=folder / "jetstream", store_bytes=2**36))
    document["accounts"]["SYS"].setdefault("users", []).append({"nkey": keyring.ensure(_SYSTEM)})
    for export in document["accounts"]["BUS"]["exports"]:
        if plan.threshold is not None and "threshold" in export:
            export["threshold"] = f"{plan.threshold}s"
    return json.dumps(document, ensure_ascii=False)


@contextlib.asynccontextmanager
async def _broker(
    folder: Path, plan: Plan, change: Callable[[str], str]
) -> AsyncGenerator[_Broker]:
    """A broker with the product's streams, a sender and a worker."""
    keyring = Keyring(folder / "keys")
    text = change(_product(folder, keyring, plan))
    file = folder / "nats.conf"
    file.write_text(text)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(await Server.start(file, folder / "server.log"))

        async def connected(who: Principal) -> Connection:
            connection = await connect(server.url, who, keyring.seed(who))
            return await stack.enter_async_context(connection)

        limits = topology.Limits(ledger_bytes=2**34, ingress_bytes=2**34, backlog=10**7)
        subscription = topology.Subscription(_AGENT, (_CAPABILITY,), (), 60.0)
        await topology.converge(await connected(REGISTRAR), limits, [subscription])
        appender = await FastAppender.open(await connected(GATEWAY), last=0)
        stack.push_async_callback(appender.close)
        worker = _Worker(await connected(_AGENT))
        await worker.inbox.start()
        stack.push_async_callback(worker.inbox.close)
        system, sender = await connected(_SYSTEM), await connected(_AGENT)
        yield _Broker(server, keyring, system, sender, appender, worker)


@dataclass(eq=False, slots=True)
class _Broker:
    """One of the two, and who is connected to it."""

    server: Server
    keyring: Keyring
    system: Connection
    sender: Connection
    appender: FastAppender
    worker: _Worker

    def cpu(self) -> float:
        """Seconds of processor time that it has used; not a number where that is unknown."""
        return processor_seconds(self.server.pid)

    def memory(self) -> float:
        """MiB of memory that it occupies."""
        pid = self.server.pid
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            kib = status.partition("VmRSS:")[2].split()[0]
        except OSError:  # not Linux
            command = ["ps", "-o", "rss=", "-p", str(pid)]
            kib = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return int(kib) * 1024 / _MIB

    async def heap(self) -> float:
        """MiB that live in it, blocks of the streams that it caches for a while among them.

        That is half of what it lets itself grow to when it has collected garbage. It collects when
        there is enough of it; questions like this one make some.
        """
        before = (await self._ask(_EXPVARZ))["memstats"]
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                now = (await self._ask(_EXPVARZ))["memstats"]
                if now["NumGC"] > before["NumGC"] + 1:  # the first may have been at work already
                    return float(now["NextGC"]) / 2 / _MIB

    async def held(self) -> int:
        """Requests from another account that it holds, because answers may still come."""
        return len((await self._ask("$SYS.REQ.ACCOUNT.BUS.INFO")).get("responses", ()))

    async def _ask(self, subject: str) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.system.api(subject, timeout=_PATIENCE_SECONDS))["data"]
        return answer


class _Asking:
    """Asks again and again, a window of requests at once, and counts the answers."""

    def __init__(self, connection: Connection, subject: str, window: int) -> None:
        self._connection = connection
        self._subject = subject
        self._window = window
        self._inbox = f"{subjects.inbox(connection.principal)}.{secrets.token_hex(8)}"
        self._answers = 0
        self._refusal = ""
        self._more = asyncio.Event()

    async def start(self) -> None:
        """Listen for answers."""
        await self._connection.listen(f"{self._inbox}.*", self._on_answer)

    async def ask(self, times: int, payload: bytes) -> float:
        """The seconds until all answers are here.

        Raises:
            Unavailable: one of them is a refusal.
        """
        self._answers = 0
        began = time.perf_counter()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            for number in range(times):
                await self._until(number - self._window + 1)
                await self._connection.publish(
                    self._subject, payload, reply=f"{self._inbox}.{number:x}"
                )
            await self._until(times)
        return time.perf_counter() - began

    async def _until(self, answers: int) -> None:
        while self._answers < answers:
            self._more.clear()
            await self._more.wait()
        if self._refusal:
            raise Unavailable(f"{self._subject}: {self._refusal}")

    async def _on_answer(self, message: Msg) -> None:
        self._answers += 1
        headers = message.headers or {}
        if b'"error"' in message.data or headers.get("Status") in _REFUSED:
            self._refusal = message.data.decode() or str(headers)
        self._more.set()


class _Worker:
    """Takes deliveries the way the product does, and settles each as soon as it comes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.inbox = Inbox(connection, self._receive)
        self._held: deque[Delivery] = deque()
        self._hands = self._left = 0
        self._more = asyncio.Event()
        self.pulls = 0
        """Pull requests that were sent."""

    async def take(self, messages: int, hands: int) -> float:
        """Take and settle exactly so many; the seconds it took."""
        self._hands, self._left = hands, messages
        sent = self._connection.nats.stats["out_msgs"]
        began = time.perf_counter()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            self._want()
            for _ in range(messages):
                while not self._held:
                    self._more.clear()
                    await self._more.wait()
                await self._held[0].done()
                self._held.popleft()
                self._want()
            await self._connection.nats.flush()
        took = time.perf_counter() - began
        self.pulls += self._connection.nats.stats["out_msgs"] - sent - messages
        return took

    def _want(self) -> None:
        self.inbox.want(min(self._hands - len(self._held), self._left))

    def _receive(self, delivery: Delivery) -> None:
        self._left -= 1
        self._held.append(delivery)
        self._want()
        self._more.set()


@dataclass
class _Bench:
    """The rounds, and the rows that come of them."""

    boundary: _Broker
    one_account: _Broker
    plan: Plan
    on_progress: OnProgress
    rows: list[Row] = field(default_factory=list[Row])
    _done: int = 0

    async def publish(self) -> None:
        """To the ingress: many at once, then one by one."""
        text = "x" * max(0, self.plan.size - len('{"payload":""}'))
        payload = encode(Envelope.new("bench.event", {"payload": text}, source="tidegate:bench"))
        senders = {
            broker: _Asking(broker.sender, subjects.submission(_AGENT), _WINDOW)
            for broker in (self.boundary, self.one_account)
        }
        for sender in senders.values():
            await sender.start()
        many, one = self.plan.publishes // _ROUNDS, self.plan.awaited // _ROUNDS

        async def at_once(broker: _Broker) -> tuple[float, ...]:
            return (many / await senders[broker].ask(many, payload),)

        async def awaited(broker: _Broker) -> tuple[float, ...]:
            took = [1000 * await senders[broker].ask(1, payload) for _ in range(one)]
            return percentile(took, 50) or 0.0, percentile(took, 99) or 0.0

        await self._in_turns(
            at_once, many, [("published many at once", "messages/s")], "broker's time a publish"
        )
        await self._in_turns(
            awaited, one, [("one awaited publish p50", "ms"), ("one awaited publish p99", "ms")]
        )

    async def deliver(self) -> None:
        """From the ledger to a worker; memory by how many there were, and how many pulls."""
        each = self.plan.deliveries // _ROUNDS
        await self._fill(each * _ROUNDS)
        await self._look("before deliveries")
        rounds = 0

        async def take(broker: _Broker) -> tuple[float, ...]:
            return (each / await broker.worker.take(each, self.plan.hands),)

        async def look() -> None:
            nonlocal rounds
            rounds += 1
            if rounds in _CHECKPOINTS:
                self._row(
                    f"pull requests for {rounds * each:,} deliveries",
                    "",
                    *(float(b.worker.pulls) for b in self._both),
                )
                await self._look(f"after {rounds * each:,} deliveries")

        await self._in_turns(
            take, each, [("delivered", "messages/s")], "broker's time a delivery", look
        )
        await self._held("after them")

    async def pull(self) -> None:
        """For nothing: requests that end at once, and how long the broker keeps them in mind."""
        what = f"{self.plan.pulls:,} tiny pulls"
        subject = subjects.pull(subjects.ledger_stream(0), subjects.consumer(_AGENT))
        took: list[float] = []
        held = [await broker.held() for broker in self._both]
        async with contextlib.AsyncExitStack() as stack:
            for broker in self._both:
                seed = broker.keyring.seed(_AGENT)
                connection = await connect(broker.server.url, _AGENT, seed)
                hostile = _Asking(
                    await stack.enter_async_context(connection), subject, _TINY_WINDOW
                )
                await hostile.start()
                took.append(await hostile.ask(self.plan.pulls, msgspec.json.encode(_TINY)))
                self._add(self.plan.pulls)
            self._row("pulled for nothing", "requests/s", *(self.plan.pulls / t for t in took))
            await self._look(f"after {what}")
            await self._held(f"after {what}")
            if self.plan.expiry:
                seconds = await asyncio.gather(*map(_forgotten, self._both))
                self._row("all requests forgotten after", "s", *seconds)
                await self._held("after that")
                await self._look("after that")
        for broker, before in zip(self._both, held, strict=True):
            await _forgotten(broker, all_but=before)
        await self._held("after the client has left")
        await self._look("after the client has left")

    @property
    def _both(self) -> tuple[_Broker, _Broker]:
        return self.boundary, self.one_account

    async def _in_turns(
        self,
        measure: Callable[[_Broker], Awaitable[tuple[float, ...]]],
        messages: int,
        numbers: list[tuple[str, str]],
        cpu: str = "",
        after: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Measure numbers, round by round, and for all rounds the broker's time a message."""
        found: dict[_Broker, list[tuple[float, ...]]] = {broker: [] for broker in self._both}
        used = dict.fromkeys(self._both, 0.0)
        at = len(self.rows)
        for round_ in range(_ROUNDS):
            for broker in self._both if round_ % 2 == 0 else reversed(self._both):
                before = broker.cpu()
                found[broker].append(await measure(broker))
                used[broker] += broker.cpu() - before
                self._add(messages)
            if after:
                await after()
        rows = [
            Row(name, unit, *(tuple(values[n] for values in found[b]) for b in self._both))
            for n, (name, unit) in enumerate(numbers)
        ]
        each = [used[broker] / (messages * _ROUNDS) * 1e6 for broker in self._both]
        if cpu and not math.isnan(sum(each)):
            rows.append(Row(cpu, "µs", *((value,) for value in each)))
        self.rows[at:at] = rows

    async def _fill(self, records: int) -> None:
        """Write the same tasks into both ledgers."""
        text = "x" * max(0, self.plan.size - len('{"payload":""}'))
        subject = subjects.delivery(0, Kind.TASK, _CAPABILITY)
        for first in range(1, records + 1, MAX_BATCH):
            entries = [
                (subject, encode_record(_task(seq, text)))
                for seq in range(first, min(first + MAX_BATCH, records + 1))
            ]
            for broker in self._both:
                await (await broker.appender.append(entries))

    async def _look(self, when: str) -> None:
        heap = [await broker.heap() for broker in self._both]
        self._row(f"memory {when}", "MiB", *(broker.memory() for broker in self._both))
        self._row(f"live heap {when}", "MiB", *heap)

    async def _held(self, when: str) -> None:
        self._row(f"requests held {when}", "", *[await broker.held() for broker in self._both])

    def _row(self, name: str, unit: str, boundary: float, one_account: float) -> None:
        self.rows.append(Row(name, unit, (boundary,), (one_account,)))

    def _add(self, messages: int) -> None:
        self._done += messages
        self.on_progress(self._done)


async def _forgotten(broker: _Broker, all_but: int = 0) -> float:
    """The seconds until the broker holds no more requests than these.

    It is seldom busy with the question: its answer lists them all, and becomes garbage.
    """
    began = time.perf_counter()
    async with asyncio.timeout(_FORGOTTEN_SECONDS):
        while True:
            asked = time.perf_counter()
            held, now = await broker.held(), time.perf_counter()
            if held <= all_but:
                return now - began
            await asyncio.sleep(_LOOK_SECONDS + 20 * (now - asked))


def _task(seq: int, text: str) -> Record:
    """What the gateway writes when it admits a task."""
    now = time.time_ns()
    task = Envelope.new(
        "bench.task", {"payload": text}, source="tidegate:bench", kind="task", to=_CAPABILITY
    )
    return Record(
        v=VERSION,
        log="bench/0",
        seq=seq,
        time=rfc3339(now),
        epoch=1,
        ingress=Ingress(seq, 0, rfc3339(now)),
        by=str(_AGENT),
        kind=Kind.TASK,
        to=_CAPABILITY,
        verdict=Verdict.ALLOW,
        why=Why(("bench",), Reason.PERMITTED, "sha256:" + "0" * 64),
        envelope=msgspec.Raw(encode(task)),
    )
