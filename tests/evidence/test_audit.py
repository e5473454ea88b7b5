"""Records held against a checkpoint: every mutation is found, and located."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.kit import ORIGIN, Log, record
from tidegate_evidence.audit import MAX_FINDINGS, Finding, Kind, Report, audit
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.tiles import TileReader, tile_path
from tidegate_evidence.tree import Frontier, leaf_hash
from tidegate_schemas.errors import VerificationError

SIZE = 700
Records = list[bytes]
Mutation = Callable[[Records], object]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log of two whole tiles and one that is not."""
    folder = tmp_path_factory.mktemp("log")
    return Log.make(folder, [record(seq) for seq in range(1, SIZE + 1)])


def look(log: Log, records: Records, *, tiles: bool = True, first: int = 1) -> Report:
    """Audit what stands in the lines of a file."""
    places = enumerate(records, first)
    last = log.size if first == 1 else 600
    return audit(places, log.checkpoint(), log.tiles() if tiles else None, first, last)


def found(report: Report) -> list[tuple[str, int, int]]:
    """The findings, in short."""
    return [(finding.kind.value, finding.first, finding.last) for finding in report.findings]


def flip(seq: int, byte: int) -> Mutation:
    """Change one bit of a record."""

    def mutate(records: Records) -> None:
        data = bytearray(records[seq - 1])
        data[byte] ^= 1
        records[seq - 1] = bytes(data)

    return mutate


def swap(a: int, b: int) -> Mutation:
    """Change two records for each other."""

    def mutate(records: Records) -> None:
        records[a - 1], records[b - 1] = records[b - 1], records[a - 1]

    return mutate


def cut(first: int, last: int) -> Mutation:
    """Leave records out."""
    return lambda records: records.__delitem__(slice(first - 1, last))


def insert(before: int, what: bytes) -> Mutation:
    """Put something before a record."""
    return lambda records: records.insert(before - 1, what)


def move(seq: int, before: int) -> Mutation:
    """Put a record before one that stands behind it."""
    return lambda records: records.insert(before - 2, records.pop(seq - 1))


def together(*mutations: Mutation) -> Mutation:
    """One after the other."""
    return lambda records: [mutate(records) for mutate in mutations]


MUTATIONS: list[tuple[Mutation, list[tuple[str, int, int]]]] = [
    (flip(300, 400), [("altered", 300, 300)]),  # in the envelope
    (flip(300, 32), [("altered", 300, 300)]),  # in its sequence
    (flip(300, 0), [("altered", 300, 300)]),  # so that it does not begin as a record
    (flip(1, 200), [("altered", 1, 1)]),
    (flip(SIZE, 200), [("altered", SIZE, SIZE)]),
    (flip(513, 200), [("altered", 513, 513)]),
    (together(flip(7, 200), flip(8, 200), flip(650, 0)), [("altered", s, s) for s in (7, 8, 650)]),
    (cut(300, 300), [("missing", 300, 300)]),
    (cut(1, 1), [("missing", 1, 1)]),
    (cut(200, 599), [("missing", 200, 599)]),
    (together(cut(9, 9), cut(4, 4)), [("missing", 4, 4), ("missing", 9, 9)]),
    (together(cut(6, 6), flip(5, 200)), [("altered", 5, 5), ("missing", 6, 6)]),
    (cut(SIZE, SIZE), [("truncated", SIZE, SIZE)]),
    (cut(201, SIZE), [("truncated", 201, SIZE)]),
    (cut(1, SIZE), [("truncated", 1, SIZE)]),
    (swap(300, 301), [("swapped", 301, 301)]),
    (swap(5, 600), [("swapped", 5, 5), ("swapped", 600, 600)]),
    (swap(1, SIZE), [("swapped", 1, 1), ("swapped", SIZE, SIZE)]),
    (move(5, 601), [("swapped", 5, 5)]),
    (insert(300, record(299)), [("duplicated", 299, 299)]),
    (insert(300, record(20)), [("duplicated", 20, 20)]),
    (insert(SIZE + 1, record(SIZE)), [("duplicated", SIZE, SIZE)]),
    (insert(300, b"{}"), [("inserted", 300, 300)]),
    (insert(300, b""), [("inserted", 300, 300)]),
    (insert(1, record(1, epoch=9)), [("inserted", 1, 1)]),
    (insert(300, record(300, epoch=9)), [("inserted", 300, 300)]),
    (insert(SIZE + 1, record(SIZE + 1)), [("inserted", SIZE + 1, SIZE + 1)]),
    (
        together(insert(500, b"x"), cut(400, 401), flip(300, 200), cut(9, 9)),
        [("missing", 9, 9), ("altered", 300, 300), ("missing", 400, 401), ("inserted", 500, 500)],
    ),
]


