"""One inbox for the questions of a connection."""

from __future__ import annotations

import asyncio

import pytest

from support import ADMIN, OPERATOR, Broker, nothing_left, until
from tidegate_bus import answers as module
from tidegate_bus.connection import Connection, connect
from tidegate_bus.ledger import LedgerReader


def listened(connection: Connection) -> list[str]:
    """What a connection listens to."""
    return [one.subject for one in connection.nats._subs.values()]  # pyright: ignore


async def test_questions_share_an_inbox(broker: Broker) -> None:
    """However many there are, also at once, the broker hears of one subscription."""
    connection = await broker.connect(OPERATOR)
    reader = LedgerReader(connection)
    await asyncio.gather(*(reader.last() for _ in range(20)))
    await reader.one(1)

    assert len(listened(connection)) == 1


@pytest.mark.parametrize("at_once", [1, 7])
async def test_another_inbox_takes_over(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Each question is answered, and of the inboxes before none is listened to any more."""
    monkeypatch.setattr(module, "_QUESTIONS", 3)
    connection = await broker.connect(OPERATOR)
    reader, seen = LedgerReader(connection), set[str]()
    for _ in range(20):
        assert await asyncio.gather(*(reader.one(1) for _ in range(at_once))) == [None] * at_once
        seen.update(listened(connection))

    assert len(seen) > 5
    await reader.one(1)
    assert len(listened(connection)) == 1


async def test_what_comes_too_late_is_for_nobody(broker: Broker) -> None:
    """An answer to a question that was given up disturbs no other."""
    connection = await broker.connect(ADMIN)
    heard: list[bytes] = []
    async with connection.answers.to(lambda message: heard.append(message.data)) as first:
        pass
    async with connection.answers.to(lambda message: heard.append(message.data)) as second:
        for subject, text in ((first, b"late"), (second, b"in time")):
            await connection.publish(subject, text)
        await until(lambda: heard == [b"in time"])


async def test_a_question_may_be_given_up(broker: Broker) -> None:
    """Nothing of it stays."""
    async with nothing_left():
        connection = await connect(broker.url, OPERATOR, broker.keyring.seed(OPERATOR))
        async with broker.paused():
            asking = asyncio.create_task(LedgerReader(connection).last())
            await until(lambda: bool(listened(connection)))
            asking.cancel()
            await asyncio.wait({asking})
        inbox = connection.answers._inbox  # pyright: ignore[reportPrivateUsage]
        assert inbox
        assert inbox.open == {}
        await connection.close()
