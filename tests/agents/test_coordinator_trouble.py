"""Whatever cannot be sent, and whenever the coordinator dies: each run ends, and ends once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from support import AGENT, Broker, until
from support.broker import CAPABILITY, PERMIT_ALL, TOPIC
from tidegate_agents import coordinator as module
from tidegate_agents.coordinator import Coordinator
from tidegate_bus.publisher import Publisher
from tidegate_bus.telemetry import Health
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Denied, NoReceipt, Unavailable, first_error
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import (
    BLUEPRINT_REGISTER,
    COORDINATOR,
    IDENTITY_REGISTER,
    RUN_CANCEL,
    RUN_FINISHED,
)

from .test_coordinator import DIAMOND, blueprint, coordinating, saying, scene
from .test_worker import working


def _nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("template", "data", "why"),
    [
        (["${ input }"] * 2, "x" * 150_000, "at most 262144 are taken"),
        (["${ input }"] * 8, "x" * 150_000, "the broker takes 1048576 at most"),
        ([[[["${ input }"]]]], _nested(97), "nested more than 100 deep"),
    ],
)
async def test_a_task_that_cannot_be_sent_ends_its_run(
    broker: Broker, template: Any, data: Any, why: str
) -> None:
    """No record says so by itself, so the coordinator cancels the run and gives the reason."""
    large = blueprint({"say": {"with": {"say": template}}})
    async with scene(broker) as stage, coordinating(broker, large):
        await stage.happen(data)
        end = await stage.end()
        ((cancel, _),) = await stage.messages(RUN_CANCEL)

    assert (cancel.by, cancel.verdict) == (str(COORDINATOR), Verdict.ALLOW)
    assert end["status"] == "cancelled"
    assert end["error"].startswith(f"{end['run']}:say:0:1: ")
    assert why in end["error"]


async def test_an_output_that_cannot_be_sent_is_left_out(broker: Broker) -> None:
    """The run has succeeded all the same; its end says why the output is not there."""
    twice = blueprint(
        {"say": {"with": {"say": "${ input }"}}},
        output="[steps.say.output, steps.say.output]",
    )
    async with scene(broker) as stage, working(broker, saying()), coordinating(broker, twice):
        await stage.happen("x" * 150_000)
        end = await stage.end()

    assert (end["status"], end["output"]) == ("succeeded", None)
    assert "at most 262144 are taken" in end["error"]


async def test_a_run_that_may_not_be_ended_ends_once_it_may(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What policy does not let the coordinator say is said again later."""
    monkeypatch.setattr(module, "_DENIED_SECONDS", 0.2)
    forbid = '@id("no-end") forbid (principal, action, resource == Topic::"run.finished");'
    short = blueprint({"say": {"when": "false"}})
    reader, publisher = await broker.reader(), await broker.publisher()
    found: list[Verdict] = []

    async def ended() -> bool:
        records = [stored.record() async for stored in reader.read()]
        found[:] = [record.verdict for record in records if record.to == RUN_FINISHED]
        return wanted in found

    wanted = Verdict.DENY
    async with (
        broker.gateway(PERMIT_ALL + forbid, dedupe_window=0.1),
        coordinating(broker, short),
    ):
        await publisher.publish(Envelope.new(TOPIC, correlationid="story"))
        await until(ended)
    wanted = Verdict.ALLOW
    async with broker.gateway(dedupe_window=0.1), coordinating(broker, short):
        await until(ended)

    assert found.count(Verdict.ALLOW) == 1


