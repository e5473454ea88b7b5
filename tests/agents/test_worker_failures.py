"""What a worker cannot do ends in a dead letter that says why, or stays; it is never lost."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from support import AGENT, PUBLISHER, Broker, until
from support.broker import CAPABILITY, PERMIT_ALL, TOPIC
from tidegate_agents import Agent, Context
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_bus.publisher import Publisher
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import NoReceipt, Permanent
from tidegate_schemas.manifest import Retry
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import DEADLETTER, RESULT

from .test_worker import Office, office, working

NO_RESULTS = (
    PERMIT_ALL
    + """
@id("no-results") forbid (principal, action in Action::"result", resource)
when { context.type == "tidegate.result" };
"""
)
NO_ANSWERS = (
    PERMIT_ALL + '@id("no-answers") forbid (principal, action in Action::"result", resource);'
)


class Strict(msgspec.Struct):
    """Data that must fit."""

    number: int


def _agent(function: Callable[..., Any]) -> Agent:
    agent = Agent()
    agent.task(CAPABILITY)(function)
    return agent


async def test_a_failed_attempt_is_repeated_after_a_pause_until_it_succeeds(
    broker: Broker,
) -> None:
    """The handler learns that it is called again; nothing of the failures is published."""
    calls: list[tuple[int, float]] = []

    async def flaky(data: Any, context: Context) -> str:
        calls.append((context.delivered, asyncio.get_running_loop().time()))
        if len(calls) < 3:
            raise ValueError("not yet")
        return "at last"

    retry = Retry(attempts=3, delay=0.2, max_delay=0.2)
    async with office(broker) as desk, working(broker, _agent(flaky), retry=retry):
        await desk.ask()
        (answer,) = await desk.answers()
        await desk.settled()

    assert (answer.type, answer.payload()) == (RESULT, "at last")
    assert [delivered for delivered, _ in calls] == [1, 2, 3]
    pauses = [late - early for (_, early), (_, late) in pairwise(calls)]
    assert all(pause >= 0.1 for pause in pauses)  # the jitter takes off up to half


async def test_after_its_attempts_a_message_is_a_dead_letter_with_its_whole_history(
    broker: Broker,
) -> None:
    """Two workers share the work, yet the attempts are counted and remembered in one place."""
    calls = 0

    async def fails(data: Any) -> None:
        nonlocal calls
        calls += 1
        raise ValueError(f"failure {calls}")

    async with (
        office(broker) as desk,
        working(broker, _agent(fails)),
        working(broker, _agent(fails)),
    ):
        task = await desk.ask(correlationid="story", runid="r", stepid="s", attempt=1)
        (letter,) = await desk.answers()
        await desk.settled()
        ((record, _),) = await desk.results()

    data = letter.payload()
    history = data.pop("history")
    assert calls == 3
    assert (letter.type, record.to) == (DEADLETTER, str(PUBLISHER))
    assert (letter.correlationid, letter.causationid) == ("story", task.id)
    assert (letter.runid, letter.stepid, letter.attempt) == ("r", "s", 1)
    assert data == {
        "error": "ValueError: failure 3",
        "agent": str(AGENT),
        "version": "1",
        "record": 1,
        "attempts": 3,
    }
    assert [entry["attempt"] for entry in history] == [1, 2, 3]
    assert [entry["error"] for entry in history] == [f"ValueError: failure {n}" for n in (1, 2, 3)]
    times = [parse_rfc3339(entry["time"]) for entry in history]
    assert times == sorted(times)


def _gives_up(data: Any) -> None:
    raise Permanent("no use")


def _exits(data: Any) -> None:
    sys.exit("enough")


def _exhausts(data: Any) -> Any:
    return next(iter(()))


def _odd_text(data: Any) -> None:
    raise ValueError("a file named \udcff\x1b[31m")


async def _cancelled(data: Any) -> None:
    raise asyncio.CancelledError


async def _returns_a_set(data: Any) -> Any:
    return {1, 2}


async def _returns_itself(data: Any) -> Any:
    return _returns_itself


async def _returns_much(data: Any) -> str:
    return "x" * 300_000


async def _returns_more_than_the_broker_takes(data: Any) -> str:
    return "x" * 1_100_000


async def _denied(data: Any, context: Context) -> None:
    await context.publish(Envelope.new("secret"))


async def _strict(data: Strict) -> None:
    pytest.fail("called with data that does not fit")


@pytest.mark.parametrize(
    ("function", "attempts", "error"),
    [
        (_gives_up, 1, "Permanent: no use"),
        (_strict, 1, "InvalidEnvelope: data: Expected `object`, got `str`"),
        (_returns_a_set, 1, "InvalidInput: the result is no JSON: a set has no JSON form"),
        (_returns_itself, 1, "InvalidInput: the result is no JSON: "),
        (_returns_much, 1, "Rejected: oversized: "),
        (_returns_more_than_the_broker_takes, 1, "InvalidInput: 1100"),
        (_denied, 1, "Denied: forbidden"),
        (_exits, 3, "RuntimeError: the handler raised SystemExit: enough"),
        (_exhausts, 3, "RuntimeError: the handler raised StopIteration"),
        (_cancelled, 3, "RuntimeError: the handler raised CancelledError"),
        (_odd_text, 3, r"ValueError: a file named \xdcff\x1b[31m"),
    ],
)
async def test_what_fails_is_given_up_at_once_where_no_repetition_helps(
    broker: Broker, function: Callable[..., Any], attempts: int, error: str
) -> None:
    """Faults of data, result or policy are not repeated, others are; the worker goes on."""
    agent = _agent(function)
    agent.event(TOPIC)(_note)
    async with (
        office(broker, topics=(TOPIC,)) as desk,
        working(broker, agent, subscribes=(TOPIC,)),
    ):
        await desk.ask("text")
        (letter,) = await desk.answers()
        _noted.clear()
        await desk.tell()
        await until(_noted.is_set)
        await desk.settled()

    data = letter.payload()
    assert letter.type == DEADLETTER
    assert data["error"].startswith(error)
    assert data["attempts"] == len(data["history"]) == attempts


_noted = threading.Event()


async def _note(data: Any) -> None:
    _noted.set()


async def test_events_of_the_same_id_have_a_dead_letter_each(broker: Broker) -> None:
    """Which names the source too: several systems may send through one principal."""
    agent = Agent()
    agent.event(TOPIC)(_gives_up)
    async with (
        office(broker, capabilities=(), topics=(TOPIC,)) as desk,
        working(broker, agent, capabilities=(), subscribes=(TOPIC,)),
    ):
        for source in ("/one", "/two"):
            await desk.tell("text", id="1", source=source)
        letters = await desk.answers(2)

    assert [(m.causationid, m.causationsource) for m in letters] == [("1", "/one"), ("1", "/two")]


async def test_a_result_that_policy_denies_is_a_dead_letter(broker: Broker) -> None:
    """Whoever asked hears that there is a result that must not be told."""
    async with office(broker, NO_RESULTS) as desk, working(broker, _agent(_fine)):
        await desk.ask()
        (letter,) = await desk.answers()
        results = await desk.results()

    assert letter.type == DEADLETTER
    assert letter.payload()["error"].startswith("Denied: forbidden")
    assert [record.verdict for record, _ in results] == [Verdict.DENY, Verdict.ALLOW]


async def _fine(data: Any) -> str:
    return "fine"


async def test_where_policy_denies_even_the_dead_letter_the_message_is_kept(
    broker: Broker,
) -> None:
    """The worker says so as an error, holds the message, and does not run the handler again."""
    calls = 0

    async def work(data: Any) -> None:
        nonlocal calls
        calls += 1

    with capture_logs() as logs:
        async with office(broker, NO_ANSWERS, lease=1.0) as desk:
            async with working(broker, _agent(work)):
                await desk.ask()
                await until(lambda: any("message kept" in entry["event"] for entry in logs))
            info = await desk.consumer()

    assert calls == 1
    assert [e["log_level"] for e in logs if "message kept" in e["event"]] == ["error"]
    assert info["num_ack_pending"] == 1  # drained: it was given back, not settled


async def test_a_dead_letter_that_is_too_large_is_shortened(broker: Broker) -> None:
    """Many attempts with long errors do not keep a message from being given up."""

    async def fails(data: Any) -> None:
        raise ValueError("long " * 200)

    retry = Retry(attempts=4, delay=0.0, max_delay=0.0)
    async with (
        office(broker, envelope_bytes=2048) as desk,
        working(broker, _agent(fails), retry=retry),
    ):
        await desk.ask()
        (letter,) = await desk.answers()

    data = letter.payload()
    assert (data["attempts"], data["history"]) == (4, [])
    assert data["error"].startswith("ValueError: long long")


async def test_a_message_that_kills_its_workers_is_given_up(broker: Broker) -> None:
    """After so many deliveries without an answer the handler is not called any more."""
    await broker.converge(Subscription(AGENT, (CAPABILITY,), (), 30.0))
    seen: list[int] = []
    giving_back: set[asyncio.Task[None]] = set()

    def give_back(delivery: Delivery) -> None:
        seen.append(delivery.delivered)
        giving_back.add(asyncio.create_task(delivery.postpone(0)))
        inbox.want(1)

    async with office(broker, lease=30.0) as desk:
        inbox = Inbox(await broker.connect(AGENT), give_back)
        await inbox.start()
        inbox.want(1)
        await desk.ask()
        await until(lambda: len(seen) >= 13)
        await inbox.drain()
        async with working(broker, _agent(_strict)):
            (letter,) = await desk.answers()

    assert "without an answer" in letter.payload()["error"]


async def test_a_message_for_a_handler_that_is_gone_is_given_up(broker: Broker) -> None:
    """What was admitted for an earlier version of the agent does not go round for ever."""
    async with office(broker, capabilities=(CAPABILITY,), topics=(TOPIC,)) as desk:
        await desk.tell()
        async with working(broker, _agent(_fine)):
            (letter,) = await desk.answers()

    assert letter.payload()["error"] == (
        f"Permanent: this version has no handler for event {TOPIC}"
    )


async def test_a_gateway_that_is_away_costs_no_second_run(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker holds on to a result until the ledger has it."""
    calls = 0
    publish = Publisher.publish

    async def work(data: Any) -> int:
        nonlocal calls
        calls += 1
        return calls

    heard: list[str] = []

    async def nothing_heard(self: Publisher, envelope: Envelope, **_: Any) -> Receipt:
        if envelope.type == RESULT:
            heard.append(envelope.id)
        if len(heard) == 1:
            raise NoReceipt(envelope.id, 0.0, "receipt")
        return await publish(self, envelope)

    monkeypatch.setattr(Publisher, "publish", nothing_heard)
    async with office(broker) as desk, working(broker, _agent(work)):
        await desk.ask()
        (answer,) = await desk.answers()

    assert answer.payload() == 1
    assert heard == [answer.id] * 2
    assert calls == 1


async def test_many_failing_messages_do_not_occupy_the_hands(broker: Broker) -> None:
    """While some wait for their next attempt, others are handled."""

    async def work(data: str) -> str:
        if data == "bad":
            raise ValueError
        return data

    retry = Retry(attempts=2, delay=60.0, max_delay=60.0)
    async with (
        office(broker, lease=1.0) as desk,
        working(broker, _agent(work), concurrency=2, retry=retry, lease=1.0),
    ):
        for _ in range(5):
            await desk.ask("bad")
        await desk.ask("good")
        (answer,) = await desk.answers()
        info = await _in_work(desk, 5)

    assert answer.payload() == "good"
    assert info["num_redelivered"] == 0


async def _in_work(desk: Office, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def so_many() -> bool:
        found.update(await desk.consumer())
        return bool(found["num_ack_pending"] == count)

    await until(so_many)
    return found
