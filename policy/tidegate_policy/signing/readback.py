"""Reading a ledger back: what the broker gives against what the writer signed of it.

Heads tell what the records must be. The hashes of those that lead to them are kept, as tiles; what
does not hold is raised, and leaves them as they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

import msgspec

from tidegate_bus.bulk import BulkReader
from tidegate_bus.frames import Entry
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note
from tidegate_evidence.tiles import WIDTH, TileReader, TileWriter
from tidegate_evidence.tree import HASH_BYTES, Frontier, leaf_hash, tree_hash
from tidegate_schemas.errors import LedgerGap, VerificationError

from .alarms import Finding, Located, Mismatch, What
from .head_reader import Head, HeadReader, Mark

_SPOOL_BYTES = 8 * 1024 * 1024


class _Own(msgspec.Struct):
    """What a record says of where it stands."""

    seq: int
    log: str


class Readback:
    """What was read back of one log. It is of no use any more when it has raised.

    Args:
        reader: of the broker.
        heads: what the writer signed.
        folder: of the tiles.
        published: the newest checkpoint. It goes on from there, as the tiles have it.
        go_on: called now and then; it may raise to stop.
        anew: do not go on from the tiles: all is read, and must lead to that checkpoint.

    Raises:
        VerificationError: the tiles are not those of the checkpoint.
    """

    def __init__(
        self,
        reader: BulkReader,
        heads: HeadReader,
        folder: Path,
        published: tuple[Note, Checkpoint] | None,
        go_on: Callable[[], None],
        *,
        anew: bool = False,
    ) -> None:
        self._reader = reader
        self._heads = heads
        self._folder = folder
        self._published = published
        self._go_on = go_on
        self._decoder = msgspec.json.Decoder(_Own)
        self.head: Head | None = None
        """The newest that holds."""
        self._seen = 0
        """Its sequence."""
        self._ahead: dict[int, list[Mark]] = {}
        """What was signed of more records than the newest head, by size."""
        size = published[1].size if published and not anew else 0
        self._frontier = TileReader(folder, size).frontier()
        if published and not anew and self._frontier.root() != published[1].root:
            raise VerificationError("they are not those of the checkpoint")
        self.tiles = TileWriter(folder, size)

    def follow(self, newest: Entry) -> None:
        """Go on to what the writer published last.

        Raises:
            Mismatch: it is no head, contradicts another, or the records do not lead to it.
            VerificationError: the tiles do not hold.
            Unavailable: the broker does not answer.
            OSError: the disk does not take it.
        """
        if self.head and newest.seq == self._seen:
            return
        head = self._verified(newest)
        marks = self._between(newest.seq)
        if head.checkpoint.size > self._frontier.size:
            self._extend(head, marks)
        elif not self._is_past(head.checkpoint.size, head.checkpoint.root):
            raise self._contradiction(head.checkpoint.size, head.data)
        # What was signed of records that are still to come is compared when they have come.
        self._ahead = {
            size: signed
            for size, found in marks.items()
            if size > head.checkpoint.size
            and (signed := [mark for mark in found if self._heads.signed(mark)])
        }
        self._seen, self.head = newest.seq, head

    # What the writer says

    def _verified(self, entry: Entry) -> Head:
        try:
            return self._heads.verified(entry.payload)
        except VerificationError as error:
            raise Mismatch(
                Finding(
                    What.HEAD,
                    f"what the writer published last is no head of it: {error}",
                    evidence={"head": entry.payload},
                )
            ) from error

    def _between(self, newest: int) -> dict[int, list[Mark]]:
        """Heads since the last look, by size; their signatures are not checked yet.

        They tell where the first difference is, and whether the writer signed two histories.

        Raises:
            Mismatch: one is of records that were checked, and of others than these.
        """
        found = self._ahead
        after = self._seen if self._seen < newest else 0
        for size, mark in self._heads.since(after):
            self._go_on()
            if size > self._frontier.size:
                found.setdefault(size, []).append(mark)
            elif after and not self._is_past(size, mark.root) and self._heads.signed(mark):
                raise self._contradiction(size, mark.data)
        return found

    def _is_past(self, size: int, root: bytes) -> bool:
        """Whether the records that were checked begin with a tree."""
        whole = self._frontier.size
        if size == whole:
            return root == self._frontier.root()
        return root == tree_hash(size, TileReader(self._folder, whole).node)

    def _contradiction(self, size: int, data: bytes) -> Mismatch:
        """The writer signed something else than it has signed before."""
        checked = self._frontier.size
        if size == checked:
            what, detail = What.FORK, f"the writer signed two histories of {size} records"
        else:
            what = What.ROLLBACK
            detail = f"the writer signed {checked} records, and then {size} that do not begin them"
        return Mismatch(Finding(what, detail, evidence={"head": data}))

    # What the broker says

    def _extend(self, head: Head, marks: dict[int, list[Mark]]) -> None:
        """Read the records up to a head; keep their hashes if they lead to it.

        Raises:
            Mismatch: they do not.
        """
        size, root = head.checkpoint.size, head.checkpoint.root
        stops = {at: found for at, found in marks.items() if at <= size}
        stops.setdefault(size, []).append(Mark(root, head.data))  # it may be gone meanwhile
        frontier = self._frontier.copy()
        with SpooledTemporaryFile(_SPOOL_BYTES, dir=str(self._folder)) as spool:
            try:
                self._fold(frontier, size, stops, spool)
            except LedgerGap as gap:
                raise Mismatch(
                    Finding(
                        What.MISSING,
                        f"record {gap.expected} is not there; the writer signed {size}",
                        Located(gap.expected, gap.expected, "the sequences of the stream"),
                        {"head": head.data},
                    )
                ) from gap
            spool.seek(0)
            self.tiles.extend(_leaves(spool))
        self.tiles.sync()
        self._frontier = frontier

    def _fold(
        self, frontier: Frontier, size: int, stops: dict[int, list[Mark]], spool: IO[bytes]
    ) -> None:
        if self._published and self._published[1].size > frontier.size:
            # What is read anew leads to what was published.
            note, ours = self._published
            stops.setdefault(ours.size, []).append(Mark(ours.root, note.encode(), ours=True))
        order = deque(sorted(at for at in stops if at <= size))
        good = frontier.size
        for entries in self._reader.read(frontier.size + 1, size):
            self._go_on()
            for entry in entries:
                self._check_record(entry)
            leaves = [leaf_hash(entry.payload) for entry in entries]
            spool.write(b"".join(leaves))
            position = 0
            while position < len(leaves):
                part = leaves[position : position + order[0] - frontier.size]
                frontier.extend(part)
                position += len(part)
                if frontier.size == order[0]:
                    self._compare(frontier, stops[order.popleft()], good)
                    good = frontier.size

    def _check_record(self, entry: Entry) -> None:
        try:
            own = self._decoder.decode(entry.payload)
            same = own.seq == entry.seq and own.log == self._heads.log
        except msgspec.MsgspecError:
            same = False
        if not same:
            raise Mismatch(
                Finding(
                    What.RECORD,
                    f"record {entry.seq} does not say of itself that it is that one of "
                    f"{self._heads.log}",
                    Located(entry.seq, entry.seq, "what it says"),
                    {f"record-{entry.seq}": entry.payload},
                )
            )

    def _compare(self, frontier: Frontier, marks: list[Mark], good: int) -> None:
        """See whether heads of this size have the root of what was read.

        Args:
            frontier: of what was read.
            marks: what was published of that size.
            good: up to which record heads have agreed.

        Raises:
            Mismatch: one that the writer signed has another root.
        """
        root, size = frontier.root(), frontier.size
        others = [mark.data for mark in marks if mark.root != root and self._heads.signed(mark)]
        if not others:
            return
        agreeing = [mark.data for mark in marks if mark.root == root and self._heads.signed(mark)]
        if agreeing:
            raise Mismatch(
                Finding(
                    What.FORK,
                    f"the writer signed two histories of {size} records",
                    evidence={"head": others[0], "head-other": agreeing[0]},
                )
            )
        raise Mismatch(
            Finding(
                What.ROOT,
                f"records {good + 1} to {size} are not those that the writer signed",
                Located(good + 1, size, "heads"),
                {"head": others[0], "root": root.hex().encode() + b"\n"},
            )
        )


def _leaves(spool: IO[bytes]) -> Iterator[bytes]:
    while piece := spool.read(HASH_BYTES * WIDTH):
        yield from (piece[at : at + HASH_BYTES] for at in range(0, len(piece), HASH_BYTES))
