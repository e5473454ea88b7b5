"""A worker does what it is asked for: real broker, real gateway, the worker in this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from support import AGENT, OTHER, PUBLISHER, Broker, until
from support.broker import CAPABILITY, PERMIT_ALL, TOPIC
from tidegate_agents import Agent, Context, Worker
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_bus.telemetry import Health
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.manifest import Manifest, Retry
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import RESULT


def manifest(**fields: Any) -> Manifest:
    """The manifest of the agent, with short times."""
    defaults: dict[str, Any] = {
        "team": AGENT.team,
        "name": AGENT.name,
        "version": "1",
        "owner": "tests",
        "run": "module:agent",
        "capabilities": (CAPABILITY,),
        "concurrency": 4,
        "lease": 1.0,
        "drain": 10.0,
        "retry": Retry(attempts=3, delay=0.02, max_delay=0.1),
    }
    return Manifest(**defaults | fields)


@contextlib.asynccontextmanager
async def working(broker: Broker, agent: Agent, **fields: Any) -> AsyncGenerator[Worker]:
    """A worker at work; drained at the end."""
    worker = Worker(await broker.connect(AGENT), agent, manifest(**fields), Health())
    task = asyncio.create_task(worker.run())
    try:
        await worker.ready()
        yield worker
    finally:
        worker.stop()
        await task


class Office:
    """Asks the agent for work, and looks at what the ledger says of it."""

    def __init__(self, broker: Broker, reader: LedgerReader, publisher: Publisher) -> None:
        self.broker = broker
        self._reader = reader
        self._publisher = publisher

    async def ask(self, data: Any = None, **attributes: Any) -> Envelope:
        """Publish a task for the agent."""
        task = Envelope.new(CAPABILITY, data, kind="task", to=CAPABILITY, **attributes)
        await self._publisher.publish(task)
        return task

    async def tell(self, data: Any = None, **attributes: Any) -> Envelope:
        """Publish an event."""
        event = Envelope.new(TOPIC, data, **attributes)
        await self._publisher.publish(event)
        return event

    async def results(self) -> list[tuple[Record, Envelope]]:
        """Everything that was published as a result, with its record, whatever the verdict."""
        found: list[tuple[Record, Envelope]] = []
        async for stored in self._reader.read():
            record = stored.record()
            message = record.message()
            if record.kind is Kind.RESULT and message:
                found.append((record, message))
        return found

    async def answers(self, count: int = 1, *, seconds: float = 20.0) -> list[Envelope]:
        """Wait for so many admitted results; duplicates do not count."""
        found: list[Envelope] = []

        async def enough() -> bool:
            found[:] = [m for r, m in await self.results() if r.verdict is Verdict.ALLOW]
            return len(found) >= count

        await until(enough, seconds=seconds)
        assert len(found) == count
        return found

    async def consumer(self) -> dict[str, Any]:
        """What the broker says of the deliveries to the agent."""
        name = subjects.consumer_info(subjects.ledger_stream(0), subjects.consumer(AGENT))
        connection = await self.broker.connect(REGISTRAR)
        info: dict[str, Any] = await connection.api(name)
        await connection.close()
        return info

    async def settled(self, *, seconds: float = 20.0) -> None:
        """Wait until nothing waits for the agent and nothing is in work."""

        async def quiet() -> bool:
            info = await self.consumer()
            return (info["num_pending"], info["num_ack_pending"]) == (0, 0)

        await until(quiet, seconds=seconds)


@contextlib.asynccontextmanager
async def office(
    broker: Broker,
    policies: str = PERMIT_ALL,
    *,
    lease: float = 1.0,
    topics: tuple[str, ...] = (),
    capabilities: tuple[str, ...] = (CAPABILITY,),
    **limits: Any,
) -> AsyncGenerator[Office]:
    """An office with a gateway; what the agent is delivered, and its lease at the broker."""
    await broker.converge(Subscription(AGENT, capabilities, topics, lease))
    async with broker.gateway(policies, **limits):
        yield Office(broker, await broker.reader(), await broker.publisher())


class Terms(msgspec.Struct):
    """What a sum needs."""

    a: int
    b: int


async def test_a_task_becomes_a_result_for_whoever_asked(broker: Broker) -> None:
    """The result goes to the sender and bears everything that ties it to its task."""
    agent = Agent()

    @agent.task(CAPABILITY)
    async def add(terms: Terms) -> int:
        return terms.a + terms.b

    async with office(broker) as desk, working(broker, agent):
        task = await desk.ask(
            {"a": 2, "b": 3},
            correlationid="story",
            runid="run-1",
            stepid="adding",
            attempt=2,
            subject="4",
        )
        (answer,) = await desk.answers()
        ((record, _),) = await desk.results()
        await desk.settled()

    assert answer.payload() == 5
    assert (record.by, record.kind, record.to) == (str(AGENT), Kind.RESULT, str(PUBLISHER))
    assert (answer.type, answer.source) == (RESULT, f"tidegate:{AGENT}")
    assert (answer.correlationid, answer.causationid) == ("story", task.id)
    assert (answer.runid, answer.stepid, answer.attempt, answer.subject) == (
        "run-1",
        "adding",
        2,
        "4",
    )


async def test_a_task_without_a_story_begins_one(broker: Broker) -> None:
    """Without a correlation id the result is correlated to the task itself."""
    agent = Agent()
    agent.task(CAPABILITY)(_echo)

    async with office(broker) as desk, working(broker, agent):
        task = await desk.ask("x")
        (answer,) = await desk.answers()

    assert answer.correlationid == task.id


async def _echo(data: Any) -> Any:
    return data


async def test_an_event_is_handled_and_answered_by_nothing(broker: Broker) -> None:
    """What the handler of an event returns is not published."""
    agent = Agent()
    seen: list[Any] = []

    @agent.event(TOPIC)
    async def note(data: Any) -> str:
        seen.append(data)
        return "not a result"

    async with (
        office(broker, capabilities=(), topics=(TOPIC,)) as desk,
        working(broker, agent, capabilities=(), subscribes=(TOPIC,)),
    ):
        await desk.tell({"n": 1})
        await until(lambda: bool(seen))
        await desk.settled()

        assert seen == [{"n": 1}]
        assert await desk.results() == []


async def test_not_more_run_at_once_than_the_manifest_says(broker: Broker) -> None:
    """What is over the concurrency waits at the broker, where other workers can get it."""
    agent = Agent()
    running, most = 0, 0
    go = threading.Event()

    @agent.task(CAPABILITY)
    def work(data: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        go.wait(20)
        running -= 1
        return data

    async with office(broker) as desk, working(broker, agent, concurrency=3):
        for number in range(10):
            await desk.ask(number)
        await until(lambda: running == 3)

        async def waiting() -> bool:
            info = await desk.consumer()
            return (info["num_pending"], info["num_ack_pending"]) == (7, 3)

        await until(waiting)
        go.set()
        answers = await desk.answers(10)

    assert most == 3
    assert sorted(answer.payload() for answer in answers) == list(range(10))


async def test_a_plain_function_runs_in_a_thread_of_its_own(broker: Broker) -> None:
    """Plain handlers run at the same time as each other and as the event loops."""
    agent = Agent()
    meeting = threading.Barrier(2, timeout=20)
    threads: set[int] = set()

    @agent.task(CAPABILITY)
    def meet(data: Any) -> None:
        threads.add(threading.get_ident())
        meeting.wait()

    async with office(broker) as desk, working(broker, agent):
        await desk.ask()
        await desk.ask()
        await desk.answers(2)

    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_a_handler_that_blocks_its_loop_keeps_its_lease(broker: Broker) -> None:
    """Two and a half leases of blocking, and the message is delivered once."""
    agent = Agent()
    delivered: list[int] = []

    @agent.task(CAPABILITY)
    async def block(data: Any, context: Context) -> str:
        delivered.append(context.delivered)
        threading.Event().wait(2.5)
        return "done"

    async with office(broker, lease=1.0) as desk, working(broker, agent, lease=1.0):
        await desk.ask()
        await desk.answers()
        await desk.settled()

        assert delivered == [1]
        assert len(await desk.results()) == 1


async def test_what_comes_again_while_it_is_handled_is_not_handled_beside_itself(
    broker: Broker,
) -> None:
    """A broker that has lost count of the leases does not make effects happen twice."""
    agent = Agent()
    calls = 0
    go = threading.Event()

    @agent.task(CAPABILITY)
    def work(data: Any) -> str:
        nonlocal calls
        calls += 1
        go.wait(20)
        return "once"

    async with office(broker, lease=1.0) as desk, working(broker, agent, lease=60.0):
        await desk.ask()

        async def delivered_again() -> bool:
            return bool((await desk.consumer())["num_redelivered"])

        await until(delivered_again)
        go.set()
        await desk.answers()
        await desk.settled()
        results = await desk.results()

    assert calls == 1
    assert [record.verdict for record, _ in results] == [Verdict.ALLOW]


async def test_a_handler_publishes_as_its_agent_within_the_story(broker: Broker) -> None:
    """Correlation and causation of what a handler publishes are filled in, unless given."""
    agent = Agent()

    @agent.task(CAPABILITY)
    async def report(data: Any, context: Context) -> int:
        receipt = await context.publish(Envelope.new("work.seen"))
        await context.publish(Envelope.new("work.seen", correlationid="c", causationid="d"))
        return receipt.seq

    async with office(broker) as desk, working(broker, agent):
        task = await desk.ask(correlationid="story")
        (answer,) = await desk.answers()
        seen = [(r, r.message()) for r in await broker.records() if r.to == "work.seen"]

    assert [record.by for record, _ in seen] == [str(AGENT)] * 2
    assert answer.payload() == seen[0][0].seq
    assert [(m.correlationid, m.causationid) for _, m in seen if m] == [
        ("story", task.id),
        ("c", "d"),
    ]


async def test_a_worker_is_who_its_manifest_says(broker: Broker) -> None:
    """Another agent's connection, or handlers that the manifest does not name, are refused."""
    agent = Agent()
    agent.task(CAPABILITY)(_echo)
    other, own = await broker.connect(OTHER), await broker.connect(AGENT)

    with pytest.raises(InvalidInput, match=r"connected as team\.other, not team\.agent"):
        Worker(other, agent, manifest(), Health())
    with pytest.raises(InvalidInput, match=r"names event thing\.happened, no handler"):
        Worker(own, agent, manifest(subscribes=(TOPIC,)), Health())


async def test_the_health_of_a_worker_tells_what_it_does(broker: Broker) -> None:
    """`/healthz` names the agent and how much it is handling."""
    agent = Agent()
    go = threading.Event()

    @agent.task(CAPABILITY)
    def wait(data: Any) -> None:
        go.wait(20)

    health = Health()
    async with office(broker) as desk:
        worker = Worker(await broker.connect(AGENT), agent, manifest(), health)
        task = asyncio.create_task(worker.run())
        await desk.ask()
        await until(lambda: health.report()[1].get("running") == 1)
        go.set()
        await desk.answers()
        worker.stop()
        await task

    healthy, report = health.report()
    assert healthy
    assert report["agent"] == str(AGENT)
