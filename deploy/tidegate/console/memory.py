"""What the console knew of the ledger when it ended, so that it need not read all of it again.

It is never a source of truth: a memory of another ledger, of another version or a damaged one is
none, and the console reads from the first record on. Records that say more than is kept here are
read again, by their sequence.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from tidegate.index import Batch, Listener
from tidegate.runs import KnownRuns, Runs, spans
from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.frames import Entry
from tidegate_schemas.errors import LedgerError, TidegateError

from .bundles import Bundles
from .flow import Flow, KnownFlow

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.console")

VERSION = 1
"""Of what is kept, and of how the console folds it. Another number makes each memory none."""
_EVERY = 20_000
_EVERY_SECONDS = 10.0
_GAP = 40
"""Records up to so many apart are read at once."""


class Known(NamedTuple):
    """Figures, runs and policies, right after the record `seq`."""

    flow: Flow
    runs: Runs
    bundles: Bundles
    seq: int = 0


class _Kept(msgspec.Struct):
    version: int
    seq: int
    digest: bytes
    flow: KnownFlow
    runs: KnownRuns
    bundles: tuple[int, ...]


def recall(path: Path, access: Access) -> Known:
    """What was known; nothing, where there is no memory of this ledger.

    Args:
        path: of the file.
        access: to the ledger.
    """
    reader = BulkReader(access)
    try:
        kept = msgspec.msgpack.decode(path.read_bytes(), type=_Kept)
        if kept.version == VERSION and kept.seq <= reader.last():
            (last,) = _read(reader, [kept.seq])
            if _digest(last) == kept.digest:
                runs = Runs.of(kept.runs, kept.seq, _read(reader, kept.runs.records()))
                bundles = Bundles.of(_read(reader, kept.bundles))
                return Known(Flow.of(kept.flow), runs, bundles, kept.seq)
        _log.info("what was known is of another ledger", path=str(path))
    except FileNotFoundError:
        pass
    except (OSError, msgspec.MsgspecError, ValueError, TidegateError) as error:
        _log.warning("what was known cannot be used", path=str(path), error=str(error))
    finally:
        reader.close()
    return Known(Flow(), Runs(), Bundles())


class Memory:
    """Keeps what is known; a listener of `index.IndexKeeper`.

    Args:
        path: of the file.
        known: what it keeps.
        listeners: whom it tells of records: those whose knowledge it is. The last one to hear of a
            record may be looked at by others.
    """

    def __init__(self, path: Path, known: Known, listeners: Iterable[Listener]) -> None:
        self._path = path
        self._known = known
        self._listeners = tuple(listeners)
        self._saved = known.seq
        self._last: Entry | None = None
        self._due = 0.0

    def __call__(self, batch: Batch) -> None:
        """Tell of the next records, and keep what is known then."""
        self._last = None  # where one of them fails, nobody knows how far the others are
        for listener in self._listeners:
            listener(batch)
        self._last = batch.entries[-1]
        if self._last.seq - self._saved >= _EVERY and time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write the file, if there is anything new. What cannot be written is not remembered."""
        if self._last is None or self._last.seq == self._saved:
            return
        flow, runs, bundles, _ = self._known
        seq = self._saved = self._last.seq
        kept = _Kept(VERSION, seq, _digest(self._last), flow.known(), runs.known(), bundles.seqs())
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            part.touch(mode=0o600)
            part.write_bytes(msgspec.msgpack.encode(kept))
            part.replace(self._path)
        except OSError as error:
            _log.warning("what is known cannot be kept", path=str(self._path), error=str(error))
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        self._due = time.monotonic() + _EVERY_SECONDS


def _read(reader: BulkReader, seqs: Iterable[int]) -> list[Entry]:
    """These records, in order.

    Raises:
        LedgerError: there is no such record.
        Unavailable: see `BulkReader.read`.
    """
    wanted = sorted(set(seqs))
    if wanted and wanted[0] < 1:
        raise LedgerError(f"there is no record {wanted[0]}")
    found: list[Entry] = []
    among = set(wanted)
    for first, last in spans(wanted, _GAP):
        for entries in reader.read(first, last):
            found += [entry for entry in entries if entry.seq in among]
    return found


def _digest(entry: Entry) -> bytes:
    return hashlib.sha256(entry.payload).digest()
