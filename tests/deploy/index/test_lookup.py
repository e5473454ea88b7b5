"""What the index finds, against the records that it was made of."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deploy.test_timeline import Ledger
from tidegate.bench.history import History
from tidegate.index import Filter, LedgerIndex, lookup, store
from tidegate.index.glance import Clock, Row, glance
from tidegate.index.lookup import KIND_IS, ROWS, VERDICT_IS
from tidegate.index.store import IndexWriter, read_all
from tidegate_bus.frames import Entry
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import LedgerError, Unavailable
from tidegate_schemas.record import Record, decode_record, encode_record
from tidegate_schemas.subjects import Kind, Verdict

ENTRIES = [Entry(e.record.seq, e.payload) for e in islice(History(3).entries(4_000), 4_000)]
RECORDS = [decode_record(entry.payload) for entry in ENTRIES]


def write(path: Path, entries: list[Entry], *, batch: int = 700) -> None:
    """An index of these records."""
    writer = IndexWriter.anew(path)
    for begin in range(0, len(entries), batch):
        part = entries[begin : begin + batch]
        writer.add(part, read_all(part, glance))
    writer.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of all records; nobody writes to it."""
    path = tmp_path_factory.mktemp("index") / "index.db"
    write(path, ENTRIES)
    return path


@pytest.fixture
def index(file: Path) -> Iterator[LedgerIndex]:
    """The index of all records."""
    found = LedgerIndex(file)
    yield found
    found.close()


def all_of(index: LedgerIndex, wanted: Filter, limit: int = 37) -> list[int]:
    """Sequences of all pages, and that they go on where the one before ends."""
    found: list[int] = []
    before = None
    while True:
        page = index.search(wanted, before, limit)
        found += [row.seq for row in page.rows]
        if page.reached == 1:
            return found
        before = page.reached


def ids(record: Record) -> tuple[str | None, str | None]:
    """Id and correlation of the envelope."""
    message = record.message()
    return (message.id, message.correlationid) if message else (None, None)


def test_a_row_says_what_the_record_says(index: LedgerIndex) -> None:
    """Every record has its row, with all that is kept of it."""
    for record in RECORDS[::7]:
        row = index.row(record.seq)
        message = record.message()

        assert row == Row(
            record.seq,
            parse_rfc3339(record.time),
            record.by,
            record.kind,
            record.to,
            record.verdict,
            record.why.reason,
            record.why.policies,
            message.id if message else None,
            message.source if message else None,
            message.correlationid if message else None,
            message.causationid if message else None,
            message.causationsource if message else None,
            message.runid if message else None,
            record.first,
        )
    assert index.row(len(RECORDS) + 1) is None
    assert index.seq() == len(RECORDS)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(by="sales.a1"),
        Filter(by="nobody.here"),
        Filter(to="billing.pay", verdict=Verdict.HOLD),
        Filter(kind=Kind.CONTROL),
        Filter(kind=Kind.UNKNOWN),
        Filter(verdict=Verdict.DENY, by="billing.a1"),
        Filter(to="billing.pay", since=parse_rfc3339(RECORDS[1000].time)),
        Filter(since=parse_rfc3339(RECORDS[90].time), until=parse_rfc3339(RECORDS[300].time)),
        Filter(id=ids(RECORDS[500])[0]),
        Filter(id=ids(RECORDS[500])[0], verdict=Verdict.DUPLICATE),
        Filter(id="no such one"),
    ],
    ids=repr,
)
def test_a_search_finds_what_reading_everything_finds(index: LedgerIndex, wanted: Filter) -> None:
    """The newest first, page after page, none left out and none twice."""
    expected = [
        record.seq
        for record in reversed(RECORDS)
        if wanted.by in (None, record.by)
        and wanted.to in (None, record.to)
        and wanted.kind in (None, record.kind)
        and wanted.verdict in (None, record.verdict)
        and (wanted.id is None or wanted.id == ids(record)[0])
        and (wanted.since is None or parse_rfc3339(record.time) >= wanted.since)
        and (wanted.until is None or parse_rfc3339(record.time) < wanted.until)
    ]

    assert all_of(index, wanted) == expected


def test_an_envelope_is_found_by_its_sender_and_id(index: LedgerIndex) -> None:
    """Its first record, also where it came again or waited; of another sender there is none."""
    for record in RECORDS[::11]:
        name = ids(record)[0]
        if name is None:
            continue
        found = index.find(record.by, name)
        first = next(r for r in RECORDS if r.by == record.by and ids(r)[0] == name)
        assert found and found.seq == first.seq
        assert index.find("no.such", name) is None
        assert index.find(record.by, name, "another source") is None


