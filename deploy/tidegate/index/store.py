"""The file of the index: SQLite, one writer, any readers (its write-ahead log lets them be).

meta      version; sequence and SHA-256 of the last record that is in it
names     texts that come again and again, by what they are used for
records   a row for each record
strides   in which stretches of the ledger a sender or a destination is, see `glance.STRIDE_BITS`
keys      a number for each id that a record is found by, see `glance.key`
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Self

import msgspec

from tidegate_bus.frames import Entry
from tidegate_schemas.errors import LedgerError, Unavailable
from tidegate_schemas.subjects import Kind

from .glance import KINDS, STRIDE_BITS, VERDICTS, Clock, Glance, keys, why

VERSION = 2
"""Of the tables. Another number makes every index there is be made again."""

_SCHEMA = f"""
PRAGMA page_size = 8192;
CREATE TABLE meta (version INTEGER NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
CREATE TABLE names (
    id INTEGER PRIMARY KEY, use TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (use, text)
) STRICT;
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, sender INTEGER NOT NULL, kind INTEGER NOT NULL,
    destination INTEGER NOT NULL, verdict INTEGER NOT NULL, why INTEGER NOT NULL, id TEXT,
    source INTEGER, correlation TEXT, causation TEXT, causation_source INTEGER, run TEXT,
    first INTEGER
) STRICT;
CREATE INDEX verdicts ON records (verdict) WHERE verdict != 0;
CREATE INDEX controls ON records (kind) WHERE kind = {KINDS.index(Kind.CONTROL)};
CREATE TABLE strides (
    name INTEGER NOT NULL, stride INTEGER NOT NULL, PRIMARY KEY (name, stride)
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (key INTEGER PRIMARY KEY) STRICT;
INSERT INTO meta VALUES ({VERSION}, 0, x'');
"""  # noqa: S608 - numbers of this program
_KINDS = {kind: number for number, kind in enumerate(KINDS)}
_VERDICTS = {verdict: number for number, verdict in enumerate(VERDICTS)}
_CACHE_KIB = 64 * 1024
_CHECKPOINT_PAGES = 4_000
_USES = ("by", "to", "why", "source")
_PASSING = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM),
)
"""Errors that are of the disk or the moment, not of the file."""
_MOST_NAMES = 50_000
_BUSY_SECONDS = 5.0


class IndexWriter:
    """The one that writes. Make it with `open`, close it; every call is of the same thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Strictly private: use `open`."""
        self._connection = connection
        self._path = path
        self._names: dict[str, dict[str, int]] = {use: {} for use in _USES}
        self._stride = -1
        self._present: set[int] = set()
        self.seq = self._number("SELECT seq FROM meta")
        """Of the last record in it."""
        self._clock = Clock(self._number("SELECT coalesce(max(time), 0) FROM records"))
        self._file = _identity(path)

    def is_there(self) -> bool:
        """Whether the file that is written is still the one that others open."""
        try:
            return _identity(self._path) == self._file
        except FileNotFoundError:
            return False

    @classmethod
    def open(cls, path: Path, record: Callable[[int], bytes | None]) -> Self:
        """The index in a file, as far as it is to be believed; an empty one otherwise.

        Args:
            path: of the file.
            record: gives a record of the ledger by its sequence; None where there is none.

        Raises:
            Unavailable: the file cannot be written.
        """
        if path.exists():
            try:
                found = cls(_connect(path), path)
                if found._is_of(record):
                    return found
                found.close()
            except sqlite3.Error as error:
                if error.sqlite_errorcode & 0xFF in _PASSING:  # the file may be as good as it was
                    raise Unavailable(f"{path}: {error}") from error
        return cls.anew(path)

    @classmethod
    def anew(cls, path: Path) -> Self:
        """An empty index; what there was before is gone.

        Raises:
            Unavailable: the file cannot be written.
        """
        part = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for name in (part.name, path.name):
                for end in ("", "-wal", "-shm"):
                    path.with_name(name + end).unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(part)) as connection:
                connection.executescript(_SCHEMA)
            part.chmod(0o600)
            part.rename(path)
            return cls(_connect(path), path)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"{path}: {error}") from error

    def add(self, entries: list[Entry], glances: list[Glance]) -> None:
        """Add the next records, all of them or none.

        Args:
            entries: without gap, the first one right after `seq`.
            glances: of them.

        Raises:
            LedgerError: they are not the next ones.
            sqlite3.Error: the file does not take them, or is damaged.
        """
        if not entries:
            return
        if entries[0].seq != self.seq + 1 or len(entries) != len(glances):
            raise LedgerError(f"record {entries[0].seq} does not follow {self.seq} in the index")
        last = entries[-1]
        with self._all_or_nothing() as connection:
            new: list[tuple[int, int]] = []
            rows = [self._row(glance, new) for glance in glances]
            connection.executemany(_INSERT, rows)
            connection.executemany("INSERT OR IGNORE INTO strides VALUES (?, ?)", new)
            connection.executemany("INSERT OR IGNORE INTO keys VALUES (?)", keys(glances))
            state = (last.seq, _digest(last.payload))
            connection.execute("UPDATE meta SET seq = ?, digest = ?", state)
        self.seq = last.seq

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _row(self, row: Glance, new: list[tuple[int, int]]) -> tuple[object, ...]:
        """A row of `records`; what it adds to `strides` is added to `new`."""
        message = row.envelope
        sender, destination = self._name("by", row.by), self._name("to", row.to)
        stride = row.seq >> STRIDE_BITS
        if stride != self._stride:
            self._stride = stride
            self._present.clear()
        for name in (sender, destination):
            if name not in self._present:
                self._present.add(name)
                new.append((name, stride))
        return (
            row.seq,
            self._clock.read(row.time),
            sender,
            _KINDS[row.kind],
            destination,
            _VERDICTS[row.verdict],
            self._name("why", why(row)),
            message.id,
            self._source(message.source),
            message.correlationid,
            message.causationid,
            self._source(message.causationsource),
            message.runid,
            row.first,
        )

    def _source(self, text: str | None) -> int | None:
        return None if text is None else self._name("source", text)

    def _name(self, use: str, text: str) -> int:
        known = self._names[use]
        found = known.get(text)
        if found is None:
            if len(known) >= _MOST_NAMES:  # somebody makes up names
                known.clear()
            self._connection.execute("INSERT OR IGNORE INTO names VALUES (NULL, ?, ?)", (use, text))
            query = "SELECT id FROM names WHERE use = ? AND text = ?"
            found = known[text] = self._number(query, use, text)
        return found

    def _is_of(self, record: Callable[[int], bytes | None]) -> bool:
        """Whether it is whole, of this version, and its last record is that of the ledger."""
        version, seq, digest = self._connection.execute("SELECT * FROM meta").fetchone()
        if version != VERSION:
            return False
        (said,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        payload = record(seq) if seq else b""
        return said == "ok" and (not seq or (payload is not None and _digest(payload) == digest))

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Generator[sqlite3.Connection]:
        self._connection.execute("BEGIN")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            for known in self._names.values():  # some of them may not be there
                known.clear()
            self._stride = -1
            if self._connection.in_transaction:  # a full disk may have ended it already
                self._connection.execute("ROLLBACK")
            raise

    def _number(self, query: str, *values: str) -> int:
        (found,) = self._connection.execute(query, values).fetchone()
        return int(found)


_INSERT = f"INSERT INTO records VALUES ({', '.join('?' * 14)})"  # noqa: S608 - question marks


def _connect(path: Path) -> sqlite3.Connection:
    """For the writer. Nothing is lost that the ledger does not have, so no write waits for a disk.

    What is in the file is in order also after the power failed: only its last records may be gone.
    """
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"cache_size=-{_CACHE_KIB}",
        f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()


def read_all(entries: Iterable[Entry], look: Callable[[bytes], Glance]) -> list[Glance]:
    """What the index keeps of records.

    Raises:
        LedgerError: one is none, or not the one that it is stored as.
    """
    found: list[Glance] = []
    for seq, payload in entries:
        try:
            row = look(payload)
        except msgspec.MsgspecError as error:
            raise LedgerError(f"ledger record {seq} is not of a gateway: {error}") from error
        if row.seq != seq:
            raise LedgerError(f"ledger record {seq} bears the sequence {row.seq}")
        found.append(row)
    return found


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
