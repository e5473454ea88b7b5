"""Submissions in order: none is missed and none comes twice, whatever happens to the broker."""

from __future__ import annotations

import asyncio
import time

import pytest

from support import ADMIN, AGENT, INTRUDER, PUBLISHER, Broker, until
from tidegate_bus import ingress as module
from tidegate_bus.ingress import PulledIngress, Submission
from tidegate_bus.message import Message
from tidegate_schemas.errors import LedgerGap, Unavailable
from tidegate_schemas.subjects import Principal, submission
from tidegate_schemas.vocabulary import GATEWAY

INGRESS = "INGRESS_0"


async def open_(broker: Broker, after: int = 0) -> PulledIngress:
    """A reader of what follows a sequence."""
    return await PulledIngress.open(await broker.connect(GATEWAY), after=after)


async def submit(broker: Broker, *numbers: int, who: Principal = AGENT) -> None:
    """Store a submission for each number; returns when the broker has acknowledged them."""
    sender = await broker.connect(who)
    await asyncio.gather(*(sender.api(submission(who), number) for number in numbers))
    await sender.close()


async def take(reader: PulledIngress, count: int, limit: int = 100) -> list[Submission]:
    """That many submissions."""
    found: list[Submission] = []
    async with asyncio.timeout(20.0):
        while len(found) < count:
            found += await reader.next(min(limit, count - len(found)))
    return found


def numbers(submissions: list[Submission]) -> list[int]:
    """What was submitted."""
    return [int(submission.payload) for submission in submissions]


async def test_submissions_come_in_the_order_in_which_they_were_stored(broker: Broker) -> None:
    """With sequence, sender, payload and the time of the broker."""
    before = time.time_ns()
    reader = await open_(broker)
    await submit(broker, 1, 2, who=AGENT)
    await submit(broker, 3, who=PUBLISHER)
    found = await take(reader, 3)
    await reader.close()

    assert [(s.seq, s.by, s.payload) for s in found] == [
        (1, "team.agent", b"1"),
        (2, "team.agent", b"2"),
        (3, "outside.source", b"3"),
    ]
    assert before < found[0].time <= found[1].time <= found[2].time < time.time_ns()


async def test_names_are_passed_on_as_they_are(broker: Broker) -> None:
    """Whether a sender is known, or can be, is for the gateway to say."""
    intruder = await broker.connect(INTRUDER)
    await intruder.publish("in.Über.>x", b"1")
    await intruder.publish("in.*.b", b"2")
    reader = await open_(broker)

    assert [s.by for s in await take(reader, 2)] == ["Über.>x", "*.b"]
    await reader.close()


async def test_next_gives_at_least_one_and_at_most_the_limit(broker: Broker) -> None:
    """A batch is what is there."""
    await submit(broker, *range(10))
    reader = await open_(broker)
    await take(reader, 1)
    sizes: list[int] = []
    while sum(sizes) < 9:
        sizes.append(len(await reader.next(4)))
    await reader.close()

    assert max(sizes) <= 4
    assert min(sizes) >= 1


async def test_reading_starts_after_a_sequence(broker: Broker) -> None:
    """After the last one it waits for the next."""
    await submit(broker, 1, 2, 3)
    reader = await open_(broker, after=2)
    assert numbers(await take(reader, 1)) == [3]
    await reader.close()

    reader = await open_(broker, after=3)
    waiting = asyncio.create_task(take(reader, 1))
    await submit(broker, 4)
    assert numbers(await waiting) == [4]
    await reader.close()


async def test_nothing_is_missed_or_repeated_over_kills_of_the_broker(broker: Broker) -> None:
    """Three times kill -9 and a start on the same port while submissions are being read."""
    reader = await open_(broker)
    reading = asyncio.create_task(take(reader, 400))
    for begin in range(0, 400, 100):
        await submit(broker, *range(begin, begin + 100))
        if begin < 300:
            await broker.kill()
            await broker.restart()
    found = await reading
    await reader.close()

    assert numbers(found) == list(range(400))
    assert [submission.seq for submission in found] == list(range(1, 401))


async def test_nothing_is_missed_or_repeated_over_reconnects(broker: Broker) -> None:
    """The consumer lives on there, and what was sent into the lost connection is lost."""
    connection = await broker.connect(GATEWAY)
    reader = await PulledIngress.open(connection, after=0)
    reading = asyncio.create_task(take(reader, 3000))
    for begin in range(0, 3000, 300):
        await submit(broker, *range(begin, begin + 300))
        await connection.nats.force_reconnect()
    found = await reading
    await reader.close()

    assert numbers(found) == list(range(3000))


async def consumers(broker: Broker) -> list[str]:
    """Names of the consumers of the ingress."""
    admin = await broker.connect(ADMIN)
    names: list[str] = (await admin.api(f"$JS.API.CONSUMER.NAMES.{INGRESS}"))["consumers"] or []
    return names


async def test_nothing_is_missed_or_repeated_when_its_consumer_is_deleted(broker: Broker) -> None:
    """Another one begins at the own position."""
    admin = await broker.connect(ADMIN)
    reader = await open_(broker)
    for begin in range(0, 300, 100):
        await submit(broker, *range(begin, begin + 50))
        assert numbers(await take(reader, 50)) == list(range(begin, begin + 50))
        (name,) = await consumers(broker)
        await admin.api(f"$JS.API.CONSUMER.DELETE.{INGRESS}.{name}")
        await submit(broker, *range(begin + 50, begin + 100))
        assert numbers(await take(reader, 50)) == list(range(begin + 50, begin + 100))
    await reader.close()


