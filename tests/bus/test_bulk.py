"""Reading in bulk: the same records as the ledger's reader gives, or an error of ours."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support import ADMIN, LIMITS, OPERATOR, PUBLISHER, Broker, running_broker
from tidegate_bus import bulk as module
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.broker.topology import streams
from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.frames import Entry
from tidegate_bus.identity.keyring import Keyring
from tidegate_schemas.errors import InvalidInput, LedgerGap, NotConnected, Unavailable
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import GATEWAY

EVENT, TASK = "ledger.0.allow.event.thing", "ledger.0.allow.task.work.do"


def access(broker: Broker, who: Principal = OPERATOR, url: str = "") -> Access:
    """How somebody comes to the broker."""
    return Access(url or broker.url, who, broker.keyring.seed(who))


def read(reader: BulkReader, first: int = 1, last: int | None = None) -> list[Entry]:
    """All of it in one list."""
    return [entry for entries in reader.read(first, last) for entry in entries]


async def append(broker: Broker, payloads: Iterable[bytes], subject: str = EVENT) -> None:
    """Write to the end of the ledger, as a gateway does."""
    waiting = list(payloads)
    gateway = await broker.connect(GATEWAY)
    appender = await FastAppender.open(gateway, last=await broker.length("LEDGER_0"))
    for begin in range(0, len(waiting), MAX_BATCH):
        part = waiting[begin : begin + MAX_BATCH]
        await (await appender.append([(subject, payload) for payload in part]))
    await appender.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three, and no patience."""
    monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)


async def test_it_reads_what_the_ledger_reader_reads(broker: Broker) -> None:
    """Sequences and bytes, over several batches; binary, empty and large payloads too."""
    payloads = [b"%d" % number for number in range(12_000)]
    payloads += [b"", b"\r\nHMSG x 1 2 2\r\n", bytes(range(256)), b"x" * 900_000]
    await append(broker, payloads)
    with BulkReader(access(broker)) as reader:
        found = await asyncio.to_thread(read, reader)

    expected = [Entry(s.seq, s.payload) async for s in (await broker.reader()).read()]
    assert found == expected
    assert len(found) == len(payloads)


