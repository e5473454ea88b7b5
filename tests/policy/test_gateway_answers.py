"""Who answers a task, before a real gateway: with another agent that wants to, and after a kill."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from policy.office import answering
from policy.rig import check, running, settled
from policy.test_gateway_crash import Gateways
from support import AGENT, CAPABILITY, OTHER, PUBLISHER, TOPIC, Broker, until
from support.broker import PERMIT_ALL, ROSTER
from tidegate.edge.follower import Follower
from tidegate_bus.publisher import Publisher
from tidegate_policy.asked import Asked
from tidegate_policy.bundle import Bundle
from tidegate_policy.replay import Conformance
from tidegate_policy.roster import Roster
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Denied
from tidegate_schemas.record import Reason, Record
from tidegate_schemas.subjects import Kind, Verdict

HOUR = 3600 * 10**9
NOT_OTHERS = f"not_asked: {CAPABILITY} is provided by {AGENT}, not by {OTHER}"


async def ask(broker: Broker, publisher: Publisher, **attributes: Any) -> Record:
    """A task for the agent, as its record."""
    task = Envelope.new(CAPABILITY, kind="task", to=CAPABILITY, **attributes)
    receipt = await publisher.publish(task, timeout=300)
    stored = await (await broker.reader()).one(receipt.seq)
    assert stored
    return stored.record()


async def differences(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What an auditor finds that keeps next to nothing at hand."""
    monkeypatch.setattr("tidegate_policy.state.Asked", partial(Asked, 1, 1))
    ledger = [payload for _, payload in await broker.stored(subjects.ledger_stream(0))]
    start = Bundle.of_files({"policy.cedar": PERMIT_ALL}).snapshot(Roster.of(ROSTER))
    auditor = Conformance((600.0, 100_000), lambda seq: ledger[seq - 1], start=start)
    return [found for seq, leaf in enumerate(ledger, 1) for found in auditor.add(seq, leaf)]


async def test_another_agent_does_not_answer_a_task(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though policy lets it send results and it knows the task: who waits hears the provider."""
    asker, provider = await broker.publisher(PUBLISHER), await broker.publisher(AGENT)
    other, follower = await broker.publisher(OTHER), Follower(await broker.reader())
    async with running(broker), follower.attend(10):
        with follower.result(PUBLISHER, "t") as answer:
            task = await ask(broker, asker, id="t")
            for more in ({}, {"answers": None}, {"type": "tidegate.deadletter"}):
                with pytest.raises(Denied, match=Reason.NOT_ASKED):
                    await other.publish(answering(task, data="stolen", **more))
            with pytest.raises(Denied, match=NOT_OTHERS):
                await other.publish(answering(task))
            await provider.publish(answering(task, data="mine"))
            heard = (await asyncio.wait_for(answer, 20)).stored.record()
    await follower.close()

    assert heard.by == str(AGENT)
    assert await differences(broker, monkeypatch) == []


async def test_what_became_of_an_event_is_no_answer_to_a_task_of_the_same_id(
    broker: Broker,
) -> None:
    """A subscriber may say that it could not handle an event, and whoever waits does not hear."""
    asker, provider = await broker.publisher(PUBLISHER), await broker.publisher(AGENT)
    other, follower = await broker.publisher(OTHER), Follower(await broker.reader())
    async with running(broker), follower.attend(10):
        with follower.result(PUBLISHER, "same") as answer:
            task = await ask(broker, asker, id="same")
            seq = (await asker.publish(Envelope.new(TOPIC, id="same", source="/s"))).seq
            stored = await (await broker.reader()).one(seq)
            assert stored
            await other.publish(answering(stored.record(), type="tidegate.deadletter"))
            with pytest.raises(Denied, match=Reason.NOT_ASKED):
                await other.publish(answering(stored.record(), causationsource=None))
            await provider.publish(answering(task))
            heard = (await asyncio.wait_for(answer, 20)).stored.record()
    await follower.close()

    assert heard.by == str(AGENT)


async def test_a_gateway_reads_what_it_does_not_know_any_more(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task from long before its start is answered by who was asked, and by nobody else."""
    asker, provider = await broker.publisher(PUBLISHER), await broker.publisher(AGENT)
    other, ahead = await broker.publisher(OTHER), 0
    async with running(broker):
        task = await ask(broker, asker)
        await asker.publish(Envelope.new("x.y"))
    ahead = 100 * HOUR
    async with running(broker, clock=lambda: time.time_ns() + ahead):
        with pytest.raises(Denied, match=NOT_OTHERS):
            await other.publish(answering(task))
        admitted = await provider.publish(answering(task))
        for seq in (2, 4_000):  # an event, and nothing yet
            with pytest.raises(Denied, match=Reason.NOT_ASKED):
                await provider.publish(answering(task, answers=str(seq)))

    assert admitted.verdict is Verdict.ALLOW
    await check(broker)
    assert await differences(broker, monkeypatch) == []


async def test_kills_change_nothing_about_who_answers(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway is killed while tasks, answers and forged ones come; all verdicts are right."""
    asker, provider = await broker.publisher(PUBLISHER), await broker.publisher(AGENT)
    other, gateways = await broker.publisher(OTHER), Gateways(broker)

    async def turn(number: int) -> None:
        task = await ask(broker, asker, id=f"t{number}")
        forged = other.publish(answering(task, id=f"f{number}"), timeout=300)
        right = provider.publish(answering(task, id=f"r{number}"), timeout=300)
        outcomes = await asyncio.gather(forged, right, return_exceptions=True)
        assert isinstance(outcomes[0], Denied)
        assert not isinstance(outcomes[1], BaseException)

    supervisor = asyncio.create_task(gateways.supervise())
    try:
        for kill in range(3):
            turns = asyncio.gather(*(turn(kill * 40 + number) for number in range(40)))
            await until(lambda kill=kill: gateways.begun > kill or supervisor.done(), seconds=60)
            gateways.kill()
            await turns
        await until(lambda: settled(broker))
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)

    results = [r for r in await check(broker) if r.kind is Kind.RESULT]
    decided = [(r.by, r.verdict) for r in results if r.verdict is not Verdict.DUPLICATE]
    assert (
        sorted(decided) == [(str(AGENT), Verdict.ALLOW)] * 120 + [(str(OTHER), Verdict.DENY)] * 120
    )
    assert await differences(broker, monkeypatch) == []
