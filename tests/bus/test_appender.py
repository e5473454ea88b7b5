"""Writing the ledger: in order, complete, and never past somebody else's record."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from support import ADMIN, LIMITS, Broker, running_broker, until
from tidegate_bus import appender as module
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.broker.accounts import MAX_PAYLOAD, REGISTRAR
from tidegate_bus.broker.topology import converge
from tidegate_bus.message import Message
from tidegate_schemas.errors import Fenced, InvalidInput, TidegateError, Unavailable
from tidegate_schemas.vocabulary import GATEWAY

SUBJECT = "ledger.0.allow.event.x"
LEDGER = "LEDGER_0"


@pytest.fixture
async def appender(broker: Broker) -> FastAppender:
    """An appender of an empty ledger."""
    return await open_(broker)


async def open_(broker: Broker, last: int = 0) -> FastAppender:
    """An appender of a ledger that ends at `last`."""
    return await FastAppender.open(await broker.connect(GATEWAY), last=last)


def records(*payloads: str) -> list[tuple[str, bytes]]:
    """Entries of an append."""
    return [(SUBJECT, payload.encode()) for payload in payloads]


async def foreign_write(broker: Broker, *payloads: str) -> None:
    """Somebody else writes to the ledger."""
    admin = await broker.connect(ADMIN)
    for payload in payloads:
        await admin.api(SUBJECT, payload)


async def payloads(broker: Broker) -> list[str]:
    """What the ledger holds."""
    return [payload.decode().strip('"') for _, payload in await broker.stored(LEDGER)]


async def failure(stored: asyncio.Future[int]) -> TidegateError:
    """The error of an append."""
    with pytest.raises(TidegateError) as caught:
        await stored
    return caught.value


async def test_records_are_stored_in_order_under_their_subjects(
    broker: Broker, appender: FastAppender
) -> None:
    """The future gives the sequence of the last one; bytes and subjects are as given."""
    given = [(f"{SUBJECT}.{number}", bytes([number, 0, 255])) for number in range(20)]
    assert await (await appender.append(given[:1])) == 1
    assert await (await appender.append(given[1:])) == 20

    assert await broker.stored(LEDGER) == given


async def test_appends_follow_each_other_without_being_waited_for(
    broker: Broker, appender: FastAppender
) -> None:
    """Whatever their sizes, they are stored in the order in which they were given."""
    names = [f"{batch}.{n}" for batch in range(40) for n in range(1 + batch % 7)]
    stored = [
        await appender.append(records(*(name for name in names if name.startswith(f"{batch}."))))
        for batch in range(40)
    ]

    assert await asyncio.gather(*stored) == sorted(future.result() for future in stored)
    assert await payloads(broker) == names


async def test_the_largest_batch_is_stored(broker: Broker, appender: FastAppender) -> None:
    """MAX_BATCH records go in one append, and again."""
    whole = records(*map(str, range(MAX_BATCH)))
    first, second = await appender.append(whole), await appender.append(whole)

    assert (await first, await second) == (MAX_BATCH, 2 * MAX_BATCH)
    assert await broker.length(LEDGER) == 2 * MAX_BATCH


async def test_large_records_are_sent_in_parts(
    broker: Broker, appender: FastAppender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is never sent more at once than it can keep for its disk."""
    monkeypatch.setattr(module, "_BATCH_BYTES", 2_000_000)
    whole = [(SUBJECT, bytes([number]) * 300_000) for number in range(40)]

    assert await (await appender.append(whole)) == 40
    assert await broker.stored(LEDGER) == whole


async def test_it_goes_on_where_the_ledger_ends(broker: Broker) -> None:
    """A second appender that knows the tail continues the first."""
    await (await (await open_(broker)).append(records("a", "b")))
    await (await (await open_(broker, last=2)).append(records("c")))

    assert await payloads(broker) == ["a", "b", "c"]


@pytest.mark.parametrize("last", [0, 1, 3], ids=["before", "just before", "beyond"])
async def test_a_wrong_idea_of_the_tail_is_fenced(broker: Broker, last: int) -> None:
    """Fenced names the expectation, and nothing of the batch is stored."""
    await foreign_write(broker, "a", "b")
    error = await failure(await (await open_(broker, last=last)).append(records("c", "d")))

    assert isinstance(error, Fenced)
    assert error.expected == last
    assert await payloads(broker) == ["a", "b"]


async def test_a_foreign_write_fences_the_next_append(
    broker: Broker, appender: FastAppender
) -> None:
    """One message in between is enough, and there is no way back for this appender."""
    await (await appender.append(records("a")))
    await foreign_write(broker, "foreign")

    assert isinstance(await failure(await appender.append(records("b"))), Fenced)
    assert isinstance(await failure(await appender.append(records("c"))), Fenced)
    assert await payloads(broker) == ["a", "foreign"]


@pytest.mark.parametrize("foreign", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 3)], ids=str)
async def test_after_a_fenced_append_nothing_is_stored(
    broker: Broker, sizes: tuple[int, ...], foreign: int
) -> None:
    """Not even where a foreign writer stored as many as the fenced appends were to store.

    The next append would fit there, over the gap that the fenced one leaves.
    """
    appender = await open_(broker)
    await (await appender.append(records("a")))
    written = [f"foreign {number}" for number in range(foreign)]
    await foreign_write(broker, *written)
    stored = [await appender.append(records(*"x" * size)) for size in sizes]

    errors = [await failure(future) for future in stored]
    assert [type(error) for error in errors] == [Fenced] * len(sizes)
    assert await payloads(broker) == ["a", *written]


