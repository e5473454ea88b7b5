"""The coordinator runs blueprints: real broker, real gateway, it and a worker in this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

from support import AGENT, OPERATOR, Broker, until
from support.broker import CAPABILITY, PERMIT_ALL, TOPIC
from tidegate_agents import Agent, Context
from tidegate_agents.coordinator import Coordinator
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_bus.telemetry import Health
from tidegate_policy.invariants import Checker
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.manifest import Retry
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import (
    BLUEPRINT_REGISTER,
    COORDINATOR,
    IDENTITY_REGISTER,
    RUN_CANCEL,
    RUN_FINISHED,
    RUN_START,
    RUN_TIMEOUT,
)

from .test_worker import working


def blueprint(steps: dict[str, dict[str, Any]], **fields: Any) -> Blueprint:
    """A blueprint whose steps all ask the one agent; started by the one event."""
    whole = {name: {"task": CAPABILITY, **step} for name, step in steps.items()}
    defaults: dict[str, Any] = {"blueprint": "flow", "version": 1, "on": {"event": TOPIC}}
    return Blueprint.model_validate({**defaults, "steps": whole, **fields})


DIAMOND = blueprint(
    {
        "left": {"with": {"say": "${ input.name + ' left' }"}},
        "right": {"with": {"say": "${ input.name + ' right' }"}},
        "join": {
            "needs": ["left", "right"],
            "with": {"say": "${ steps.left.output + ' and ' + steps.right.output }"},
        },
    }
)


def saying(function: Callable[..., Any] | None = None) -> Agent:
    """An agent that says what it is told to, or does something else."""

    async def say(data: dict[str, Any]) -> Any:
        return data["say"]

    agent = Agent()
    agent.task(CAPABILITY)(function or say)
    return agent


@contextlib.asynccontextmanager
async def coordinating(
    broker: Broker, *blueprints: Blueprint
) -> AsyncGenerator[asyncio.Task[None]]:
    """A coordinator at work; cancelled at the end, as a signal would."""
    coordinator = Coordinator(await broker.connect(COORDINATOR), blueprints, Health())
    task = asyncio.create_task(coordinator.run())
    ready = asyncio.create_task(coordinator.ready())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Scene:
    """Starts runs, and reads in the ledger what became of them."""

    def __init__(self, reader: LedgerReader, source: Publisher, operator: Publisher) -> None:
        self._reader = reader
        self._source = source
        self.operator = operator

    async def happen(self, data: Any = None, story: str = "story") -> Envelope:
        """Publish the event that starts a run."""
        event = Envelope.new(TOPIC, data, correlationid=story)
        await self._source.publish(event)
        return event

    async def command(self, to: str, data: Any, **attributes: Any) -> None:
        """Publish a control message of the operator."""
        envelope = Envelope.new(to, data, kind="control", to=to, **attributes)
        await self.operator.publish(envelope)

    async def messages(self, to: str = "", story: str = "") -> list[tuple[Record, Envelope]]:
        """Records that hold a message, those for a destination or of a story only."""
        records = [stored.record() async for stored in self._reader.read()]
        pairs = [(record, record.message()) for record in records]
        return [
            (r, m)
            for r, m in pairs
            if m and (not to or r.to == to) and (not story or m.correlationid == story)
        ]

    async def end(self, story: str = "story", *, seconds: float = 20.0) -> dict[str, Any]:
        """Wait until the run has ended; how it did."""
        found: list[tuple[Record, Envelope]] = []

        async def ended() -> bool:
            found[:] = await self.messages(RUN_FINISHED, story)
            return bool(found)

        await until(ended, seconds=seconds)
        data: dict[str, Any] = found[0][1].payload()
        return data

    async def tasks(self, story: str = "story") -> list[Envelope]:
        """The admitted tasks of a run."""
        found = await self.messages(CAPABILITY, story)
        return [m for r, m in found if r.kind is Kind.TASK and r.verdict is Verdict.ALLOW]

    async def check(self) -> None:
        """Every message of the coordinator was recorded once, and the ledger keeps its promises."""
        checker = Checker()
        first: dict[tuple[str, str], int] = {}
        async for stored in self._reader.read():
            record = checker.add(stored)
            message = record.message() if record else None
            if record and message and record.verdict is not Verdict.DUPLICATE:
                assert first.setdefault((record.by, message.id), record.seq) == record.seq
        assert checker.finish() == []


@contextlib.asynccontextmanager
async def scene(
    broker: Broker, policies: str = PERMIT_ALL, *, lease: float = 30.0
) -> AsyncGenerator[Scene]:
    """A gateway, and an agent that is registered."""
    await broker.converge(Subscription(AGENT, (CAPABILITY,), (), lease))
    async with broker.gateway(policies):
        operator = await broker.publisher(OPERATOR)
        made = Scene(await broker.reader(), await broker.publisher(), operator)
        await made.command(
            IDENTITY_REGISTER,
            Registration(str(AGENT), Role.AGENT, (CAPABILITY,), keys=("U",)),
        )
        yield made


async def test_an_event_starts_tasks_that_meet_in_a_last_one(broker: Broker) -> None:
    """Two steps run beside each other, the third has the outputs of both, then the run ends."""
    meeting = threading.Barrier(2, timeout=20)

    def say(data: dict[str, str]) -> str:
        if " and " not in data["say"]:
            meeting.wait()
        return data["say"]

    async with (
        scene(broker) as stage,
        working(broker, saying(say)),
        coordinating(broker, DIAMOND),
    ):
        event = await stage.happen({"name": "Ada"})
        end = await stage.end()
        tasks = await stage.tasks()
        ((finished, message),) = await stage.messages(RUN_FINISHED)
        await stage.check()

    run = end.pop("run")
    assert end == {
        "blueprint": "flow",
        "status": "succeeded",
        "output": "Ada left and Ada right",
        "error": None,
    }
    assert sorted(task.id for task in tasks) == sorted(
        f"{run}:{step}:0:1" for step in ("left", "right", "join")
    )
    assert {(task.runid, task.attempt, task.subject) for task in tasks} == {(run, 1, "0")}
    assert (finished.by, finished.kind, message.runid) == (str(COORDINATOR), Kind.EVENT, run)
    assert event.correlationid == message.correlationid


async def test_an_operator_starts_a_run_by_hand(broker: Broker) -> None:
    """`run.start` names the blueprint and gives the input; no event is needed."""
    plain = blueprint({"say": {"with": {"say": "${ input }"}}}, on=None)
    async with (
        scene(broker) as stage,
        working(broker, saying()),
        coordinating(broker, plain),
    ):
        data = {"blueprint": "flow", "input": "by hand"}
        await stage.command(RUN_START, data, correlationid="story")
        end = await stage.end()

    assert (end["status"], end["output"]) == ("succeeded", "by hand")


async def test_a_list_becomes_a_task_an_element(broker: Broker) -> None:
    """Outputs stand in the order of the list, whatever is done first."""
    last = threading.Event()

    def say(data: dict[str, Any]) -> str:
        if data["index"] == 2:
            last.set()
        else:
            last.wait(20)
        return str(data["say"]).upper()

    each = blueprint(
        {
            "each": {
                "foreach": "input",
                "with": {"say": "${ item }", "index": "${ index }"},
            }
        }
    )
    async with scene(broker) as stage, working(broker, saying(say)), coordinating(broker, each):
        await stage.happen(["a", "b", "c"])
        end = await stage.end()
        tasks = await stage.tasks()

    assert end["output"] == ["A", "B", "C"]
    assert sorted(task.subject or "" for task in tasks) == ["0", "1", "2"]


async def test_a_step_may_be_skipped(broker: Broker) -> None:
    """A step whose condition is false asks nobody; its output is null."""
    choice = blueprint(
        {
            "maybe": {"when": "input.really", "with": {"say": "yes"}},
            "after": {
                "needs": ["maybe"],
                "with": {"say": "${ steps.maybe.output == null ? 'skipped' : 'said' }"},
            },
        }
    )
    async with scene(broker) as stage, working(broker, saying()), coordinating(broker, choice):
        await stage.happen({"really": False}, "no")
        await stage.happen({"really": True}, "yes")
        ends = [(await stage.end(story))["output"] for story in ("no", "yes")]
        counts = [len(await stage.tasks(story)) for story in ("no", "yes")]

    assert ends == ["skipped", "said"]
    assert counts == [1, 2]


async def test_a_step_is_repeated_after_a_dead_letter(broker: Broker) -> None:
    """Each attempt is a task of its own; the one that succeeds counts."""

    async def at_third(data: Any, context: Context) -> int | None:
        attempt = context.envelope.attempt
        if attempt != 3:
            raise ValueError(f"attempt {attempt}")
        return attempt

    stubborn = blueprint({"say": {"retry": {"attempts": 3, "delay": 0.01}}})
    once = Retry(attempts=1)
    async with (
        scene(broker) as stage,
        working(broker, saying(at_third), retry=once),
        coordinating(broker, stubborn),
    ):
        await stage.happen()
        end = await stage.end()
        tasks = await stage.tasks()
        await stage.check()

    assert (end["status"], end["output"]) == ("succeeded", 3)
    assert [task.id for task in tasks] == [f"{end['run']}:say:0:{n}" for n in (1, 2, 3)]


async def test_a_result_that_comes_after_its_time_is_not_applied(broker: Broker) -> None:
    """The ledger says that the time was over; the next attempt decides, and both are recorded."""
    go = threading.Event()

    def slow_at_first(data: Any, context: Context) -> str:
        if context.envelope.attempt == 1:
            go.wait(20)
        return f"attempt {context.envelope.attempt}"

    hasty = blueprint({"say": {"timeout": 0.2, "retry": {"attempts": 2, "delay": 0.0}}})
    async with (
        scene(broker) as stage,
        working(broker, saying(slow_at_first)),
        coordinating(broker, hasty),
    ):
        await stage.happen()
        end = await stage.end()
        go.set()

        async def both_answered() -> bool:
            return len(await stage.messages(str(COORDINATOR))) == 2

        await until(both_answered)
        ((timeout, message),) = await stage.messages(RUN_TIMEOUT)
        await stage.check()

    assert (end["status"], end["output"]) == ("succeeded", "attempt 2")
    assert (timeout.by, timeout.kind) == (str(COORDINATOR), Kind.CONTROL)
    assert (message.runid, message.stepid, message.attempt, message.subject) == (
        end["run"],
        "say",
        1,
        "0",
    )


async def test_a_run_fails_when_its_last_attempt_takes_too_long(broker: Broker) -> None:
    """The reason says how long was waited."""
    hasty = blueprint({"say": {"timeout": 0.1}})
    async with scene(broker) as stage, coordinating(broker, hasty):
        await stage.happen()
        end = await stage.end()

    assert (end["status"], end["error"]) == ("failed", "say[0]: no result within 0.1 s")


async def test_a_run_is_cancelled_on_command(broker: Broker) -> None:
    """Whoever commands it may say why."""
    async with scene(broker) as stage, coordinating(broker, DIAMOND):
        await stage.happen({"name": "Ada"})
        await until(lambda: _begun(stage, "story"))
        (task, *_) = await stage.tasks()
        await stage.command(RUN_CANCEL, {"run": task.runid, "reason": "not needed"})
        end = await stage.end()

    assert (end["status"], end["error"]) == ("cancelled", "not needed")


async def _begun(stage: Scene, story: str) -> bool:
    return bool(await stage.tasks(story))


async def test_a_task_that_policy_denies_fails_the_run(broker: Broker) -> None:
    """Another attempt would meet the same policy, so there is none; the reason is in the end."""
    forbid = '@id("no-work") forbid (principal, action in Action::"task", resource);'
    stubborn = blueprint({"say": {"retry": {"attempts": 5, "delay": 0.0}}})
    async with scene(broker, PERMIT_ALL + forbid) as stage, coordinating(broker, stubborn):
        await stage.happen()
        end = await stage.end()
        tasks = await stage.messages(CAPABILITY)

    assert (end["status"], end["error"]) == ("failed", "say[0]: refused: forbidden")
    assert [record.why.policies for record, _ in tasks] == [("no-work",)]


async def test_a_new_version_is_for_new_runs_and_going_back_is_a_new_version(
    broker: Broker,
) -> None:
    """A run keeps the version it began with; A, B and A again are registered three times."""
    go = threading.Event()

    def say(data: dict[str, str], context: Context) -> str:
        if context.envelope.correlationid == "old":
            go.wait(20)
        return data["say"]

    steps: dict[str, dict[str, Any]] = {
        "one": {"with": {"say": "A1"}},
        "two": {"needs": ["one"], "with": {"say": "A"}},
    }
    first = blueprint(steps)
    second = blueprint({"one": {"with": {"say": "B"}}}, version=2)
    async with scene(broker) as stage, working(broker, saying(say)):
        async with coordinating(broker, first):
            await stage.happen(story="old")
            await until(lambda: _begun(stage, "old"))
        async with coordinating(broker, second):
            await stage.happen(story="new")
            new = await stage.end("new")
            go.set()
            old = await stage.end("old")
        async with coordinating(broker, first):
            await stage.happen(story="back")
            back = await stage.end("back")
        async with coordinating(broker, first):
            pass
        registrations = await stage.messages(BLUEPRINT_REGISTER)
        await stage.check()

    assert [old["output"], new["output"], back["output"]] == ["A", "B", "A"]
    assert [r.verdict for r, _ in registrations] == [Verdict.ALLOW] * 3