def test_what_was_sent_again_and_again_is_found_as_fast(tmp_path: Path) -> None:
    """Of a thousand records of an id one is read; and what ended a wait is no duplicate."""
    first = json.loads(next(e.payload for e in ENTRIES if b'"verdict":"hold"' in e.payload))
    by, name = first["by"], first["envelope"]["id"]
    again = {**first, "verdict": "duplicate", "first": 1}
    verdicts = [first, *[again] * 1000, {**again, "verdict": "allow"}, *[again] * 1000]
    entries = [
        Entry(seq, json.dumps({**record, "seq": seq}).encode())
        for seq, record in enumerate(verdicts, 1)
    ]
    write(tmp_path / "index.db", entries)
    index = Counting(tmp_path / "index.db")

    found, end = index.find(by, name), index.end(1)
    assert found and end
    assert (found.seq, end.seq, end.verdict) == (1, 1002, Verdict.ALLOW)
    assert index.end(2) is None
    assert index.read < 10
    index.close()


class Counting(LedgerIndex):
    """Counts the rows that it reads."""

    read = 0

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        found = super()._all(query, *values)
        self.read += len(found)
        return found


def test_neighbours_of_a_record_are_found_both_ways(index: LedgerIndex) -> None:
    """A task has its answer, and that its cause; what came again is with what came first."""
    answered = 0
    for record in RECORDS:
        row = index.row(record.seq)
        assert row
        if record.first is not None:
            assert row.seq in [other.seq for other in index.following(record.first)]
        if record.kind is Kind.RESULT and record.verdict is Verdict.ALLOW:
            answered += 1
            assert row.causation
            assert index.answer(row.to, row.causation) == row
            cause = index.cause(row)
            assert cause and (cause.by, cause.id) == (row.to, row.causation)
            assert row in index.caused(cause)
    assert answered > 100


def test_causes_of_the_same_id_are_told_apart_by_source_and_sender(tmp_path: Path) -> None:
    """Of an event id and source are its name, of a task id and sender."""
    ledger = Ledger()
    ledger.add("shop.one", "order.made", id="1", source="/one")
    ledger.add("shop.two", "order.made", id="1", source="/two")
    ledger.add("shop.two", "work.do", id="1", source="/three", kind="task", to="work.do")
    about: dict[str, Any] = {"kind": "task", "to": "work.do", "causationid": "1"}
    ledger.add("tidegate.coordinator", "work.do", id="a", causationsource="/two", **about)
    ledger.add("tidegate.coordinator", "work.do", id="b", causationsource="/one", **about)
    answer: dict[str, Any] = {"kind": "result", "to": "shop.two", "causationid": "1"}
    ledger.add("work.agent", "tidegate.deadletter", id="c", causationsource="/two", **answer)
    ledger.add("work.agent", "tidegate.result", id="d", **answer)
    write(tmp_path / "index.db", [Entry(r.seq, encode_record(r)) for r in ledger.records])
    index = LedgerIndex(tmp_path / "index.db")
    found = index.answer("shop.two", "1")
    rows = [index.row(record.seq) for record in ledger.records]
    causes = [index.cause(row) for row in rows if row]
    caused = [[one.seq for one in index.caused(row)] for row in rows if row]
    index.close()

    assert [cause and cause.seq for cause in causes] == [None, None, None, 2, 1, 2, 3]
    assert caused == [[5], [4, 6], [7], [], [], [], []]
    assert found and found.seq == 7


def test_times_never_go_back() -> None:
    """Where the gateway's clock went back, its latest time counts, so that a search can halve."""
    clock = Clock(0)
    texts = ["2026-01-31T12:00:01.5Z", "2026-01-31T12:00:00.9Z", "2026-01-31T12:00:02.000000001Z"]

    assert [clock.read(text) for text in ("2026-01-31T12:00:01.500000000Z", *texts[2:])] == [
        parse_rfc3339(texts[0]),
        parse_rfc3339(texts[2]),
    ]
    assert clock.read("2026-01-31T12:00:00.900000000Z") == parse_rfc3339(texts[2])


