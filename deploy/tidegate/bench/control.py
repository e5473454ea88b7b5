"""How soon a control is in force: commands in the middle of a flow, and what the ledger says then.

Several senders submit at a steady rate, one of them an agent that is also asked for work. It is
killed and paused again and again. What counts is in the ledger: the last message of it or for it
that was admitted, and that none was after the record of the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from tidegate.figures import percentile
from tidegate.project import Project, load_project
from tidegate.stack import Stack
from tidegate_bus.connection import Connection
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_bus.identity.register import Entry, Key
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_bus.publisher import Publisher
from tidegate_schemas import subjects
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.governance import Order
from tidegate_schemas.identity import Role
from tidegate_schemas.record import Receipt, Record
from tidegate_schemas.subjects import Kind, Principal, Verdict
from tidegate_schemas.vocabulary import CONTROL_RELEASE, OPERATOR

from . import PROJECT
from .load import Figure, OnProgress

VICTIM = Principal("flow", "victim")
SENDERS = tuple(Principal("flow", f"sender-{n}") for n in range(1, 5))
WORK, EVENT = "bench.work", "bench.event"

_AGENTS = {VICTIM: (WORK,)}
_TARGET = f"agent:{VICTIM}"
_BETWEEN_SECONDS = 0.4
_STOPPED_SECONDS = 0.4
_STEP_SECONDS = 0.005
_AGAIN_SECONDS = 60.0
_WORK_EVERY = 5
"""One of so many messages of the other senders is a task for the victim."""


@dataclass(slots=True)
class Round:
    """One command: times in ns since 1970.

    Attributes:
        start: last record before it, about.
        submitted, told: when it was, and when its receipt came.
        receipt: names its record.
        end: last record before it was taken back, about.
        delivered: when the last message came to the victim meanwhile; 0 where none did.
    """

    start: int
    submitted: int
    told: int
    receipt: Receipt
    end: int = 0
    delivered: int = 0


@dataclass(slots=True)
class Flow:
    """Senders at a steady rate, and what comes to the victim.

    Attributes:
        sent: messages so far.
        got: record and time of each delivery, in order.
        came: set with each.
    """

    connections: dict[Principal, Connection]
    rate: float
    sent: int = 0
    got: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Send, until cancelled."""
        loop = asyncio.get_running_loop()
        began, first = loop.time(), self.sent
        senders = list(self.connections.items())
        while True:
            due = first + int((loop.time() - began) * self.rate)
            while self.sent < due:
                who, connection = senders[self.sent % len(senders)]
                works = who != VICTIM and self.sent // len(senders) % _WORK_EVERY == 0
                await self._send(who, connection, "task" if works else "event")
                self.sent += 1
            await asyncio.sleep(_STEP_SECONDS)

    async def _send(self, who: Principal, connection: Connection, kind: str) -> None:
        to = WORK if kind == "task" else EVENT
        message = Envelope.new(to, {"n": self.sent}, source=f"bench:{who}", kind=kind, to=to)
        with contextlib.suppress(Unavailable):  # it is cut, and its buffer full
            await connection.publish(subjects.submission(who), encode(message))

    @contextlib.asynccontextmanager
    async def receiving(self) -> AsyncGenerator[None]:
        """The victim takes its deliveries, and settles them at once."""
        settling: set[asyncio.Task[None]] = set()

        def receive(delivery: Delivery) -> None:
            self.got.append((delivery.record.seq, time.time_ns()))
            self.came.set()
            task = asyncio.create_task(delivery.done())
            settling.add(task)
            task.add_done_callback(settling.discard)
            inbox.want(512)

        inbox = Inbox(self.connections[VICTIM], receive)
        await inbox.start()
        inbox.want(512)
        try:
            yield
        finally:
            await inbox.close()


def enroll(project: Project, agents: Mapping[Principal, tuple[str, ...]] = _AGENTS) -> None:
    """Write the principals of the flow into the register of a project.

    Args:
        project: whose.
        agents: those that take something, and what; the senders come besides.
    """
    state, now = project.state, rfc3339(time.time_ns())
    state.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with state.register.edit() as entries:
        for who in (*agents, *SENDERS):
            if str(who) in entries:
                continue
            takes = agents.get(who, ())
            entries[str(who)] = Entry(
                principal=str(who),
                role=Role.AGENT if takes else Role.PUBLISHER,
                keys=(Key(state.keyring.ensure(who), now),),
                capabilities=takes,
                lease=5.0,
            )


async def control(state: Path, rounds: int, rate: float, on_progress: OnProgress) -> list[Figure]:
    """Kill and pause an agent so many times in a flow; then quarantine it and release it once."""
    project = load_project(PROJECT, state)
    enroll(project)
    async with contextlib.AsyncExitStack() as exits:
        stack = await exits.enter_async_context(Stack(project, agents=()))
        connections: dict[Principal, Connection] = {}
        for who in (VICTIM, *SENDERS, OPERATOR):
            connections[who] = await exits.enter_async_context(await stack.connect(who))
        operator = connections.pop(OPERATOR)
        publisher, reader = await Publisher.start(operator), LedgerReader(operator)
        flow = Flow(connections, rate)
        await exits.enter_async_context(flow.receiving())
        first = await _end(reader)
        began, sending = time.monotonic(), asyncio.create_task(flow.run())
        exits.callback(sending.cancel)
        kills: list[Round] = []
        pauses: list[Round] = []
        for number in range(rounds):
            kills.append(await _round(flow, publisher, reader, "kill", "release"))
            on_progress(2 * number + 1)
            pauses.append(await _round(flow, publisher, reader, "pause", "resume"))
            on_progress(2 * number + 2)
        parked = await _round(flow, publisher, reader, "quarantine", "release")
        sending.cancel()
        took, sent = time.monotonic() - began, flow.sent
        last = await _drained(reader, flow)
        on_progress(2 * rounds + 1)
        figures = [
            Figure("flow", sent / took, "messages/s"),
            Figure("recorded", (last - first) / took, "records/s"),
        ]
        by_or_for = [await _admitted(reader, done, sends=True) for done in kills]
        figures += _figures("kill", kills, by_or_for)
        for_it = [await _admitted(reader, done, sends=False) for done in pauses]
        figures += _figures("pause", pauses, for_it)
        return figures + await _released(reader, parked, flow)


