"""However a worker ends or its broker does, what it held is done by somebody, soon and once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from support import AGENT, OTHER, Broker, until
from support.broker import CAPABILITY, TOPIC, running_broker
from tidegate_agents import Agent, Context, Worker
from tidegate_bus.connection import Connection
from tidegate_bus.delivery import Delivery
from tidegate_bus.telemetry import Health
from tidegate_schemas import subjects
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.manifest import Retry
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import DEADLETTER, RESULT

from .test_worker import manifest, office, working

LONG = 30.0
"""A lease that no test waits for."""


def _agent(function: Callable[..., Any]) -> Agent:
    agent = Agent()
    agent.task(CAPABILITY)(function)
    return agent


async def _note_and_echo(data: Any, context: Context) -> dict[str, Any]:
    return {"data": data, "delivered": context.delivered, "by": "second"}


async def test_a_drain_finishes_what_runs_and_strands_nothing(broker: Broker) -> None:
    """What the first worker had on request goes to the second at once, as a first delivery."""
    running = 0
    go = threading.Event()

    def slow(data: int) -> dict[str, Any]:
        nonlocal running
        running += 1
        go.wait(20)
        return {"data": data, "delivered": 1, "by": "first"}

    async with office(broker, lease=LONG) as desk:
        async with working(broker, _agent(slow), lease=LONG, concurrency=3) as first:
            for number in range(3):
                await desk.ask(number)
            await until(lambda: running == 3)
            first.stop()
            go.set()
        async with working(broker, _agent(_note_and_echo), lease=LONG):
            for number in range(3, 9):
                await desk.ask(number)
            answers = [m.payload() for m in await desk.answers(9, seconds=10)]
            await desk.settled()

    assert {answer["data"]: answer["by"] for answer in answers} == {
        number: "first" if number < 3 else "second" for number in range(9)
    }
    assert {answer["delivered"] for answer in answers} == {1}


async def test_over_the_drain_time_a_message_is_released_without_charging_an_attempt(
    broker: Broker,
) -> None:
    """The next worker gets it at once, with all its attempts; the handler hears of it."""
    started, cancelled = threading.Event(), threading.Event()

    async def endless(data: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def fails(data: Any, context: Context) -> None:
        raise ValueError(f"delivery {context.delivered}")

    async with office(broker, lease=LONG) as desk:
        async with working(broker, _agent(endless), lease=LONG, drain=0.1):
            await desk.ask()
            await until(started.is_set)
        retry = Retry(attempts=2, delay=0.0, max_delay=0.0)
        async with working(broker, _agent(fails), lease=LONG, retry=retry):
            (letter,) = await desk.answers(seconds=20)

    assert cancelled.is_set()
    assert letter.type == DEADLETTER
    assert [e["error"] for e in letter.payload()["history"]] == [
        "ValueError: delivery 2",
        "ValueError: delivery 3",
    ]


async def test_a_plain_handler_that_does_not_end_is_left_behind(broker: Broker) -> None:
    """Nobody can stop a thread; the worker ends without it and another one does the work."""
    started, go = threading.Event(), threading.Event()

    def stuck(data: Any) -> str:
        started.set()
        go.wait(20)
        return "too late"

    async with office(broker, lease=LONG) as desk:
        async with working(broker, _agent(stuck), lease=LONG, drain=0.0):
            await desk.ask()
            await until(started.is_set)
        async with working(broker, _agent(_note_and_echo), lease=LONG):
            (answer,) = await desk.answers(seconds=20)
        go.set()

    assert answer.payload()["delivered"] == 2


async def test_a_message_between_two_attempts_is_released_at_once(broker: Broker) -> None:
    """A drain does not wait for the pause before the next attempt; the rest of it is kept."""
    failed = threading.Event()
    loop = asyncio.get_running_loop()

    async def fails(data: Any) -> None:
        failed.set()
        raise ValueError

    retry = Retry(attempts=2, delay=6.0, max_delay=6.0)
    async with office(broker, lease=LONG) as desk:
        began = loop.time()
        async with working(broker, _agent(fails), lease=LONG, drain=LONG, retry=retry):
            await desk.ask()
            await until(failed.is_set)
        drained = loop.time() - began
        async with working(broker, _agent(_note_and_echo), lease=LONG):
            await desk.answers(seconds=20)
        answered = loop.time() - began

    assert drained < 3  # half of the pause, the least that jitter leaves of it
    assert answered >= 3


@pytest.mark.parametrize("moment", ["held", "cancelled"])
async def test_a_worker_that_is_cancelled_gives_back_what_it_holds(
    broker: Broker, moment: str
) -> None:
    """The second signal ends a worker at once; also then nothing waits for a lease."""
    started = threading.Event()

    async def endless(data: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    async with office(broker, lease=LONG) as desk:
        worker = Worker(
            await broker.connect(AGENT), _agent(endless), manifest(lease=LONG), Health()
        )
        task = asyncio.create_task(worker.run())
        await desk.ask()
        await until(started.is_set)
        if moment == "cancelled":
            worker.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with working(broker, _agent(_note_and_echo), lease=LONG):
            (answer,) = await desk.answers(seconds=20)

    assert answer.payload()["delivered"] == 2


async def test_a_task_that_is_handled_twice_has_one_result(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acknowledgement that is lost costs a second run of the handler, not a second result."""
    delivered: list[int] = []
    done = Delivery.done

    async def work(data: Any, context: Context) -> str:
        delivered.append(context.delivered)
        return "result"

    async def lost_at_first(delivery: Delivery) -> None:
        if delivery.delivered > 1:
            await done(delivery)

    monkeypatch.setattr(Delivery, "done", lost_at_first)
    async with office(broker, lease=1.0) as desk, working(broker, _agent(work)):
        await desk.ask()
        await desk.settled()
        results = await desk.results()

    assert delivered == [1, 2]
    assert [record.verdict for record, _ in results] == [Verdict.ALLOW, Verdict.DUPLICATE]


