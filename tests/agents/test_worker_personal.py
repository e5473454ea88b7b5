"""A worker with personal data: real broker, real gateway, real vault."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support import AGENT, OPERATOR, PUBLISHER, Broker, until
from support.broker import CAPABILITY, TOPIC
from tidegate_agents import Agent, Context
from tidegate_agents.worker import _caused_by  # pyright: ignore[reportPrivateUsage]
from tidegate_bus.keys import Keys
from tidegate_bus.ledger import LedgerReader
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.manifest import Retry
from tidegate_schemas.subjects import Kind
from tidegate_schemas.vocabulary import DEADLETTER, RESULT

from .test_worker import Office, working

CARD = "4111-2222"
ABOUT: dict[str, Any] = {"dataclassification": "personal", "datasubject": "customer-42"}


@pytest.fixture
async def office(broker: Broker) -> Office:
    """Somebody who asks, and reads what the ledger says."""
    reader = LedgerReader(await broker.connect(OPERATOR))
    return Office(broker, reader, await broker.publisher())


async def erase(broker: Broker) -> None:
    """Destroy the key of the customer."""
    pseudonym = await Keys(await broker.connect(OPERATOR)).find("customer-42", timeout=5)
    order = Envelope.new(
        "privacy.erase", {"subject": pseudonym}, kind="control", to="privacy.erase"
    )
    await (await broker.publisher(OPERATOR)).publish(order)


def no_file_has(folder: Path, text: str) -> bool:
    """Whether a text is in no file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return not any(text.encode() in path.read_bytes() for path in files)


async def test_results_and_events_of_a_handler_are_about_the_same_people(
    broker: Broker, office: Office
) -> None:
    """The handler works with the plaintext, and need not think of it."""
    agent, seen = Agent(), list[Any]()

    @agent.task(CAPABILITY)
    async def work(data: dict[str, str], context: Context) -> dict[str, str]:
        seen.append((data, context.envelope.datasubject))
        await context.publish(Envelope.new(TOPIC, data))
        return data

    async with broker.gateway(), working(broker, agent):
        await office.ask({"card": CARD}, **ABOUT)
        (answer,) = await office.answers()
        events = [r.message() for r in await broker.records() if r.kind is Kind.EVENT]
    ((data, subject),) = seen
    assert data == {"card": CARD}
    assert "customer" not in subject
    (event,) = events
    assert event
    for message in (answer, event):
        assert (message.dataenc, message.dataclassification) == ("v1", "personal")
        assert (message.datasubject or "").partition(".")[0] == subject.partition(".")[0]
    assert no_file_has(broker.folder, CARD)


async def test_a_dead_letter_may_quote_the_data_and_the_log_does_not(
    broker: Broker, office: Office
) -> None:
    """The text of an error is data; a log is for ever."""
    agent = Agent()

    @agent.task(CAPABILITY)
    def work(data: dict[str, str]) -> None:
        raise ValueError(f"no good: {data['card']}")

    with capture_logs() as logs:
        async with broker.gateway():
            retry = Retry(attempts=2, delay=0.02, max_delay=0.1)
            async with working(broker, agent, retry=retry):
                await office.ask({"card": CARD}, **ABOUT)
                (letter,) = await office.answers()
    assert (letter.type, letter.dataenc) == (DEADLETTER, "v1")
    assert CARD not in str(logs)
    assert [log["error"] for log in logs if log["event"] == "dead letter"] == ["ValueError"]
    assert no_file_has(broker.folder, CARD)


async def test_what_was_erased_before_it_is_handled_is_a_dead_letter_that_says_so(
    broker: Broker, office: Office
) -> None:
    """No handler is run; the letter holds nothing personal, so everybody may read it."""
    agent, ran = Agent(), list[Any]()

    @agent.task(CAPABILITY)
    def work(data: dict[str, str]) -> None:
        ran.append(data)

    async with broker.gateway():
        await office.ask({"card": CARD}, **ABOUT)
        await erase(broker)
        async with working(broker, agent):
            (letter,) = await office.answers()
    assert ran == []
    assert (letter.type, letter.dataclassification) == (DEADLETTER, None)
    assert letter.payload()["error"].startswith("Unopened: erased")


async def test_what_is_erased_while_it_is_handled_has_no_result(
    broker: Broker, office: Office
) -> None:
    """What the handler gave back is nowhere; the dead letter says why."""
    agent, begun, go = Agent(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @agent.task(CAPABILITY)
    def work(data: dict[str, str]) -> dict[str, str]:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        return data

    async with broker.gateway(), working(broker, agent):
        await office.ask({"card": CARD}, **ABOUT)
        await begun.wait()
        await erase(broker)
        go.set()
        (letter,) = await office.answers()
    assert (letter.type, letter.dataclassification) == (DEADLETTER, None)
    assert CARD not in str(letter.payload())
    assert no_file_has(broker.folder, CARD)


async def test_without_a_gateway_a_delivery_waits_for_its_key(
    broker: Broker, office: Office
) -> None:
    """And is handled once there is one again."""
    agent = Agent()

    @agent.task(CAPABILITY)
    def work(data: dict[str, str]) -> int:
        return len(data["card"])

    async with broker.gateway():
        await office.ask({"card": CARD}, **ABOUT)
    async with working(broker, agent):
        consumer = await broker.connect(AGENT)
        assert not consumer.nats.is_closed

        async def taken() -> bool:
            return int((await office.consumer())["num_ack_pending"]) == 1

        await until(taken)
        async with broker.gateway():
            (answer,) = await office.answers(seconds=40)
    assert answer.type == RESULT


async def test_personal_data_cannot_be_sent_without_a_gateway(broker: Broker) -> None:
    """There is nobody to give a key; nothing was sent, and not in clear text either."""
    publisher = await broker.publisher(PUBLISHER)
    with pytest.raises(Exception, match="no answer"):
        await publisher.publish(Envelope.new("t", {"card": CARD}, **ABOUT), timeout=0.5)
    assert await broker.length(subjects.ingress_stream(0)) == 0


def test_an_author_may_say_that_it_is_not_personal_any_more() -> None:
    """What is said because of personal data is personal, unless it says what else it is."""
    named = "0" * 32 + ".2026-01"
    cause = Envelope.new("t", {"n": 1}, dataclassification="personal", datasubject=named)
    cases: list[tuple[dict[str, Any], tuple[str, str | None]]] = [
        ({}, ("personal", cause.datasubject)),
        ({"dataclassification": "internal"}, ("internal", None)),
        ({**ABOUT, "datasubject": "other"}, ("personal", "other")),
    ]
    for given, found in cases:
        caused = _caused_by(cause, Envelope.new("u", 1, **given))
        assert (caused.dataclassification, caused.datasubject) == found
    plain = _caused_by(Envelope.new("t", 1), Envelope.new("u", 1))
    assert (plain.dataclassification, plain.datasubject) == (None, None)