async def test_a_gateway_that_is_away_delays_a_run(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nothing was heard of is submitted again, and counts once."""
    publish = Publisher.publish
    unheard: set[str] = set()

    async def deaf_at_first(self: Publisher, envelope: Envelope, **_: Any) -> Receipt:
        receipt = await publish(self, envelope)
        if envelope.runid and envelope.kind != "result" and envelope.id not in unheard:
            unheard.add(envelope.id)
            raise NoReceipt(envelope.id, 0.0, "receipt")
        return receipt

    monkeypatch.setattr(Publisher, "publish", deaf_at_first)
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.01)
    async with scene(broker) as stage, working(broker, saying()), coordinating(broker, DIAMOND):
        await stage.happen({"name": "Ada"})
        end = await stage.end()
        await stage.check()

    assert end["status"] == "succeeded"
    assert len(unheard) == 4


async def test_a_coordinator_without_policy_stops_and_says_so(broker: Broker) -> None:
    """It cannot register its blueprints; the error names the command and the policy.

    Once policy is mended it is asked anew: a denial is not remembered against it.
    """
    forbid = '@id("no-books") forbid (principal, action in Action::"control", resource);'
    only = '@id("operators") permit (principal == Agent::"tidegate.operator", action, resource);'
    for policies, policy in ((PERMIT_ALL + forbid, ("no-books",)), (only, ())):
        async with broker.gateway(policies), coordinating(broker, DIAMOND) as task:
            async with asyncio.timeout(20):
                with pytest.raises(ExceptionGroup) as group:
                    await task
        error = first_error(group.value)
        assert isinstance(error, Denied)
        assert error.policies == policy
    assert "tidegate.coordinator this control to blueprint.register" in str(error)
    async with scene(broker) as stage, working(broker, saying()), coordinating(broker, DIAMOND):
        await stage.happen({"name": "Ada"})
        assert (await stage.end())["status"] == "succeeded"


async def test_a_coordinator_whose_connection_is_closed_for_good_stops(broker: Broker) -> None:
    """It says so instead of waiting for ever, so whoever supervises it starts it again."""
    connection = await broker.connect(COORDINATOR)
    coordinator = Coordinator(connection, [], Health())
    with capture_logs():
        async with broker.gateway():
            task = asyncio.create_task(coordinator.run())
            await coordinator.ready()
            await connection.close()
            async with asyncio.timeout(20):
                with pytest.raises(ExceptionGroup) as group:
                    await task

    assert isinstance(first_error(group.value), Unavailable)


class _Dying(Publisher):
    """Publishes so many envelopes; then the coordinator is as good as dead."""

    left = 0
    persisted = False
    dead: asyncio.Event

    async def publish(self, envelope: Envelope, **_: Any) -> Any:
        """See the class; `persisted` says whether the last one still arrives."""
        if type(self).left:
            type(self).left -= 1
            return await super().publish(envelope)
        if self.persisted:
            await super().publish(envelope, wait="accepted")
        self.dead.set()
        await asyncio.Event().wait()
        return None


@contextlib.asynccontextmanager
async def _until_death(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, *blueprints: Blueprint
) -> AsyncGenerator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(module, "Publisher", _Dying)
        coordinator = Coordinator(await broker.connect(COORDINATOR), blueprints, Health())
        task = asyncio.create_task(coordinator.run())
        yield
        async with asyncio.timeout(20):
            await _Dying.dead.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("persisted", [False, True], ids=["lost", "persisted"])
@pytest.mark.parametrize("published", range(5))
async def test_a_coordinator_that_dies_at_any_message_leaves_nothing_undone_or_doubled(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, published: int, persisted: bool
) -> None:
    """Registration, two tasks, the third, the end: each lost with it, or recorded unknown to it."""
    _Dying.left, _Dying.persisted, _Dying.dead = published, persisted, asyncio.Event()
    async with scene(broker) as stage, working(broker, saying()):
        async with _until_death(broker, monkeypatch, DIAMOND):
            if published:

                async def registered() -> bool:
                    return bool(await stage.messages(BLUEPRINT_REGISTER))

                await until(registered)
                await stage.happen({"name": "Ada"})
        async with coordinating(broker, DIAMOND):
            if not published:
                await stage.happen({"name": "Ada"})
            end = await stage.end()
        async with coordinating(broker, DIAMOND):  # once more: nothing is left to do
            pass
        tasks = await stage.tasks()
        ends = await stage.messages(RUN_FINISHED)
        await stage.check()

    assert end["output"] == "Ada left and Ada right"
    assert len({task.id for task in tasks}) == len(tasks) == 3
    assert [r.verdict for r, _ in ends].count(Verdict.ALLOW) == 1


async def test_what_happens_while_no_coordinator_runs_is_made_up_for(broker: Broker) -> None:
    """Events, results and times that were missed are read in the ledger."""
    short = blueprint({"say": {"with": {"say": "${ input }"}, "timeout": 30}})
    async with scene(broker) as stage:
        async with coordinating(broker, short):
            await stage.happen("asked before", "first")

            async def asked() -> bool:
                return bool(await stage.tasks("first"))

            await until(asked)
        await stage.happen("asked meanwhile", "second")
        async with working(broker, saying()):

            async def answered() -> bool:
                return bool(await stage.messages(str(COORDINATOR)))

            await until(answered)
            async with coordinating(broker, short):
                outputs = [(await stage.end(story))["output"] for story in ("first", "second")]
        await stage.check()

    assert outputs == ["asked before", "asked meanwhile"]


async def test_two_coordinators_do_the_work_of_one(broker: Broker) -> None:
    """Both submit the same ids, so each message is recorded once and the others are duplicates."""
    async with (
        scene(broker) as stage,
        working(broker, saying()),
        coordinating(broker, DIAMOND),
        coordinating(broker, DIAMOND),
    ):
        stories = [f"story-{number}" for number in range(5)]
        for story in stories:
            await stage.happen({"name": story}, story)
        ends = [await stage.end(story) for story in stories]
        await stage.check()

    assert {end["status"] for end in ends} == {"succeeded"}


async def test_what_is_said_by_others_than_the_provider_is_no_result(broker: Broker) -> None:
    """A result from somebody who was not asked is denied, and changes nothing."""
    async with scene(broker) as stage, coordinating(broker, DIAMOND):
        await stage.happen({"name": "Ada"})

        async def asked() -> bool:
            return len(await stage.tasks()) == 2

        await until(asked)
        (task, _) = await stage.tasks()
        seq = next(r.seq for r in await broker.records() if (m := r.message()) and m.id == task.id)
        forged = Envelope.new(
            "tidegate.result",
            "forged",
            kind="result",
            to=str(COORDINATOR),
            causationid=task.id,
            answers=str(seq),
            **{name: getattr(task, name) for name in ("runid", "stepid", "attempt", "subject")},
        )
        with pytest.raises(Denied, match=r"not_asked: work\.do is provided by team\.agent, not by"):
            await stage.operator.publish(forged)
        async with working(broker, saying()):
            end = await stage.end()

    assert end["output"] == "Ada left and Ada right"


async def test_a_late_registration_of_an_agent_is_in_time_for_later_runs(broker: Broker) -> None:
    """A task whose provider nobody has named yet gets no answer that counts; the next one does."""
    hasty = blueprint({"say": {"with": {"say": "x"}, "timeout": 0.3}})
    registration = Registration(str(AGENT), Role.AGENT, (CAPABILITY,), keys=("U",))
    source, reader = await broker.publisher(), await broker.reader()
    ends: list[str] = []

    async def ended(count: int) -> bool:
        records = [stored.record() async for stored in reader.read()]
        found = [record.message() for record in records if record.to == RUN_FINISHED]
        ends[:] = [message.payload()["status"] for message in found if message]
        return len(ends) == count

    async with broker.gateway(), working(broker, saying()), coordinating(broker, hasty):
        for count in (1, 2):
            await source.publish(Envelope.new(TOPIC))
            await until(partial(ended, count))
            await source.publish(
                Envelope.new(IDENTITY_REGISTER, registration, kind="control", to=IDENTITY_REGISTER)
            )

    assert ends == ["failed", "succeeded"]
