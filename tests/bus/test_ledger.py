"""Reading the ledger: complete, in order, from anywhere, and for as long as one likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support import ADMIN, LIMITS, OPERATOR, PUBLISHER, Broker, running_broker, until
from tidegate_bus import ledger as module
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.broker.topology import streams
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_schemas.errors import InvalidRecord, LedgerGap, Unavailable
from tidegate_schemas.record import Growth, encode_growth
from tidegate_schemas.vocabulary import GATEWAY

TASK, EVENT = "ledger.0.allow.task.work.do", "ledger.0.allow.event.thing"


@pytest.fixture
async def reader(broker: Broker) -> LedgerReader:
    """A reader of an empty ledger."""
    return await broker.reader()


async def append(broker: Broker, *payloads: str, subject: str = EVENT, hint: bool = True) -> None:
    """Write to the end of the ledger, as a gateway does."""
    gateway = await broker.connect(GATEWAY)
    appender = await FastAppender.open(gateway, last=await broker.length("LEDGER_0"))
    last = 0
    for begin in range(0, len(payloads), MAX_BATCH):
        part = payloads[begin : begin + MAX_BATCH]
        last = await (await appender.append([(subject, p.encode()) for p in part]))
    await appender.close()
    if hint:
        first = last - len(payloads) + 1
        await gateway.publish("tail.0", encode_growth(first, [subject] * len(payloads)))
        await gateway.nats.flush()  # so that it is over for readers that begin later


async def read(records: AsyncIterator[StoredRecord]) -> list[str]:
    """The payloads of all records."""
    return [stored.payload.decode() async for stored in records]


class Following:
    """A reader that follows the ledger in a task."""

    def __init__(self, reader: LedgerReader, **arguments: Any) -> None:
        self.got: list[str] = []
        self.caught_up: list[int] = []
        self.task = asyncio.create_task(self._follow(reader, **arguments))

    async def _follow(self, reader: LedgerReader, **arguments: Any) -> None:
        caught_up = lambda: self.caught_up.append(len(self.got))  # noqa: E731
        async for stored in reader.read(follow=True, caught_up=caught_up, **arguments):
            self.got.append(stored.payload.decode())

    async def __aenter__(self) -> Following:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_an_empty_ledger_has_neither_records_nor_a_last_one(reader: LedgerReader) -> None:
    """That is no error, wherever one begins."""
    assert await reader.last() is None
    assert await read(reader.read()) == []
    assert await read(reader.read(7)) == []
    assert await read(reader.read(since=0)) == []


async def test_a_ledger_of_more_than_one_batch_is_read_to_its_end(
    broker: Broker, reader: LedgerReader
) -> None:
    """Every record comes once, in order, with subject, bytes and the time of the broker."""
    names = [str(number) for number in range(1, 1301)]
    await append(broker, *names)
    found = [stored async for stored in reader.read()]

    assert [stored.payload.decode() for stored in found] == names
    assert [stored.seq for stored in found] == list(range(1, 1301))
    assert {stored.subject for stored in found} == {EVENT}
    assert all(one.stored <= two.stored for one, two in pairwise(found))
    assert await reader.last() == found[-1]


async def test_reading_begins_at_a_sequence(broker: Broker, reader: LedgerReader) -> None:
    """The first, one in the middle, the last, and one that is not there yet."""
    await append(broker, "1", "2", "3")

    assert await read(reader.read(1)) == ["1", "2", "3"]
    assert await read(reader.read(2)) == ["2", "3"]
    assert await read(reader.read(3)) == ["3"]
    assert await read(reader.read(4)) == []


async def test_reading_begins_at_a_time(broker: Broker, reader: LedgerReader) -> None:
    """At the first record that was stored then or later; nanoseconds count."""
    for name in ("1", "2", "3"):
        await append(broker, name)
    times = [stored.stored async for stored in reader.read()]

    assert await read(reader.read(since=0)) == ["1", "2", "3"]
    assert await read(reader.read(since=times[1])) == ["2", "3"]
    assert await read(reader.read(since=times[1] + 1)) == ["3"]
    assert await read(reader.read(since=times[2] + 10**9)) == []


async def test_a_filter_lets_only_its_records_through(broker: Broker, reader: LedgerReader) -> None:
    """An exact subject or wildcards; sequences in between may be left out."""
    await append(broker, "1", "3")
    await append(broker, "2", subject=TASK)
    await append(broker, *map(str, range(600)), subject=EVENT)
    await append(broker, "last", subject=TASK)

    assert await read(reader.read(filter=TASK)) == ["2", "last"]
    assert await read(reader.read(4, filter="ledger.0.*.task.>")) == ["last"]
    assert len(await read(reader.read(filter="ledger.0.allow.event.>"))) == 602
    assert await read(reader.read(since=0, filter="ledger.0.deny.>")) == []


async def test_following_waits_for_the_hint_of_the_gateway(
    broker: Broker, reader: LedgerReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New records arrive without polling: here the reader would look again in a minute only."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 60.0)
    await append(broker, "1", "2")
    async with Following(reader) as following:
        await until(lambda: following.caught_up == [2])
        await append(broker, "3")
        await until(lambda: following.caught_up[-1] == 3)
        await append(broker, "4", "5")
        await until(lambda: following.got == ["1", "2", "3", "4", "5"])


async def test_following_finds_records_whose_hint_was_lost(
    broker: Broker, reader: LedgerReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hints only save time."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.05)
    async with Following(reader) as following:
        await until(lambda: following.caught_up[:1] == [0])
        await append(broker, "1", hint=False)
        await until(lambda: following.got == ["1"])


@pytest.mark.parametrize("arguments", [{"start": 3}, {"since": 2**62}, {"filter": TASK}], ids=str)
async def test_following_may_begin_before_there_is_anything(
    broker: Broker, reader: LedgerReader, arguments: dict[str, Any]
) -> None:
    """Later than the end, in the future or under a subject without records: it waits."""
    async with Following(reader, **arguments) as following:
        await until(lambda: following.caught_up[:1] == [0])
        await append(broker, "1", "2")
        await append(broker, "3", subject=TASK)
        if "since" not in arguments:
            await until(lambda: following.got == ["3"])
        else:
            await until(lambda: len(following.caught_up) > 1)
            assert following.got == []


class Passing:
    """Passes over all but tasks, and notes of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Growth] = []

    def __call__(self, growth: Growth) -> bool:
        """Whether there is no task."""
        self.asked.append(growth)
        return growth.subjects is not None and TASK not in growth.subjects