async def _round(
    flow: Flow, publisher: Publisher, reader: LedgerReader, verb: str, back: str
) -> Round:
    """Stop the victim in the flow, wait, and let it go on."""
    await asyncio.sleep(_BETWEEN_SECONDS)
    flow.came.clear()
    async with asyncio.timeout(_AGAIN_SECONDS):
        await flow.came.wait()  # it works again
    start, submitted = await _end(reader), time.time_ns()
    receipt = await _order(publisher, f"control.{verb}")
    done = Round(start, submitted, time.time_ns(), receipt)
    await asyncio.sleep(_STOPPED_SECONDS)
    done.end = await _end(reader)
    done.delivered = max((at for _, at in flow.got if at >= submitted), default=0)
    await _order(publisher, f"control.{back}")
    return done


async def _order(publisher: Publisher, command: str) -> Receipt:
    message = Envelope.new(
        command, Order(_TARGET), source="bench:control", kind="control", to=command
    )
    return await publisher.publish(message, timeout=_AGAIN_SECONDS)


async def _admitted(reader: LedgerReader, done: Round, *, sends: bool) -> list[StoredRecord]:
    """What was admitted around a command for the victim, or with `sends` also of it."""
    found: list[StoredRecord] = []
    for kind, to in ((Kind.TASK, WORK), (Kind.EVENT, EVENT)):
        async for stored in reader.read(done.start, filter=subjects.delivery(0, kind, to)):
            if stored.seq > done.end:
                break
            if kind is Kind.TASK or (sends and stored.record().by == str(VICTIM)):
                found.append(stored)
    return found


def _figures(verb: str, rounds: list[Round], admitted: list[list[StoredRecord]]) -> list[Figure]:
    last: list[float] = []
    recorded: list[float] = []
    delivered: list[float] = []
    late = 0
    for done, records in zip(rounds, admitted, strict=True):
        last.append(_ms(max((r.stored for r in records), default=0), done.submitted))
        late += sum(r.seq > done.receipt.seq for r in records)
        recorded.append(_ms(done.told, done.submitted))
        delivered.append(_ms(done.delivered, done.submitted))
    return [
        *_middle_and_worst(f"{verb}: command to last admitted", last),
        *_middle_and_worst(f"{verb}: command to receipt", recorded),
        *_middle_and_worst(f"{verb}: command to last delivery", delivered),
        Figure(f"{verb}: admitted after the command's record", late, "messages"),
    ]


def _middle_and_worst(name: str, values: list[float]) -> list[Figure]:
    middle = percentile(values, 50)
    return [
        Figure(f"{name}, median", float("nan") if middle is None else middle, "ms"),
        Figure(f"{name}, max", max(values, default=float("nan")), "ms"),
    ]


async def _released(reader: LedgerReader, done: Round, flow: Flow) -> list[Figure]:
    """What a quarantine parked, and whether each of it went on once, in order."""
    held: list[Record] = []
    ends: list[Record] = []
    began = ended = 0
    async for stored in reader.read(done.receipt.seq):
        made = stored.record()
        if made.to == CONTROL_RELEASE:
            began = stored.stored
        if made.verdict is Verdict.HOLD:
            held.append(made)
        elif made.ingress.n:
            ends.append(made)
            ended = stored.stored
    waited, order = [made.seq for made in held], [made.first or 0 for made in ends]
    tasks = [made.seq for made in ends if made.kind is Kind.TASK]
    known = set(tasks)
    came = [seq for seq, _ in flow.got if seq in known]
    return [
        Figure("quarantine: parked", len(held), "messages"),
        Figure("release: lost, repeated or out of order", _wrong(waited, order), "messages"),
        Figure("release: the same of deliveries", _wrong(tasks, came), "messages"),
        Figure("release: its record to the last one released", _ms(ended, began), "ms"),
    ]


def _wrong(wanted: list[int], found: list[int]) -> int:
    """In how many places two lists differ."""
    return sum(one != other for one, other in zip_longest(wanted, found))


async def _drained(reader: LedgerReader, flow: Flow) -> int:
    """Wait until all that was submitted is recorded and delivered; the last record."""
    before = (-1, -1)
    while (now := (await _end(reader), len(flow.got))) != before:
        before = now
        await asyncio.sleep(1.0)
    return now[0]


async def _end(reader: LedgerReader) -> int:
    last = await reader.last()
    return last.seq if last else 0


def _ms(later: int, earlier: int) -> float:
    return max(0, later - earlier) / 1e6
