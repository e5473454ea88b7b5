"""Looking things up in the index. Any process may, also while another one writes it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tidegate_schemas.errors import Unavailable
from tidegate_schemas.subjects import Kind, Principal, Verdict

from .glance import KINDS, PLACES, SEGMENT_BITS, STRIDE_BITS, VERDICTS, Key, Row, key, row_of

ROWS = """
SELECT r.seq, r.time, s.text, r.kind, d.text, r.verdict, w.text, r.id, o.text, r.correlation,
    r.causation, c.text, r.run, r.first
FROM records r JOIN names s ON s.id = r.sender JOIN names d ON d.id = r.destination
    JOIN names w ON w.id = r.why LEFT JOIN names o ON o.id = r.source
    LEFT JOIN names c ON c.id = r.causation_source
"""
_AMONG = """
WHERE r.seq IN (SELECT ? + (key & ?) FROM keys WHERE key BETWEEN ? AND ?)
"""
_BY_KEY = "JOIN keys k ON r.seq = ? + (k.key & ?) WHERE k.key BETWEEN ? AND ?"
# With numbers in the text, and as the index says it: SQLite takes a partial index only where it
# finds its own condition.
KIND_IS = {kind: f"r.kind = {number} AND ?" for number, kind in enumerate(KINDS)}
VERDICT_IS = {
    verdict: f"r.verdict = {number} AND {'r.verdict != 0 AND ' if number else ''}?"
    for number, verdict in enumerate(VERDICTS)
}
_STRIDE = 25_000
"""Records that are looked through at once, where it is not known who is among them."""
_PATIENCE_SECONDS = 0.03
_BUSY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Filter:
    """What is looked for; what is None may be anything.

    Attributes:
        by, to, kind, verdict: of the record.
        correlation, id: of the envelope.
        since, until: ns since 1970; decided then or later, and before.
    """

    by: str | None = None
    to: str | None = None
    kind: Kind | None = None
    verdict: Verdict | None = None
    correlation: str | None = None
    id: str | None = None
    since: int | None = None
    until: int | None = None


class Page(NamedTuple):
    """Some of what was found.

    Attributes:
        rows: the newest first.
        reached: the search has looked at all records from there on; 1 is all of them. Where few
            records are what is looked for, it ends before the page is full.
    """

    rows: list[Row]
    reached: int


class LedgerIndex:
    """Reads the index in a file, which need not be there yet: then it is empty.

    Raises, all methods:
        Unavailable: the file cannot be read, or is damaged; it is made anew at the next start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def seq(self) -> int:
        """Sequence of the last record in it."""
        found = self._all("SELECT seq FROM meta")
        return int(found[0][0]) if found else 0

    def row(self, seq: int) -> Row | None:
        """One record."""
        return next(self._rows("WHERE r.seq = ?", (seq,)), None)

    def find(self, by: str | Principal, id: str, source: str | None = None) -> Row | None:
        """The first record of an envelope: neither a duplicate nor the end of a wait.

        Args:
            by: who sent it.
            id: of the envelope.
            source: of the envelope; without one, the first of that id is found.
        """
        where, values = "r.id = ? AND s.text = ? AND r.first IS NULL", [id, str(by)]
        if source is not None:
            where, values = f"{where} AND o.text = ?", [*values, source]
        return self._first(Key.ID, id, where, *values)

    def answer(self, to: str | Principal, causation: str) -> Row | None:
        """The result of a task, by who asked and the id of the envelope.

        That is what a task is known by, see `Envelope.key`; what names a source too answers an
        event.
        """
        for row in self._by_key(Key.ANSWER, causation):
            found = (row.causation, row.causation_source, row.to, row.verdict)
            if found == (causation, None, str(to), Verdict.ALLOW):
                return row
        return None

    def following(self, seq: int) -> list[Row]:
        """Records that refer to one as their first: how its wait ended, and its duplicates."""
        return [row for row in self._by_key(Key.FIRST, str(seq)) if row.first == seq]

    def end(self, seq: int) -> Row | None:
        """What ended the wait of a record, if it waited and does no more."""
        number = VERDICTS.index(Verdict.DUPLICATE)
        return self._first(Key.FIRST, str(seq), f"r.first = ? AND r.verdict != {number}", seq)

    def caused(self, row: Row) -> list[Row]:
        """Results of a message, and what else of its correlation it was the cause of."""
        if row.id is None:
            return []
        found = {r.seq: r for r in self._by_key(Key.ANSWER, row.id)}
        found |= {r.seq: r for r in self.story(row.correlation or row.id)}
        return [r for _, r in sorted(found.items()) if _may_follow(row, r)]

    def cause(self, row: Row) -> Row | None:
        """What a message names as its cause, before it; admitted rather than not."""
        if row.causation is None:
            return None
        found = [r for r in self._by_key(Key.ID, row.causation) if r.seq < row.seq]
        found = [r for r in found if _may_follow(r, row)]
        return max(found, key=lambda r: (r.verdict is Verdict.ALLOW, -r.seq), default=None)

    def story(self, correlation: str, most: int = 10_000) -> list[Row]:
        """The records of a correlation id, and those of the envelope that began it, in order."""
        found: dict[int, Row] = {}
        for of in (Key.ID, Key.CORRELATION):
            for row in self._by_key(of, correlation):
                if correlation in (row.id, row.correlation):
                    found[row.seq] = row
                if len(found) >= most:
                    break
        return [row for _, row in sorted(found.items())]

    def names(self, use: str) -> list[str]:
        """Everybody who is the sender (`by`) of a record, or its destination (`to`)."""
        return [
            text for (text,) in self._all("SELECT text FROM names WHERE use = ? LIMIT 1000", use)
        ]

    def search(self, wanted: Filter, before: int | None = None, limit: int = 50) -> Page:
        """Records, the newest first.

        It looks as long as a person would not notice, and says how far it has looked.

        Args:
            wanted: which.
            before: only older ones than this sequence.
            limit: at most so many.
        """
        conditions: list[tuple[str, int | str]] = []
        names: list[int] = []
        for column, use, name in (("sender", "by", wanted.by), ("destination", "to", wanted.to)):
            if name is None:
                continue
            known = self._all("SELECT id FROM names WHERE use = ? AND text = ?", use, name)
            if not known:
                return Page([], 1)
            names.append(known[0][0])
            conditions.append((f"r.{column} = ?", known[0][0]))
        if wanted.kind:
            conditions.append((KIND_IS[wanted.kind], 1))
        if wanted.verdict:
            conditions.append((VERDICT_IS[wanted.verdict], 1))
        first = 1 if wanted.since is None else self._since(wanted.since)
        end = self.seq() + 1 if before is None else before
        if wanted.until is not None:
            end = min(end, self._since(wanted.until))
        if wanted.id is not None:
            conditions.append(("r.id = ?", wanted.id))
            return self._among(Key.ID, wanted.id, conditions, first, end, limit)
        if wanted.correlation is not None:
            conditions.append(("r.correlation = ?", wanted.correlation))
            return self._among(Key.CORRELATION, wanted.correlation, conditions, first, end, limit)
        return self._back(conditions, self._stretches(names, first, end), limit)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _stretches(self, names: list[int], first: int, end: int) -> Iterator[tuple[int, int]]:
        """Where to look, the last one first; each from a sequence on, and before another."""
        if not names:
            for top in range(end, first, -_STRIDE):
                yield max(first, top - _STRIDE), top
            return
        several = "SELECT stride FROM strides WHERE name = ? AND stride BETWEEN ? AND ?"
        span = first >> STRIDE_BITS, end - 1 >> STRIDE_BITS
        query = " INTERSECT ".join([several] * len(names))
        values = [value for name in names for value in (name, *span)]
        for (stride,) in self._all(f"{query} ORDER BY stride DESC", *values):
            begin = stride << STRIDE_BITS
            yield max(first, begin), min(end, begin + (1 << STRIDE_BITS))

    def _back(
        self,
        conditions: list[tuple[str, int | str]],
        stretches: Iterator[tuple[int, int]],
        limit: int,
    ) -> Page:
        """Go back until there are enough, or time is over."""
        where = " AND ".join(["r.seq >= ? AND r.seq < ?", *(text for text, _ in conditions)])
        values = [value for _, value in conditions]
        over = time.perf_counter() + _PATIENCE_SECONDS
        rows: list[Row] = []
        for begin, end in stretches:
            tail = f"WHERE {where} ORDER BY r.seq DESC LIMIT {limit - len(rows)}"
            rows += self._rows(tail, (begin, end, *values))
            if len(rows) == limit:
                return Page(rows, rows[-1].seq)
            if time.perf_counter() > over:
                return Page(rows, begin)
        return Page(rows, 1)

    def _among(
        self,
        of: int,
        text: str,
        conditions: list[tuple[str, int | str]],
        first: int,
        end: int,
        limit: int,
    ) -> Page:
        """Those that a key stands for."""
        where = " AND ".join(text for text, _ in conditions)
        values = [value for _, value in conditions]
        rows: list[Row] = []
        for segment in range(end - 1 >> SEGMENT_BITS, (first >> SEGMENT_BITS) - 1, -1):
            tail = f"{_AMONG} AND {where} ORDER BY r.seq DESC LIMIT {limit}"
            base = segment << SEGMENT_BITS
            least = max(first, base)
            most = min(end - 1, base | PLACES)
            span = key(of, text, least), key(of, text, most)
            rows += self._rows(tail, (base, PLACES, *span, *values))
            if len(rows) >= limit:
                return Page(rows[:limit], rows[limit - 1].seq)
        return Page(rows, 1)

    def _by_key(self, of: int, text: str) -> Iterator[Row]:
        """The records that a key stands for, and perhaps others, in order."""
        for span in self._spans(of, text):
            yield from self._rows(f"{_BY_KEY} ORDER BY k.key", span)

    def _first(self, of: int, text: str, where: str, *values: object) -> Row | None:
        """The first of them of which something is so; however many there are, one is read."""
        for span in self._spans(of, text):
            tail = f"{_BY_KEY} AND {where} ORDER BY k.key LIMIT 1"
            for row in self._rows(tail, (*span, *values)):
                return row
        return None

    def _spans(self, of: int, text: str) -> Iterator[tuple[int, int, int, int]]:
        """Values for `_BY_KEY`, segment by segment."""
        for segment in range((self.seq() >> SEGMENT_BITS) + 1):
            base = segment << SEGMENT_BITS
            yield base, PLACES, key(of, text, base), key(of, text, base | PLACES)

    def _since(self, moment: int) -> int:
        """Sequence of the first record decided then or later; of the next one if there is none.

        By halves: times are in order, see `Row`.
        """
        low, high = 1, self.seq() + 1
        while low < high:
            middle = (low + high) // 2
            found = self._all("SELECT time FROM records WHERE seq = ?", middle)
            if found and found[0][0] < moment:
                low = middle + 1
            else:
                high = middle
        return low

    def _rows(self, tail: str, values: tuple[object, ...]) -> Iterator[Row]:
        yield from map(row_of, self._all(ROWS + tail, *values))

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            connection = self._opened()
            return connection.execute(query, values).fetchall() if connection else []
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise Unavailable(
                f"{self._path}: {error}; the index of the ledger is made anew at the next start"
            ) from error

    def _opened(self) -> sqlite3.Connection | None:
        """A connection to the file that is there now: the writer may have begun another one."""
        try:
            state = self._path.stat()
        except FileNotFoundError:
            self.close()
            return None
        if (file := (state.st_dev, state.st_ino)) != self._file:
            self.close()
        if self._connection is None:
            uri = f"{self._path.absolute().as_uri()}?mode=rw"
            self._connection = sqlite3.connect(
                uri, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
            )
            self._connection.execute("PRAGMA query_only=ON")
            self._file = file
        return self._connection


def _may_follow(cause: Row, row: Row) -> bool:
    """Whether a record can be what another one names as its cause, see `Envelope.key`."""
    if row.causation is None or row.causation != cause.id:
        return False
    if row.kind is Kind.RESULT and cause.by != row.to:  # who is answered
        return False
    if row.causation_source is None:
        return row.kind is not Kind.RESULT or cause.kind is Kind.TASK
    return row.causation_source == cause.source