async def test_of_two_appenders_at_once_one_stores_everything_and_one_nothing(
    broker: Broker,
) -> None:
    """Records of two writers never mix, and only what is stored is said to be stored."""
    rivals = {"a": await open_(broker), "b": await open_(broker)}
    appends = [
        (name, await rival.append(records(f"{name}{number}")))
        for number in range(20)
        for name, rival in rivals.items()
    ]
    await asyncio.gather(*(stored for _, stored in appends), return_exceptions=True)
    winners = {name for name, stored in appends if not stored.exception()}
    losers = {name for name, stored in appends if isinstance(stored.exception(), Fenced)}

    assert sorted((*winners, *losers)) == ["a", "b"]
    assert await payloads(broker) == [f"{winner}{n}" for winner in winners for n in range(20)]


async def test_a_broker_that_dies_leaves_the_append_unavailable(
    broker: Broker, appender: FastAppender
) -> None:
    """What became of it is unknown, so it and all that come later fail; nothing is sent late."""
    async with broker.paused():
        stored = await appender.append(records("a"))
        await broker.kill()
    later = await appender.append(records("b"))
    await broker.restart()

    assert isinstance(await failure(stored), Unavailable)
    assert isinstance(await failure(later), Unavailable)
    assert isinstance(await failure(await appender.append(records("c"))), Unavailable)
    fresh = await open_(broker, last=await broker.length(LEDGER))
    await (await fresh.append(records("d")))
    assert await payloads(broker) in (["d"], ["a", "d"])


async def test_a_broker_that_does_not_answer_is_unavailable(
    broker: Broker, appender: FastAppender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost answer is not waited for without end."""
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.05)
    async with broker.paused():
        error = await failure(await appender.append(records("a")))

    assert isinstance(error, Unavailable)
    assert "no answer" in str(error)


async def test_a_reconnect_in_between_does_no_harm(broker: Broker) -> None:
    """An appender that had nothing under way goes on after a restart of the broker."""
    connection = await broker.connect(GATEWAY)
    appender = await FastAppender.open(connection, last=0)
    back = asyncio.Event()
    connection.on_reconnect(back.set)
    await (await appender.append(records("a")))
    await broker.kill()
    await broker.restart()
    await back.wait()

    assert await (await appender.append(records("b"))) == 2


async def test_without_a_ledger_it_is_unavailable(tmp_path: Path) -> None:
    """The broker says that nobody takes the message."""
    async with running_broker(tmp_path, streams=False) as broker:
        error = await failure(await (await open_(broker)).append(records("a")))

    assert isinstance(error, Unavailable)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (10071, "wrong last sequence: 0"),
        (10208, "batch publish ID unknown"),
        (10077, "maximum messages exceeded"),
    ],
)
async def test_only_a_foreign_write_is_fenced(
    broker: Broker, appender: FastAppender, code: int, why: str
) -> None:
    """Not a broker on its way down, nor one that lost the beginning of a batch in a restart."""
    async with broker.paused():
        stored = await appender.append(records("a"))
        await until(lambda: sent(appender) is not None)
        answer = json.dumps({"error": {"err_code": code, "description": why}}).encode()
        subject = f"{appender._prefix}.{sent(appender)}.500.fail.1.2.$FI"  # pyright: ignore
        appender._receive(Message(subject, "", answer))  # pyright: ignore

    error = await failure(stored)
    assert isinstance(error, Unavailable)
    assert why in str(error)


def sent(appender: FastAppender) -> str | None:
    """The id of the batch that is under way."""
    batch = appender._sent  # pyright: ignore[reportPrivateUsage]
    return batch.id if batch else None


async def test_a_full_ledger_is_unavailable_and_keeps_what_it_has(tmp_path: Path) -> None:
    """The error says why; no old record makes room for a new one."""
    async with running_broker(tmp_path, streams=False) as broker:
        limits = replace(LIMITS, ledger_bytes=2_000)
        await converge(await broker.connect(REGISTRAR), limits)
        appender = await open_(broker)
        await (await appender.append(records("a" * 1_000)))
        error = await failure(await appender.append(records("b" * 1_000, "c")))

        assert isinstance(error, Unavailable)
        assert "maximum bytes exceeded" in str(error)
        assert await payloads(broker) == ["a" * 1_000]


async def test_a_record_that_is_too_large_fails_its_append(
    broker: Broker, appender: FastAppender
) -> None:
    """It is a fault of the caller, and said as such; nothing hangs."""
    error = await failure(await appender.append([(SUBJECT, bytes(MAX_PAYLOAD + 1))]))

    assert isinstance(error, InvalidInput)
    assert await broker.length(LEDGER) == 0


async def test_close_fails_what_is_under_way(broker: Broker, appender: FastAppender) -> None:
    """Nobody waits for ever for an appender that is closed, or may be closed twice."""
    async with broker.paused():
        stored = await appender.append(records("a"))
        await appender.close()
    await appender.close()

    assert isinstance(await failure(stored), Unavailable)
    assert isinstance(await failure(await appender.append(records("b"))), Unavailable)


async def test_an_append_that_nobody_waits_for_any_more_does_no_harm(
    broker: Broker, appender: FastAppender
) -> None:
    """A cancelled future does not keep the appender from going on."""
    (await appender.append(records("a"))).cancel()

    assert await (await appender.append(records("b"))) == 2
    assert await payloads(broker) == ["a", "b"]
