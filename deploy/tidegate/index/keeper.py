"""Follows the ledger, writes the index, and tells whoever in this process wants to hear of it.

Several processes keep an index for themselves; one of them, whoever has the lock, writes it. The
others stand by, and still tell their listeners of every record.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import structlog

from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.connection import Connection
from tidegate_bus.frames import Entry
from tidegate_bus.message import Message
from tidegate_schemas import subjects
from tidegate_schemas.errors import LedgerError, TidegateError, Unavailable

from .glance import Glance, glance
from .store import IndexWriter, read_all

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.index")

_LOOK_SECONDS = 1.0
"""How often it looks by itself, in case a hint was lost."""
_PAUSE_SECONDS = 0.03
"""What comes within it is taken together: a look costs more than a record."""
_RETRY_SECONDS = 0.5
_WRITE_AGAIN_SECONDS = 3.0
"""After the file did not take something."""
_FILL_SECONDS = 1.0
"""How long it writes what listeners have heard of already, before it looks what is new."""


class Batch(NamedTuple):
    """Some records that follow each other, as they are stored, and what the index keeps of them."""

    entries: list[Entry]
    glances: list[Glance]


Listener = Callable[[Batch], None]
"""Is called in a thread, with the records of the ledger, each once, in order; from the first one
on, or from where it was said to begin.
"""


class _Stopped(Exception):
    pass


class IndexKeeper:
    """Keeps the index of one ledger. Use `run`, once; then `close` it.

    Without listeners nothing is read that the index has already. With them, they come first: where
    the index lags behind, or cannot be written, they hear of records all the same.

    Args:
        access: to the ledger.
        connection: hears that the ledger grew.
        path: of the index.
        pause: seconds between two looks; what comes within them is taken together.

    Attributes:
        seq: of the last record that the listeners have heard of, or that is in the index.
        trouble: why nothing is read; empty while something is.
        unwritten: why the index is not written; empty while it is, also by another process.
    """

    def __init__(
        self,
        access: Access,
        connection: Connection,
        path: Path,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        self._reader = BulkReader(access)
        self._connection = connection
        self._path = path
        self._pause = pause
        self._listeners: list[Listener] = []
        self._writer: IndexWriter | None = None
        self._lock: BinaryIO | None = None
        self._stopping = threading.Event()
        self._caught_up = asyncio.Event()
        self._broken: LedgerError | None = None
        self._write_after = 0.0
        self._filling = False
        self._told = False
        self.seq = 0
        self.trouble = ""
        self.unwritten = ""

    def listen(self, listener: Listener) -> None:
        """Tell somebody of all records too; to be said before `run`."""
        self._listeners.append(listener)

    def begin_after(self, seq: int) -> None:
        """The listeners know of all records up to this one; to be said before `run`."""
        self.seq = seq

    async def run(self) -> None:
        """Work until cancelled. What does not answer is asked again."""
        grew = asyncio.Event()

        def hint(_: Message) -> None:
            grew.set()

        hints = await self._connection.hear(subjects.tail(0), hint)
        try:
            while True:
                grew.clear()
                if await self._looked():
                    self._caught_up.set()
                    await asyncio.sleep(self._pause)
                else:
                    await asyncio.sleep(_RETRY_SECONDS)
                if self._filling:
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await grew.wait()
        finally:
            await self._connection.forget(hints)

    async def _looked(self) -> bool:
        """Look, in a thread, which does not go on after this has ended."""
        work = asyncio.create_task(asyncio.to_thread(self._look))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stopping.set()
            await work
            raise

    @property
    def ready(self) -> bool:
        """Whether it has once seen the end of the ledger, and told the listeners of it."""
        return self._told or self._caught_up.is_set()

    async def caught_up(self) -> None:
        """Wait until it has once seen the end of the ledger."""
        await self._caught_up.wait()

    def close(self) -> None:
        """Let go of everything; another process may write from now on."""
        self._stopping.set()
        self._reader.close()
        if self._writer:
            self._writer.close()
            self._writer = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def _look(self) -> bool:
        """Take in what is new; whether that went well."""
        why = ""
        try:
            self._step()
        except _Stopped:
            return False
        except (TidegateError, OSError) as error:
            why = str(error)
        if why and why != self.trouble:
            _log.warning("cannot follow the ledger", error=why)
        self.trouble = why
        return not why and not (self.unwritten and not self._listeners)

    def _step(self) -> None:
        if self._broken:
            raise self._broken
        if not self.seq:  # to open an index takes long if it is large, so only who knows nothing
            self._open()  # yet waits for it, and spares it to be read twice
        if self._listeners:
            for batch in self._batches(self.seq + 1, None):
                if self._writer and self._writer.seq >= self.seq:
                    self._write(batch)
                self._tell(batch)
                self.seq = batch.entries[-1].seq
            self._told = True
        self._open()
        self._fill()

    def _open(self) -> None:
        """See that there is an index to be written, if that is for this process to do."""
        if time.monotonic() < self._write_after:
            return
        with self._minding():
            if self._writer is None and self._locked():
                self._writer = IndexWriter.open(self._path, self._record)
            if self._writer and not self._writer.is_there():
                _log.warning("the index was taken away, and is made anew", path=str(self._path))
                self._begin_anew()

    def _fill(self) -> None:
        """Write what the index does not have, though the listeners have heard of it."""
        self._filling = False
        if self._writer is None or time.monotonic() < self._write_after:
            return
        if self._listeners and self._writer.seq >= self.seq:
            self.unwritten = ""
            return
        until = time.monotonic() + _FILL_SECONDS
        last = self.seq if self._listeners else None
        for batch in self._batches(self._writer.seq + 1, last):
            if not self._write(batch):
                return
            self.seq = max(self.seq, batch.entries[-1].seq)
            if self._listeners and time.monotonic() > until:
                self._filling = True
                return

    def _batches(self, first: int, last: int | None) -> Iterator[Batch]:
        for entries in self._reader.read(first, last):
            if self._stopping.is_set():
                raise _Stopped
            yield Batch(entries, read_all(entries, glance))

    def _tell(self, batch: Batch) -> None:
        """Tell the listeners; nobody hears of anything twice, so after an error of nothing more."""
        try:
            for listener in self._listeners:
                listener(batch)
        except LedgerError as error:
            self._broken = error
            raise

    def _write(self, batch: Batch) -> bool:
        """Write what the index does not have yet; whether it was taken."""
        if self._writer is None:
            return False
        with self._minding():
            new = self._writer.seq + 1 - batch.entries[0].seq
            if new < len(batch.entries):
                self._writer.add(batch.entries[new:], batch.glances[new:])
            self.unwritten = ""
            return True
        return False

    @contextlib.contextmanager
    def _minding(self) -> Generator[None]:
        """Whatever is wrong with the index ends here, and stops nobody who listens."""
        why = ""
        try:
            yield
        except sqlite3.OperationalError as error:  # the disk is full, a reader is slow
            why = f"{self._path}: {error}"
        except sqlite3.DatabaseError as error:
            why = f"the index is damaged, and made anew: {error}"
            self._begin_anew()
        except (Unavailable, OSError) as error:
            why = str(error)
        if why:
            self._write_after = time.monotonic() + _WRITE_AGAIN_SECONDS
            if why != self.unwritten:
                _log.warning("cannot keep the index", error=why)
            self.unwritten = why

    def _record(self, seq: int) -> bytes | None:
        """A record of the ledger, or None where it is shorter."""
        if seq > self._reader.last():
            return None
        return next(self._reader.read(seq, seq))[0].payload

    def _begin_anew(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
        with contextlib.suppress(Unavailable):  # is said at the next look
            self._writer = IndexWriter.anew(self._path)

    def _locked(self) -> bool:
        """Whether it is for this process to write."""
        if self._lock is None:
            path = self._path.with_name(f"{self._path.name}.lock")
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                self.unwritten = ""  # whoever has it sees to it
                return False
            self._lock = file
        return True
