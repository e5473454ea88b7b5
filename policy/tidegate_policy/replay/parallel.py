"""What-if over a long stretch of the ledger, in several processes.

The stretch is cut into pieces; each worker reads the next piece by itself and judges it, with the
commands before it folded once. Findings come together in ledger order.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from pathlib import Path

from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.frames import Entry
from tidegate_policy.bundle import Bundle
from tidegate_policy.personal.privacy import NOTHING
from tidegate_policy.personal.vault import Vault
from tidegate_policy.roster import BUILT_IN
from tidegate_schemas.errors import Unavailable

from .past import Past, filters
from .tally import Tally
from .whatif import WhatIf

PIECE = 2_500


@dataclass(frozen=True, slots=True)
class Stretch:
    """What to look at, and with which bundle; can be sent to another process.

    Attributes:
        access: to the ledger.
        files: of the bundle.
        first, last: sequences; `last` must be there already.
        vault: keys of personal data, where they are at hand.
        partition: whose ledger it is.
    """

    access: Access
    files: Mapping[str, str]
    first: int
    last: int
    vault: Path | None = None
    partition: int = 0

    def pieces(self, length: int) -> Iterator[tuple[int, int]]:
        """First and last sequence of each piece."""
        for first in range(self.first, self.last + 1, length):
            yield first, min(first + length - 1, self.last)


def what_if(
    stretch: Stretch, processes: int, on_progress: Callable[[int], None] = lambda _: None
) -> Tally:
    """Findings over the stretch.

    Args:
        stretch: where, and by which bundle.
        processes: how many work at once; 1 works in this one.
        on_progress: called with the number of records that are done.

    Raises:
        InvalidPolicy: the bundle does not load.
        LedgerError: a record is missing, or not of a gateway.
        Unavailable: the broker does not answer, or a worker was killed.
    """
    Bundle.of_files(stretch.files)  # each worker loads it; it fails here first
    tally = Tally()
    pieces = list(stretch.pieces(PIECE))
    changes = read_changes(stretch)
    if processes <= 1 or len(pieces) <= 1:
        with _Worker.open(stretch, changes) as worker:
            for piece in pieces:
                tally.merge(worker.piece(*piece))
                on_progress(tally.records)
        return tally
    with _pool(stretch, changes, min(processes, len(pieces))) as pool:
        found: list[Future[Tally]] = [pool.submit(_piece, *piece) for piece in pieces]
        try:
            for future in found:
                tally.merge(future.result())
                on_progress(tally.records)
        except BrokenProcessPool as error:
            raise Unavailable("a worker was killed, or has not enough memory") from error
        finally:
            for future in found:
                future.cancel()
    return tally


def read_changes(stretch: Stretch) -> list[Entry]:
    """The commands up to the end of the stretch that `Past` is a fold of."""
    with BulkReader(stretch.access, stretch.partition) as reader:
        return [
            entry
            for pattern in filters(stretch.partition)
            for entries in reader.read(1, stretch.last, filter=pattern)
            for entry in entries
        ]


class _Worker:
    """Reads and judges pieces, one after the other."""

    def __init__(self, reader: BulkReader, judge: WhatIf) -> None:
        self._reader = reader
        self._judge = judge

    @classmethod
    @contextmanager
    def open(cls, stretch: Stretch, changes: list[Entry]) -> Generator[_Worker]:
        """A worker with a connection of its own."""
        past = Past(_enforced(stretch.files).snapshot(BUILT_IN), changes)
        keys = Vault.read(stretch.vault) if stretch.vault else None
        with BulkReader(stretch.access, stretch.partition) as reader, keys or nullcontext():
            yield cls(reader, WhatIf(past, keys or NOTHING))

    def piece(self, first: int, last: int) -> Tally:
        """Findings over a piece."""
        tally = Tally()
        for entries in self._reader.read(first, last):
            tally.merge(self._judge.tally(entries))
        return tally


@contextmanager
def _pool(stretch: Stretch, changes: list[Entry], processes: int) -> Generator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(processes, _context(), _begin, (stretch, changes)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _enforced(files: Mapping[str, str]) -> Bundle:
    """A bundle without what it does not enforce: nobody asks here what that would do."""
    bundle = Bundle.of_files(files)
    return replace(bundle, rules={n: r for n, r in bundle.rules.items() if not r.shadow})


def _context() -> BaseContext:
    """How worker processes are made: by fork, which is ready at once, if that is safe here."""
    if sys.platform == "linux" and threading.active_count() == 1:
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


_worker: _Worker | None = None


def _begin(stretch: Stretch, changes: list[Entry]) -> None:
    """In a worker process, once; it ends with its connection."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it ends it
    _worker = _Worker.open(stretch, changes).__enter__()


def _piece(first: int, last: int) -> Tally:
    assert _worker
    return _worker.piece(first, last)