async def test_what_was_lost_on_the_way_is_fetched_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery that does not arrive is no gap: the stream still has it."""
    receive = PulledIngress._receive  # pyright: ignore[reportPrivateUsage]
    lost: list[Message] = []

    def drop_some(self: PulledIngress, message: Message) -> None:
        if message.data in (b"7", b"20") and message.data not in [one.data for one in lost]:
            lost.append(message)
        else:
            receive(self, message)

    monkeypatch.setattr(PulledIngress, "_receive", drop_some)
    reader = await open_(broker)
    await submit(broker, *range(50))

    assert numbers(await take(reader, 50)) == list(range(50))
    assert [message.data for message in lost] == [b"7", b"20"]
    await reader.close()


async def test_a_stream_that_ends_before_the_ledger_is_a_gap(broker: Broker) -> None:
    """It lost what is recorded: nobody knows what else."""
    await submit(broker, 1, 2)
    with pytest.raises(LedgerGap) as caught:
        await open_(broker, after=3)

    gap = caught.value
    assert (gap.stream, gap.expected, gap.found) == (INGRESS, 3, 2)


async def test_a_stream_that_begins_after_the_ledger_is_a_gap(broker: Broker) -> None:
    """It was trimmed of what has no record, and says so even when it is empty."""
    await submit(broker, 1, 2, 3)
    admin = await broker.connect(ADMIN)
    for keep, found in ((1, 3), (0, 4)):
        await admin.api(f"$JS.API.STREAM.PURGE.{INGRESS}", {"keep": keep} if keep else None)
        with pytest.raises(LedgerGap) as caught:
            await open_(broker, after=1)
        assert (caught.value.expected, caught.value.found) == (2, found)


async def test_a_submission_that_is_missing_in_the_middle_is_a_gap(broker: Broker) -> None:
    """What comes before it is read; then there is no going on, however often one asks."""
    await submit(broker, 1, 2, 3, 4)
    await broker.delete(INGRESS, 3)
    reader = await open_(broker)
    assert numbers(await take(reader, 2)) == [1, 2]
    for _ in range(2):
        with pytest.raises(LedgerGap) as caught:
            await reader.next(10)
        assert (caught.value.stream, caught.value.expected) == (INGRESS, 3)
    await reader.close()


async def test_trim_forgets_what_is_recorded_and_reading_goes_on(broker: Broker) -> None:
    """Up to and including a sequence, and no more."""
    reader = await open_(broker)
    await submit(broker, 1, 2, 3)
    await take(reader, 2)
    await reader.trim(2)
    assert await broker.stored(INGRESS) == [("in.team.agent", b"3")]

    await submit(broker, 4)
    assert numbers(await take(reader, 2)) == [3, 4]
    await reader.close()


async def test_it_reads_ahead_but_not_without_bound(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that is slower than its senders leaves the backlog at the broker."""
    monkeypatch.setattr(module, "_AHEAD", 100)
    monkeypatch.setattr(module, "_STEP", 20)
    reader = await open_(broker)
    waiting = reader._waiting  # pyright: ignore[reportPrivateUsage]
    await submit(broker, *range(1000))
    await until(lambda: len(waiting) == 100)
    await submit(broker, *range(1000, 1010))
    assert len(waiting) == 100

    assert numbers(await take(reader, 1010)) == list(range(1010))
    await reader.close()


async def test_large_submissions_are_read_ahead_by_their_bytes(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thousand of the largest would be more than a gateway has memory for."""
    monkeypatch.setattr(module, "_AHEAD_BYTES", 3_000_000)
    monkeypatch.setattr(module, "_REQUEST_BYTES", 2_000_000)
    reader = await open_(broker)
    sender = await broker.connect(AGENT)
    for _ in range(40):
        await sender.publish(submission(AGENT), bytes(500_000))
    await until(lambda: broker_gives_no_more(reader))
    waiting = len(reader._waiting)  # pyright: ignore[reportPrivateUsage]
    found = await take(reader, 40)
    await reader.close()

    assert 6 <= waiting <= 14
    assert [submission.seq for submission in found] == list(range(1, 41))


def broker_gives_no_more(reader: PulledIngress) -> bool:
    """Whether enough waits, and nothing is on request any more."""
    puller = reader._puller  # pyright: ignore[reportPrivateUsage]
    enough = reader._waiting_bytes >= 3_000_000  # pyright: ignore[reportPrivateUsage]
    return enough and puller is not None and puller.requested == 0


async def test_a_connection_that_is_closed_ends_the_reading(broker: Broker) -> None:
    """What was read already is given out first."""
    connection = await broker.connect(GATEWAY)
    reader = await PulledIngress.open(connection, after=0)
    await submit(broker, 1)
    await until(lambda: bool(reader._waiting))  # pyright: ignore[reportPrivateUsage]
    await connection.close()

    assert numbers(await take(reader, 1)) == [1]
    async with asyncio.timeout(10.0):
        with pytest.raises(Unavailable):
            await reader.next(1)
    await reader.close()
