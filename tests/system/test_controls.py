"""Operators stop agents in the middle of their work, and the ledger and the agents bear it out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import until
from tidegate.bench import PROJECT
from tidegate.bench.control import EVENT, SENDERS, VICTIM, WORK, Flow, enroll
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.pauses import Feed, feeds
from tidegate_bus.connection import Connection
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_policy.invariants import Checker
from tidegate_schemas import Envelope, Kind, Verdict, subjects
from tidegate_schemas.envelope import encode
from tidegate_schemas.governance import Order
from tidegate_schemas.record import Reason, Record
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import OPERATOR

RATE = 300.0  # messages a second
PARKED = 4_000
TARGET = f"agent:{VICTIM}"


@dataclass(slots=True)
class Bus:
    """A running stack, seen by its operator."""

    stack: Stack
    operator: Connection
    registrar: Connection
    publisher: Publisher
    reader: LedgerReader

    async def order(self, verb: str, target: str = TARGET) -> int:
        """Give a command; its record."""
        command = f"control.{verb}"
        message = Envelope.new(command, Order(target), kind="control", to=command)
        return (await self.publisher.publish(message, timeout=60)).seq

    async def last(self) -> int:
        """The last record."""
        found = await self.reader.last()
        return found.seq if found else 0

    async def records(self, start: int = 1) -> list[Record]:
        """The ledger."""
        return [stored.record() async for stored in self.reader.read(start)]

    async def feed(self) -> Feed:
        """Of the victim."""
        (found,) = [f for f in await feeds(self.registrar) if f.principal == VICTIM]
        return found

    async def stands_still(self) -> bool:
        """Whether nothing is delivered to the victim."""
        return (await self.feed()).paused

    async def grown(self, by: int) -> None:
        """Wait until the ledger has so many more records."""
        wanted = await self.last() + by

        async def there() -> bool:
            return await self.last() >= wanted

        await until(there, seconds=60)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[Bus]:
    """A stack without agents of its own; the victim is played here."""
    project = load_project(PROJECT, folder)
    enroll(project)
    async with (
        Stack(project, agents=()) as stack,
        await stack.connect(OPERATOR) as operator,
        await stack.connect(REGISTRAR) as registrar,
    ):
        publisher = await Publisher.start(operator)
        yield Bus(stack, operator, registrar, publisher, LedgerReader(operator))
        checker = Checker()
        async for stored in LedgerReader(operator).read():
            checker.add(stored)
        assert checker.finish(quiet=False) == []


@contextlib.asynccontextmanager
async def flowing(bus: Bus, rate: float = RATE) -> AsyncGenerator[Flow]:
    """The flow of the benchmark, at a lower rate."""
    async with contextlib.AsyncExitStack() as exits:
        connections = {
            who: await exits.enter_async_context(await bus.stack.connect(who))
            for who in (VICTIM, *SENDERS)
        }
        flow = Flow(connections, rate)
        await exits.enter_async_context(flow.receiving())
        sending = asyncio.create_task(flow.run())
        try:
            yield flow
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


def concerns(made: Record) -> bool:
    """Whether it is of the victim or for it."""
    return made.by == str(VICTIM) or made.to == WORK


async def works(flow: Flow) -> None:
    """Wait until something comes to the victim."""
    flow.came.clear()
    async with asyncio.timeout(60):
        await flow.came.wait()


@pytest.mark.timeout(180)
async def test_nothing_of_a_killed_agent_is_admitted_after_the_command(tmp_path: Path) -> None:
    """In a flow, five times: the record of the command is the border, and its connection is cut."""
    async with running(tmp_path) as bus, flowing(bus) as flow:
        cuts = 0

        def cut() -> None:
            nonlocal cuts
            cuts += 1

        flow.connections[VICTIM].on_reconnect(cut)
        spans: list[tuple[int, int]] = []
        for number in range(5):
            await works(flow)
            killed = await bus.order("kill")
            await until(lambda number=number: cuts == number + 1)
            assert await bus.stands_still()
            await bus.grown(100)
            spans.append((killed, await bus.order("release")))
        await works(flow)
        assert cuts == len(spans)
        records = await bus.records()

    for killed, released in spans:
        during = [made for made in records[killed : released - 1] if concerns(made)]
        assert {(made.verdict, made.why.reason) for made in during} == {
            (Verdict.DENY, Reason.KILLED)
        }
        assert {made.to for made in during} == {EVENT, WORK}
        assert not [seq for seq, _ in flow.got if killed < seq < released]


@pytest.mark.timeout(180)
async def test_a_paused_agent_gets_nothing_that_was_admitted_before(tmp_path: Path) -> None:
    """It comes once the pause has ended, before what was held, and each message once."""
    async with running(tmp_path) as bus:
        async with await bus.stack.connect(SENDERS[0]) as connection:
            sender = await Publisher.start(connection)

            async def ask(number: int) -> Verdict:
                task = Envelope.new(WORK, {"n": number}, kind="task", to=WORK)
                return (await sender.publish(task)).verdict

            before = [await ask(number) for number in range(10)]
            await bus.order("pause")
            await until(bus.stands_still)
            after = [await ask(number) for number in range(10, 15)]

            async with flowing(bus, rate=0.0) as flow:
                consumer = subjects.consumer_info(
                    subjects.ledger_stream(0), subjects.consumer(VICTIM)
                )

                async def asked() -> bool:
                    return bool((await bus.registrar.api(consumer))["num_waiting"])

                await until(asked)
                feed = await bus.feed()
                assert (feed.paused, feed.waiting, feed.out, flow.got) == (True, 10, 0, [])
                await bus.order("resume")
                await until(lambda: len(flow.got) >= 15)

        numbers = {made.seq: _number(made) for made in await bus.records()}

    assert before == [Verdict.ALLOW] * 10
    assert after == [Verdict.HOLD] * 5
    assert [numbers[seq] for seq, _ in flow.got] == list(range(15))


@pytest.mark.timeout(180)
async def test_who_comes_into_a_stopped_team_gets_nothing_either(tmp_path: Path) -> None:
    """Nor after the stack was started again, until the team is free."""
    late = Principal(VICTIM.team, "late")
    async with running(tmp_path) as bus:
        await bus.order("quarantine", f"team:{VICTIM.team}")
        enroll(bus.stack.project, {late: ("late.work",)})
        await until(lambda: _stand_still(bus, VICTIM, late))
    async with running(tmp_path) as bus:
        assert await _stand_still(bus, VICTIM, late)
        await bus.order("release", f"team:{VICTIM.team}")
        await until(lambda: _stand_still(bus))


async def _stand_still(bus: Bus, *who: Principal) -> bool:
    found = {feed.principal for feed in await feeds(bus.registrar) if feed.paused}
    return found == set(who)


def _number(made: Record) -> int:
    message = made.message()
    data = message.payload() if message and made.to == WORK else None
    return data["n"] if data else -1


@pytest.mark.timeout(240)
async def test_a_release_goes_on_where_a_killed_gateway_stopped(tmp_path: Path) -> None:
    """What was parked is released once and in order, and so it is delivered."""
    async with running(tmp_path) as bus, flowing(bus, rate=0.0) as flow:
        gateway = next(child for child in bus.stack.children if child.name == "gateway")
        async with contextlib.AsyncExitStack() as exits:
            connections = [
                await exits.enter_async_context(await bus.stack.connect(who)) for who in SENDERS[:2]
            ]
            ends: list[Record] = []
            for attempt in range(5):  # until one is hit in the middle
                parked = await bus.order("quarantine")
                for number in range(PARKED):
                    await _ask(SENDERS[number % 2], connections[number % 2], number)
                await until(lambda parked=parked: _held(bus, parked), seconds=60)
                pid, got = gateway.pid, len(flow.got)
                releasing = asyncio.create_task(bus.order("release"))
                await _first_released(bus)
                assert pid
                os.kill(pid, signal.SIGKILL)
                released = await releasing
                await until(lambda got=got: len(flow.got) >= got + PARKED, seconds=60)
                ends = [made for made in await bus.records(released + 1) if made.ingress.n]
                if len({made.epoch for made in ends}) == 2:
                    break
                print(f"attempt {attempt}: it was faster")
        held = [m.seq for m in await bus.records() if m.verdict is Verdict.HOLD][-PARKED:]

    assert len({made.epoch for made in ends}) == 2
    assert [made.first for made in ends] == held
    assert {(made.verdict, made.why.reason) for made in ends} == {(Verdict.ALLOW, Reason.RELEASED)}
    assert [seq for seq, _ in flow.got[-PARKED:]] == [made.seq for made in ends]


async def _ask(who: Principal, connection: Connection, number: int) -> None:
    task = Envelope.new(WORK, {"n": number}, kind="task", to=WORK)
    await connection.publish(subjects.submission(who), encode(task))


async def _held(bus: Bus, since: int) -> bool:
    """Whether all wait that were asked for since then."""
    if await bus.last() < since + PARKED:
        return False
    pattern = subjects.ledger(0, Verdict.HOLD, Kind.TASK, WORK)
    return len([stored async for stored in bus.reader.read(since, filter=pattern)]) == PARKED


async def _first_released(bus: Bus) -> None:
    """Wait for the first message that goes on."""
    pattern = subjects.delivery(0, Kind.TASK, WORK)
    start = await bus.last()
    async with asyncio.timeout(60):
        async for _ in bus.reader.read(start + 1, filter=pattern, follow=True):
            return