async def test_answers_are_bounded_in_bytes(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of records larger than that together there are fewer in a batch; none is lost."""
    monkeypatch.setattr(module, "_BATCH_BYTES", 10_000)
    await append(broker, [b"x" * 4_000] * 10)
    with BulkReader(access(broker)) as reader:
        batches = list(reader.read())

    assert [entry.seq for entries in batches for entry in entries] == list(range(1, 11))
    assert len(batches) > 2


async def test_a_stretch_ends_where_it_shall(broker: Broker, small: None) -> None:
    """Also within a batch; an empty one is not even asked for."""
    await append(broker, [b"%d" % number for number in range(1, 11)])
    with BulkReader(access(broker)) as reader:
        for first, last in [(1, 10), (2, 4), (2, 5), (10, 10), (7, 6)]:
            assert [e.seq for e in read(reader, first, last)] == list(range(first, last + 1))
        assert read(reader, 11) == []


async def test_one_record_is_read_in_the_midst_of_others(broker: Broker, small: None) -> None:
    """While a stretch is read, which goes on as before; one that is not there is an error."""
    await append(broker, [b"%d" % number for number in range(1, 9)])

    def look() -> tuple[list[bytes], list[int]]:
        with BulkReader(access(broker)) as reader:
            found = [(reader.one(9 - e.seq), e.seq) for part in reader.read() for e in part]
            with pytest.raises(LedgerGap):
                reader.one(9)
        return [payload for payload, _ in found], [seq for _, seq in found]

    assert await asyncio.to_thread(look) == (
        [b"%d" % number for number in range(8, 0, -1)],
        list(range(1, 9)),
    )


async def test_an_empty_ledger_is_read_to_its_end_at_once(broker: Broker) -> None:
    """That is no error."""
    with BulkReader(access(broker)) as reader:
        assert read(reader) == []


async def test_places_are_found_by_time(broker: Broker) -> None:
    """The first record stored then or later, and the last one of all; 1 and 0 where there is none.

    After the last it is the one that would come next.
    """
    with BulkReader(access(broker)) as reader:
        assert (reader.since(0), reader.last()) == (1, 0)
        for number in range(1, 4):
            await append(broker, [b"%d" % number])
        times = [stored.stored async for stored in (await broker.reader()).read()]
        found = [reader.since(t) for t in (0, times[1], times[1] + 1, times[2], times[2] + 10**9)]

        assert found == [1, 2, 3, 3, 4]
        assert reader.last() == 3


async def test_a_ledger_that_ends_before_the_stretch_does_is_a_gap(broker: Broker) -> None:
    """Whoever names its end knows that it was there."""
    await append(broker, [b"1", b"2"])
    with BulkReader(access(broker)) as reader, pytest.raises(LedgerGap) as caught:
        read(reader, 1, 3)
    assert (caught.value.expected, caught.value.found) == (3, 2)


async def test_what_is_written_meanwhile_is_read_too(broker: Broker, small: None) -> None:
    """Without an end it goes on to where the ledger ends when it comes there."""
    await append(broker, [b"1", b"2", b"3", b"4"])
    with BulkReader(access(broker)) as reader:
        batches = reader.read()
        first = next(batches)
        await append(broker, [b"5", b"6", b"7", b"8"])
        found = first + [entry for entries in batches for entry in entries]

    assert found == [Entry(n, b"%d" % n) for n in range(1, 9)]


async def test_a_filter_lets_only_its_records_through(broker: Broker, small: None) -> None:
    """Those between are no gap, and the end is kept."""
    for number in range(1, 11):
        await append(broker, [b"%d" % number], TASK if number % 2 else EVENT)
    with BulkReader(access(broker)) as reader:
        for last, expected in [(None, [1, 3, 5, 7, 9]), (6, [1, 3, 5]), (7, [1, 3, 5, 7])]:
            found = reader.read(1, last, filter="ledger.0.allow.task.>")
            assert [entry.seq for entries in found for entry in entries] == expected
        assert list(reader.read(filter="ledger.0.deny.>")) == []


async def test_a_missing_record_is_a_gap(tmp_path: Path, small: None) -> None:
    """LedgerGap names the sequence, wherever it is in a batch."""
    async with running_broker(tmp_path, streams=False) as broker:
        admin = await broker.connect(ADMIN)
        config = {**streams(LIMITS)[1], "deny_delete": False, "deny_purge": False}
        await admin.api("$JS.API.STREAM.CREATE.LEDGER_0", config)
        await append(broker, [b"x"] * 7)
        for lost in (6, 4, 2, 1):  # each is found before the ones behind it
            await broker.delete("LEDGER_0", lost)
            with BulkReader(access(broker)) as reader, pytest.raises(LedgerGap) as caught:
                read(reader)
            found = caught.value
            assert (found.stream, found.expected, found.found) == (
                "LEDGER_0",
                lost,
                3 if lost == 1 else lost + 1,
            )


async def test_a_connection_that_breaks_between_batches_is_made_again(
    broker: Broker, small: None
) -> None:
    """The broker was started again meanwhile: nothing is lost, nothing comes twice."""
    await append(broker, [b"%d" % number for number in range(1, 9)])
    with BulkReader(access(broker)) as reader:
        batches = reader.read()
        found = next(batches)
        await broker.kill()
        await broker.restart()
        found += [entry for entries in batches for entry in entries]

    assert found == [Entry(n, b"%d" % n) for n in range(1, 9)]


@contextlib.asynccontextmanager
async def cutting(url: str, *limits: int) -> AsyncGenerator[tuple[str, list[int]]]:
    """A way to the broker that breaks: each connection after so many bytes, later ones never.

    Gives its address, and how many bytes came through each connection.
    """
    port, came = urlsplit(url).port, list[int]()
    left = list(limits)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, limit = len(came), left.pop(0) if left else None
        came.append(0)
        theirs, to_broker = await asyncio.open_connection("127.0.0.1", port)

        async def up() -> None:
            while data := await reader.read(65536):
                to_broker.write(data)
            to_broker.close()

        sending = asyncio.create_task(up())
        try:
            while data := await theirs.read(65536):
                rest = None if limit is None else limit - came[number]
                writer.write(data[:rest])
                came[number] += len(data[:rest])
                if rest is not None and len(data) >= rest:
                    break
        finally:
            sending.cancel()
            to_broker.close()
            writer.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", came


async def test_a_connection_that_breaks_within_a_batch_is_made_again(
    broker: Broker, small: None
) -> None:
    """What came of the batch is thrown away and asked for again."""
    await append(broker, [b"x" * 2_000] * 4)
    async with cutting(broker.url, 4_000, 7_000) as (url, came):
        with BulkReader(access(broker, url=url)) as reader:
            found = await asyncio.to_thread(read, reader)

    assert found == [Entry(n, b"x" * 2_000) for n in range(1, 5)]
    assert came[:2] == [4_000, 7_000]
    assert len(came) == 3


async def test_a_way_that_breaks_every_time_is_given_up(broker: Broker, small: None) -> None:
    """Unavailable, which may be tried again; it does not hang."""
    await append(broker, [b"x" * 2_000] * 4)
    async with cutting(broker.url, *[4_000] * 9) as (url, came):
        broken = pytest.raises(Unavailable, match="ended the connection")
        with BulkReader(access(broker, url=url)) as reader, broken as caught:
            await asyncio.to_thread(read, reader)

    assert caught.value.retryable
    assert len(came) == 5


async def test_a_broker_that_is_gone_is_not_connected(broker: Broker, small: None) -> None:
    """The error says where nobody answers, and to whom."""
    who = access(broker)
    await broker.kill()
    with BulkReader(who) as reader, pytest.raises(NotConnected, match=r"tidegate\.operator: .*ref"):
        read(reader)


async def test_of_several_addresses_the_first_that_answers_is_taken(broker: Broker) -> None:
    """As with any connection."""
    await append(broker, [b"1"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"nats://127.0.0.1:{taken.getsockname()[1]}"
    with BulkReader(access(broker, url=f"{nobody},{broker.url}")) as reader:
        assert read(reader) == [Entry(1, b"1")]


async def test_whoever_may_not_read_is_told_so_at_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a second attempt: it would be refused as well."""
    monkeypatch.setattr(module, "_ATTEMPTS", 1_000_000)
    refused = pytest.raises(Unavailable, match=r"outside\.source: Permissions Violation")
    with BulkReader(access(broker, PUBLISHER)) as reader, refused as caught:
        read(reader)
    assert not caught.value.retryable


async def test_a_key_that_is_not_known_is_not_connected(
    broker: Broker, small: None, tmp_path: Path
) -> None:
    """The broker's words are in the error."""
    stranger = Keyring(tmp_path / "strange")
    stranger.ensure(OPERATOR)
    strange = Access(broker.url, OPERATOR, stranger.seed(OPERATOR))
    with BulkReader(strange) as reader, pytest.raises(NotConnected, match="Authorization Violati"):
        read(reader)


async def test_what_is_no_address_is_invalid(broker: Broker) -> None:
    """So is one without a scheme."""
    for url in ("127.0.0.1:4222", "http://127.0.0.1:1", ""):
        wrong = Access(url, OPERATOR, broker.keyring.seed(OPERATOR))
        with BulkReader(wrong) as reader, pytest.raises(InvalidInput, match="no address"):
            read(reader)


async def test_what_is_no_broker_is_not_connected(broker: Broker, small: None) -> None:
    """It may say anything, or nothing."""
    for says in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO nonsense\r\n", b""):

        async def answer(
            _: asyncio.StreamReader, writer: asyncio.StreamWriter, says: bytes = says
        ) -> None:
            writer.write(says)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            strange = pytest.raises(NotConnected, match="no broker")
            with BulkReader(access(broker, url=url)) as reader, strange:
                await asyncio.to_thread(read, reader)


async def test_a_ledger_that_is_not_there_is_unavailable(tmp_path: Path, small: None) -> None:
    """Nobody answers for the stream."""
    async with running_broker(tmp_path, streams=False) as broker:
        with BulkReader(access(broker)) as reader, pytest.raises(Unavailable, match="503"):
            read(reader)


async def test_access_goes_to_other_processes_and_is_not_printed(broker: Broker) -> None:
    """The key inside is nothing for logs."""
    here = access(broker)

    assert pickle.loads(pickle.dumps(here)) == here  # noqa: S301 - our own
    assert broker.keyring.seed(OPERATOR) not in repr(here)