@pytest.mark.parametrize(("mutate", "expected"), MUTATIONS)
def test_each_mutation_is_located(
    log: Log, mutate: Mutation, expected: list[tuple[str, int, int]]
) -> None:
    """Dropped, swapped, duplicated, inserted, altered or cut off: it is said, and of which one."""
    records = list(log.records)
    mutate(records)
    assert found(look(log, records)) == expected
    assert not look(log, records, tiles=False).holds


def test_what_is_untouched_holds(log: Log) -> None:
    """With tiles and without them, as a whole or in part."""
    for tiles in (True, False):
        report = look(log, log.records, tiles=tiles)
        assert (report.holds, report.records, report.answered) == (True, SIZE, SIZE)
    report = look(log, log.records[99:600], first=100)
    assert (report.holds, report.records, report.answered) == (True, 501, 600)
    assert audit([], Checkpoint(ORIGIN, 0, Frontier().root())).holds


def test_a_part_needs_tiles_to_be_proven(log: Log) -> None:
    """No root tells anything of a part alone."""
    part = log.records[99:600]
    assert found(look(log, part, tiles=False, first=100)) == [("unproven", 100, 600)]


def test_without_tiles_the_root_tells_that_something_is_wrong(log: Log) -> None:
    """Not what: but what is missing, swapped or there twice is told by what records say."""
    records = list(log.records)
    flip(300, 400)(records)
    assert found(look(log, records, tiles=False)) == [("unproven", 1, SIZE)]
    cut(20, 20)(records)
    assert ("missing", 20, 20) in found(look(log, records, tiles=False))


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_nothing_but_the_records_in_order_holds(log: Log, data: st.DataObject) -> None:
    """Whatever is done to them, in whatever order: a difference is never overlooked."""
    records = list(log.records)
    places = st.integers(1, SIZE - 60)
    steps = st.one_of(
        st.builds(flip, places, st.integers(0, 300)),
        st.builds(swap, places, places),
        st.builds(cut, places, places),
        st.builds(insert, places, st.builds(record, st.integers(1, SIZE + 9))),
        st.builds(insert, places, st.binary(max_size=9)),
    )
    for mutate in data.draw(st.lists(steps, max_size=6)):
        with contextlib.suppress(IndexError):  # what it is about is not there any more
            mutate(records)
    same = records == log.records
    assert look(log, records).holds == same
    assert look(log, records, tiles=False).holds == same


def test_places_that_are_not_those_of_the_records_are_told(log: Log) -> None:
    """A stream that was made anew, with other sequences, has all the records and is not the one."""
    checkpoint, tiles = log.checkpoint(), log.tiles()
    shifted = audit(enumerate(log.records, 11), checkpoint, tiles)
    assert found(shifted) == [("shifted", 1, SIZE)]
    later = [(seq + 5 * (seq > 400), one) for seq, one in enumerate(log.records, 1)]
    assert found(audit(later, checkpoint, tiles)) == [("shifted", 401, SIZE)]
    hole = [(seq, one) for seq, one in enumerate(log.records, 1) if seq != 300]
    assert found(audit(hole, checkpoint, tiles)) == [("missing", 300, 300)]


def recorded(tmp_path: Path, records: Records) -> list[tuple[str, int, int]]:
    """What is found in records that were signed as they are."""
    return found(look(Log.make(tmp_path, records), records))


def test_submissions_without_record_are_told(tmp_path: Path) -> None:
    """Every submission has exactly one record with n = 0, in order; consequences count on."""
    numbers = [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (5, 0), (5, 2), (5, 0), (6, 0), (6, 1)]
    records = [
        record(seq, submission=submission, n=n) for seq, (submission, n) in enumerate(numbers, 1)
    ]
    assert recorded(tmp_path, records) == [("submission", seq, seq) for seq in (6, 7, 8)]


def test_the_first_record_answers_the_first_submission(tmp_path: Path) -> None:
    """What was left out before everything else is told as well."""
    assert recorded(tmp_path, [record(1, submission=2)]) == [("submission", 1, 1)]


def test_an_epoch_that_falls_is_told(tmp_path: Path) -> None:
    """A gateway that was replaced wrote again."""
    records = [record(seq, epoch=epoch) for seq, epoch in enumerate((1, 2, 2, 1, 3), 1)]
    assert recorded(tmp_path, records) == [("epoch", 4, 4)]


@pytest.mark.parametrize(
    "wrong",
    [
        record(4),
        b"not a record",
        record(3).replace(b'"hello/0"', b'"hello/1"'),
        record(3).replace(b'"v":1', b'"v":2'),
        record(3).replace(b'"seq":3', b'"seq":03'),
        record(3).replace(b',"time"', b', "time"', 1),
        b" " + record(3),
        record(3).replace(b'{"v":1,', b'{"v":1,"seq":9,', 1),
    ],
)
def test_a_record_begins_in_one_way(tmp_path: Path, wrong: bytes) -> None:
    """What was signed and is not the record of that place in that log is told."""
    assert recorded(tmp_path, [record(1), record(2), wrong]) == [("form", 3, 3)]