async def test_what_is_of_no_interest_is_not_read(broker: Broker, reader: LedgerReader) -> None:
    """Where hints say so, one after the other; what is wanted comes after it all the same."""
    passes = Passing()
    await append(broker, "1")
    async with Following(reader, passes=passes) as following:
        await until(lambda: following.caught_up == [1])
        await append(broker, "2", "3")
        await append(broker, "4")
        await until(lambda: len(passes.asked) == 2)
        await append(broker, "5", subject=TASK)
        await until(lambda: following.caught_up == [1, 2])

        assert following.got == ["1", "5"]
        assert [(growth.first, growth.last) for growth in passes.asked] == [(2, 3), (4, 4), (5, 5)]


async def test_after_a_hint_that_was_lost_nothing_is_passed_over(
    broker: Broker, reader: LedgerReader
) -> None:
    """What it told of may be wanted."""
    async with Following(reader, passes=Passing()) as following:
        await until(lambda: following.caught_up == [0])
        await append(broker, "1", subject=TASK, hint=False)
        await append(broker, "2")
        await until(lambda: following.got[:1] == ["1"])


async def test_a_hint_of_what_is_known_says_nothing(broker: Broker, reader: LedgerReader) -> None:
    """Nor does one that cannot be read, or names no subjects, make anything be passed over."""
    passes = Passing()
    await append(broker, "1", "2")
    gateway = await broker.connect(GATEWAY)
    async with Following(reader, passes=passes) as following:
        await until(lambda: following.caught_up == [2])
        await gateway.publish("tail.0", encode_growth(1, [EVENT, EVENT]))
        await append(broker, "3", hint=False)
        await gateway.publish("tail.0", b"3")
        await until(lambda: following.got == ["1", "2", "3"])
        await until(lambda: following.caught_up[-1] == 3)
        await append(broker, "4", hint=False)
        await gateway.publish("tail.0", b'{"first":4,"last":4}')
        await until(lambda: following.got == ["1", "2", "3", "4"])

    assert [growth.subjects for growth in passes.asked] == [None]