async def test_a_task_has_one_answer_also_when_it_is_handled_differently(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a result that was recorded, giving up on the same task changes nothing."""
    done = Delivery.done

    async def only_at_first(data: Any, context: Context) -> str:
        if context.delivered > 1:
            raise ValueError
        return "result"

    async def lost_at_first(delivery: Delivery) -> None:
        if delivery.delivered > 1:
            await done(delivery)

    monkeypatch.setattr(Delivery, "done", lost_at_first)
    async with office(broker, lease=1.0) as desk, working(broker, _agent(only_at_first)):
        await desk.ask()
        await desk.settled()
        results = await desk.results()

    assert [(record.verdict, message.type) for record, message in results] == [
        (Verdict.ALLOW, RESULT),
        (Verdict.DUPLICATE, DEADLETTER),
    ]


@contextlib.asynccontextmanager
async def _process(broker: Broker, folder: Path, code: str) -> AsyncGenerator[int]:
    """A worker as a process of its own; its pid. It is killed at the end."""
    project = folder / "project"
    (project / "agents").mkdir(parents=True)
    (project / "tidegate.yaml").write_text("project: test\n")
    (project / "agents" / "agent.json.yaml").write_text(
        json.dumps(manifest(run="handmade:agent", lease=1).model_dump(mode="json"))
    )
    (project / "handmade.py").write_text(code)
    (broker.folder / "address").write_text(broker.url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidegate", "agent", "run", "handmade:agent"),
        *("--project", str(project), "--state", str(broker.folder)),
        cwd=folder,
    )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_worker_that_is_killed_loses_its_lease_and_another_one_does_the_work(
    broker: Broker, tmp_path: Path
) -> None:
    """SIGKILL in the middle of a handler costs a lease, no task."""
    code = f"""
import asyncio
from pathlib import Path
from tidegate import Agent

agent = Agent()

@agent.task("{CAPABILITY}")
async def work(data: str) -> None:
    Path("{tmp_path}/started").touch()
    await asyncio.Event().wait()
"""
    async with office(broker, lease=1.0) as desk:
        async with _process(broker, tmp_path, code) as pid:
            await desk.ask("x")
            await until((tmp_path / "started").exists, seconds=30)
            os.kill(pid, signal.SIGKILL)
        async with working(broker, _agent(_note_and_echo)):
            (answer,) = await desk.answers(seconds=20)

    assert answer.payload() == {"data": "x", "delivered": 2, "by": "second"}


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncGenerator[Broker]:
    """A broker in which all agents share an account, as in operator mode."""
    async with running_broker(tmp_path / "shared", together=True) as made:
        yield made


async def test_what_others_send_into_the_inbox_of_a_worker_is_ignored(
    shared: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent may ask the broker to send its own deliveries to another; they are not taken."""
    broker = shared
    inboxes: list[str] = []
    hear = Connection.hear

    async def spy(self: Connection, subject: str, callback: Any, **more: Any) -> Any:
        if self.principal == AGENT:
            inboxes.append(subject)
        return await hear(self, subject, callback, **more)

    monkeypatch.setattr(Connection, "hear", spy)
    handled: list[Any] = []

    async def work(data: Any) -> None:
        handled.append(data)

    agent = _agent(work)
    agent.event(TOPIC)(work)
    attacker = await broker.connect(OTHER)
    with capture_logs() as logs:
        async with office(broker) as desk, working(broker, agent, subscribes=(TOPIC,)):
            for inbox in inboxes:
                await desk.tell("for the other")
                await attacker.nats.publish(
                    subjects.pull(subjects.ledger_stream(0), subjects.consumer(OTHER)),
                    msgspec.json.encode({"batch": 1, "no_wait": True}),
                    reply=inbox.replace("*", "1"),
                )
            await until(lambda: any("forged" in entry["event"] for entry in logs))
            await desk.ask("for us")
            await desk.answers()

    assert handled == ["for us"]


async def test_a_broker_that_restarts_in_the_middle_of_work_loses_none(broker: Broker) -> None:
    """Handlers go on while the broker is away; each task ends in one result."""
    running = 0
    go = threading.Event()

    def work(data: int) -> int:
        nonlocal running
        running += 1
        go.wait(20)
        return data

    async with office(broker, lease=1.0) as desk, working(broker, _agent(work), concurrency=2):
        for number in range(5):
            await desk.ask(number)
        await until(lambda: running == 2)
        await broker.kill()
        go.set()
        await broker.restart()
        answers = await desk.answers(5, seconds=30)

    assert sorted(answer.payload() for answer in answers) == [0, 1, 2, 3, 4]


async def test_a_connection_that_is_closed_for_good_ends_the_worker(broker: Broker) -> None:
    """It says so instead of waiting for ever, so whoever supervises it starts it again."""
    connection = await broker.connect(AGENT)
    worker = Worker(connection, _agent(_note_and_echo), manifest(), Health())
    task = asyncio.create_task(worker.run())
    await worker.ready()
    await connection.close()

    async with asyncio.timeout(10):
        with pytest.raises(Unavailable, match=r"connection of team\.agent is closed"):
            await task