def test_a_reader_follows_to_another_file(tmp_path: Path) -> None:
    """Before there is an index nothing is in it; one that is made anew is read from then on."""
    path = tmp_path / "index.db"
    index = LedgerIndex(path)
    assert (index.seq(), index.search(Filter()).rows, index.find("a.b", "c")) == (0, [], None)

    write(path, ENTRIES[:50])
    assert index.seq() == 50
    write(path, ENTRIES[:20])
    assert index.seq() == 20
    index.close()


def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path) -> None:
    """What cannot be read is said, with the way out."""
    path = tmp_path / "index.db"
    path.write_bytes(b"this is no index" * 1000)
    index = LedgerIndex(path)

    with pytest.raises(Unavailable, match="made anew at the next start"):
        index.search(Filter())


@pytest.mark.parametrize(
    "damage", ["none", "bytes", "short", "version", "other", "ahead", "no file"]
)
def test_what_is_not_to_be_believed_is_made_again(tmp_path: Path, damage: str) -> None:
    """A damaged index, one of another version, of another ledger, or of one that was longer."""
    path, length = tmp_path / "index.db", 1_000
    write(path, ENTRIES[:length])
    payloads = {entry.seq: entry.payload for entry in ENTRIES}
    match damage:
        case "bytes":
            data = bytearray(path.read_bytes())
            data[8192:12288] = b"\xff" * 4096
            path.write_bytes(data)
        case "short":
            path.write_bytes(path.read_bytes()[:20_000])
        case "version":
            connection = sqlite3.connect(path)
            connection.execute("UPDATE meta SET version = 0")
            connection.commit()
            connection.close()
        case "other":
            payloads[length] = payloads[length].replace(b"bench/0", b"other/0")
        case "ahead":
            del payloads[length]
        case "no file":
            path.unlink()
        case _:
            pass

    writer = IndexWriter.open(path, payloads.get)
    assert writer.seq == (length if damage == "none" else 0)
    writer.add(part := ENTRIES[writer.seq : length + 10], read_all(part, glance))
    writer.close()
    index = LedgerIndex(path)
    assert len(all_of(index, Filter())) == length + 10
    index.close()


def test_records_that_do_not_follow_are_not_taken(tmp_path: Path) -> None:
    """A gap, or bytes that are no record, are an error of the ledger, and nothing is added."""
    writer = IndexWriter.anew(tmp_path / "index.db")

    with pytest.raises(LedgerError, match="record 3 does not follow 0"):
        writer.add(ENTRIES[2:4], read_all(ENTRIES[2:4], glance))
    with pytest.raises(LedgerError, match="bears the sequence 3"):
        read_all([Entry(1, ENTRIES[2].payload)], glance)
    with pytest.raises(LedgerError, match="record 1 is not of a gateway"):
        read_all([Entry(1, b"{}")], glance)
    assert writer.seq == 0
    writer.close()


def test_no_search_reads_the_table_from_one_end_to_the_other(file: Path) -> None:
    """What is found by kind or verdict is looked up, not looked for."""
    connection = sqlite3.connect(file)
    conditions = [KIND_IS[Kind.CONTROL]]
    conditions += [VERDICT_IS[verdict] for verdict in Verdict if verdict is not Verdict.ALLOW]
    for condition in conditions:
        query = f"EXPLAIN QUERY PLAN {ROWS} WHERE r.seq < ? AND {condition} ORDER BY r.seq DESC"
        plan = " ".join(str(row[-1]) for row in connection.execute(query, (9, 1)))
        assert "SEARCH r USING INDEX" in plan, condition
        assert "TEMP B-TREE" not in plan, condition
    connection.close()


def test_who_is_seldom_there_is_looked_for_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a search ends and goes on within a stretch; of two names only what both are in."""
    monkeypatch.setattr(store, "STRIDE_BITS", 5)
    monkeypatch.setattr(lookup, "STRIDE_BITS", 5)
    path = tmp_path / "index.db"
    write(path, ENTRIES, batch=333)
    index = LedgerIndex(path)
    for by in {record.by for record in RECORDS}:
        expected = [record.seq for record in reversed(RECORDS) if record.by == by]
        assert all_of(index, Filter(by=by)) == expected
    for by, to in sorted({(record.by, record.to) for record in RECORDS})[::9]:
        expected = [r.seq for r in reversed(RECORDS) if (r.by, r.to) == (by, to)]
        assert all_of(index, Filter(by=by, to=to), limit=2) == expected
    assert index.search(Filter(by="ops.ann", to="ops.ann")) == ([], 1)
    index.close()