async def test_following_goes_on_after_a_restart_of_the_broker(
    broker: Broker, reader: LedgerReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is missed and nothing comes twice."""
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.5)
    await append(broker, "1")
    async with Following(reader) as following:
        await until(lambda: following.got == ["1"])
        await broker.kill()
        await broker.restart()
        await append(broker, "2", "3")
        await until(lambda: following.got == ["1", "2", "3"])


async def test_whoever_may_not_read_is_told_so(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unavailable, with the name of the principal, after a few attempts; it does not hang."""
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)
    reader = LedgerReader(await broker.connect(PUBLISHER))
    for reading in (reader.last(), read(reader.read())):
        with pytest.raises(Unavailable, match=r"outside\.source"):
            await reading


async def test_a_connection_that_is_closed_ends_the_reading(broker: Broker) -> None:
    """Also a reader that follows: what is closed does not come back by waiting."""
    connection = await broker.connect(OPERATOR)
    reader = LedgerReader(connection)
    async with Following(reader) as following:
        await until(lambda: following.caught_up == [0])
        await connection.close()
        with pytest.raises(Unavailable):
            await following.task
    with pytest.raises(Unavailable):
        await reader.last()


async def test_a_missing_stream_is_not_asked_for_without_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker refuses at once there; a reader that follows must not spin."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.1)
    async with running_broker(tmp_path, streams=False) as broker:
        connection = await broker.connect(OPERATOR)
        asked: list[float] = []
        publish, clock = connection.publish, asyncio.get_running_loop().time

        async def noted(*arguments: Any, **options: Any) -> None:
            asked.append(clock())
            await publish(*arguments, **options)

        monkeypatch.setattr(connection, "publish", noted)
        async with Following(LedgerReader(connection)):
            await until(lambda: len(asked) == 4)

    assert all(later - sooner > 0.09 for sooner, later in pairwise(asked))


async def test_what_is_no_record_is_invalid(broker: Broker, reader: LedgerReader) -> None:
    """A damaged payload is read as bytes, and said to be damaged by `record`."""
    await append(broker, "no record")
    last = await reader.last()

    assert last is not None
    with pytest.raises(InvalidRecord):
        last.record()


@pytest.fixture
async def forgetful(tmp_path: Path) -> AsyncGenerator[Broker]:
    """A broker whose ledger holds six records and may lose some, unlike the product's."""
    async with running_broker(tmp_path, streams=False) as broker:
        admin = await broker.connect(ADMIN)
        config = {**streams(LIMITS)[1], "deny_delete": False, "deny_purge": False}
        await admin.api("$JS.API.STREAM.CREATE.LEDGER_0", config)
        await append(broker, "1", "2", "3", "4", "5", "6")
        yield broker


@pytest.mark.parametrize(("lost", "before"), [(1, []), (3, ["1", "2"]), (5, ["1", "2", "3", "4"])])
async def test_a_missing_record_is_a_gap(forgetful: Broker, lost: int, before: list[str]) -> None:
    """LedgerGap names the sequence; what comes before it is read, nothing after it."""
    await forgetful.delete("LEDGER_0", lost)
    got: list[str] = []
    with pytest.raises(LedgerGap) as caught:
        async for stored in (await forgetful.reader()).read():
            got.append(stored.payload.decode())  # noqa: PERF401 - what came before the error counts

    assert got == before
    assert (caught.value.stream, caught.value.expected) == ("LEDGER_0", lost)
    assert caught.value.found == lost + 1


async def test_a_gap_is_found_while_following_too(
    forgetful: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader that follows does not wait it out."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 60.0)
    async with Following(await forgetful.reader()) as following:
        await until(lambda: following.caught_up == [6])
        await append(forgetful, "7", hint=False)
        await forgetful.delete("LEDGER_0", 7)
        await append(forgetful, "8")
        with pytest.raises(LedgerGap):
            await following.task


async def test_with_a_filter_a_missing_record_is_no_gap(forgetful: Broker) -> None:
    """A filter leaves out sequences by its nature; it is for looking, not for proving."""
    await forgetful.delete("LEDGER_0", 3)

    assert await read((await forgetful.reader()).read(filter=EVENT)) == ["1", "2", "4", "5", "6"]