def test_a_checkpoint_says_how_far_it_reaches(log: Log) -> None:
    """No more than it covers can be held against it."""
    for first, last in ((0, 3), (1, SIZE + 1), (5, 3)):
        with pytest.raises(VerificationError):
            audit([], log.checkpoint(), None, first, last)


def test_many_findings_are_counted(log: Log) -> None:
    """A report has an end."""
    report = audit(enumerate([b"x"] * 2_000, 1), log.checkpoint(), log.tiles())
    assert len(report.findings) == MAX_FINDINGS
    assert report.more == 2_000 - MAX_FINDINGS


def test_disorder_on_purpose_takes_no_longer() -> None:
    """Backwards, every other one, of a log that says to be endless: what helps to keep nobody."""
    records = [record(2).replace(b'"seq":2', b'"seq":%d' % seq, 1) for seq in range(1, 20_001)]
    orders = [records[::-1], records[1::2] + records[::2], records[::2] + records[1::2]]
    for order in orders:
        report = audit(enumerate(order, 1), Checkpoint(ORIGIN, 2**63 - 1, b"\1" * 32))
        assert not report.holds


def test_progress_is_told() -> None:
    """Now and then."""
    done: list[int] = []
    audit(enumerate([b""] * 45_000, 1), Checkpoint(ORIGIN, 1, b"\1" * 32), progress=done.append)
    assert [20_000 <= after - before < 21_000 for before, after in pairwise([0, *done])] == [
        True
    ] * 2


# Tiles that are damaged themselves.


@pytest.fixture
def copy(log: Log, tmp_path: Path) -> Log:
    """The same log, whose files may be damaged."""
    return Log.make(tmp_path / "copy", log.records)


def damage(log: Log, level: int, number: int, width: int = 256) -> str:
    """Change a tile; its name."""
    name = tile_path(level, number, width)
    path = log.folder / name
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    return name


TILES = [(0, 0, 256), (0, 1, 256), (0, 2, 188), (1, 0, 2)]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("gone", [False, True])
def test_damaged_tiles_do_not_hide_that_records_are_right(
    copy: Log, log: Log, tile: tuple[int, int, int], *, gone: bool
) -> None:
    """Records with the root of the checkpoint are right; the files are named."""
    name = damage(copy, *tile)
    if gone:
        (copy.folder / name).unlink()
    report = audit(enumerate(log.records, 1), log.checkpoint(), copy.tiles())
    assert {finding.kind for finding in report.findings} == {Kind.FILE}
    assert any(name in str(f) or tile[0] or tile[2] < 256 for f in report.findings)


def test_damaged_tiles_leave_other_records_proven(copy: Log, log: Log) -> None:
    """Of the records of a lost tile something is known, of all others everything."""
    name = damage(copy, 0, 1)
    records = list(log.records)
    together(flip(600, 200), flip(300, 200), cut(20, 20))(records)
    report = audit(enumerate(records, 1), log.checkpoint(), copy.tiles())
    assert found(report) == [
        ("missing", 20, 20),
        ("unproven", 257, 512),
        ("altered", 600, 600),
        ("file", 0, 0),
    ]
    assert name in str(report.findings[-1])


def test_findings_read_as_sentences() -> None:
    """For people."""
    assert str(Finding(Kind.MISSING, 5, 5)) == "record 5: missing"
    assert str(Finding(Kind.INSERTED, 5, 7, "as 9")) == "records 5 to 7: inserted, as 9"
    assert str(Finding(Kind.FILE, 0, 0, "tile/0/000: altered")) == "file tile/0/000: altered"


def test_every_changed_byte_of_every_tile_is_found(tmp_path: Path) -> None:
    """No byte of a file of hashes can be another one."""
    log = Log.make(tmp_path, [record(seq) for seq in range(1, 259)])
    for path in sorted(p for p in (tmp_path / "tile").rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for at in range(0, len(whole), 1 if len(whole) < 1000 else 97):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            report = audit(enumerate(log.records, 1), *checked(log))
            assert {finding.kind for finding in report.findings} == {Kind.FILE}
        path.write_bytes(whole)
    assert audit(enumerate(log.records, 1), *checked(log)).holds


def checked(log: Log) -> tuple[Checkpoint, TileReader]:
    """What records are held against, whatever became of the tiles."""
    frontier = Frontier()
    frontier.extend(map(leaf_hash, log.records))
    return Checkpoint(ORIGIN, log.size, frontier.root()), log.tiles()
