"""Records held against a checkpoint: what is wrong, and where. Pure.

A record is known by its leaf: the tiles, which the checkpoint proves, say which leaf is whose. So
what was moved is told from what was altered. Where no tile helps, a record is taken to be the one
that it says it is, and the root of all of them tells whether all were.

How a record begins has one form (see `tidegate_schemas.record`), from which the log, the sequence,
the epoch and the submission that it answers are read:

    {"v":1,"log":"hello/0","seq":9,"time":"…","epoch":1,"in":{"seq":7,"n":0,"time":"…"},"by":"…
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from tidegate_schemas.errors import VerificationError

from .checkpoint import Checkpoint
from .proven import ProvenTiles
from .tiles import WIDTH, TileReader
from .tree import Frontier, leaf_hash, subtree

MAX_FINDINGS = 1_000
_LEVEL = 8  # of a whole tile's root
_STEP = 20_000

Place = tuple[int, bytes]
"""A record, and the sequence under which it was found."""


class Kind(StrEnum):
    """What is wrong."""

    ALTERED = "altered"
    """Other bytes stand there than were recorded."""
    DUPLICATED = "duplicated"
    """It is there once more."""
    INSERTED = "inserted"
    """Something that was not recorded stands before it."""
    MISSING = "missing"
    """It is not there."""
    SWAPPED = "swapped"
    """It is there, but not where it was."""
    TRUNCATED = "truncated"
    """It and all after it are not there."""
    SHIFTED = "shifted"
    """From it on, the sequences under which records are stored are not their own."""
    FORM = "form"
    """It was recorded so, and does not begin as the record of that place in that log."""
    SUBMISSION = "submission"
    """It was recorded so, and submissions before it have no record, or two."""
    EPOCH = "epoch"
    """It was recorded so, by a gateway that had started before the one before it."""
    UNPROVEN = "unproven"
    """Nothing proves it; it or another one may have been altered."""
    FILE = "file"
    """A file of hashes, or another one of an export, is missing or altered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with the records from `first` to `last`; 0 for what is no record."""

    kind: Kind
    first: int
    last: int
    detail: str = ""

    def __str__(self) -> str:
        span = f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"
        if not self.first:
            return f"{self.kind} {self.detail}"
        where = f"record{'s' if self.first != self.last else ''} {span}"
        return f"{where}: {self.kind}{f', {self.detail}' if self.detail else ''}"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of an audit.

    Attributes:
        checkpoint: what the records were held against.
        first, last: which ones should be there; `last` is before `first` if none.
        records: how many were found, of any kind.
        answered: the last submission that a record answers, by its ingress sequence.
        findings: in the order of the records; at most MAX_FINDINGS.
        more: how many findings there are besides.
    """

    checkpoint: Checkpoint
    first: int
    last: int
    records: int
    answered: int
    findings: tuple[Finding, ...]
    more: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class Head(NamedTuple):
    """What a record says at its beginning."""

    seq: int
    epoch: int
    submission: int
    n: int

    def fault(self, before: Head) -> Kind | None:
        """What is wrong with it after the one before, if anything.

        It answers the next submission, or is one more consequence of the same one.
        """
        if self.epoch < before.epoch:
            return Kind.EPOCH
        fresh = self.n == 0 and self.submission == before.submission + 1
        more = self.submission == before.submission and self.n == before.n + 1
        return None if fresh or more else Kind.SUBMISSION

    def __str__(self) -> str:
        return f"submission {self.submission}.{self.n} in epoch {self.epoch}"


class _Found(NamedTuple):
    """A record whose sequence is known, and where it was."""

    seq: int
    place: int
    leaf: bytes
    head: Head | None


_Span = tuple[int, int]
"""Sequences, from the first to the last."""


def head_pattern(origin: str) -> re.Pattern[bytes]:
    """How each record of a log begins; its groups are the fields of `Head`."""
    log = re.escape(json.dumps(origin, ensure_ascii=False).encode())
    number, text = rb"(0|[1-9][0-9]{0,18})", rb'"[^"\\]*"'
    submission = rb'\{"seq":%b,"n":%b,"time":%b\}' % (number, number, text)
    pieces = (log, number, text, number, submission)
    return re.compile(rb'\{"v":1,"log":%b,"seq":%b,"time":%b,"epoch":%b,"in":%b,"by":"' % pieces)


def audit(
    records: Iterable[Place],
    checkpoint: Checkpoint,
    tiles: TileReader | None = None,
    first: int = 1,
    last: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Hold records against a checkpoint.

    Args:
        records: in the order in which they stand, as far as they are there.
        checkpoint: one that is trusted, see `Trust.check`.
        tiles: of the tree of that checkpoint. Without them a part of the log is not proven.
        first: the first one that should be there.
        last: the last one; by default that of the checkpoint.
        progress: is told now and then, after some 20,000, how many records were looked at.

    Raises:
        VerificationError: the checkpoint does not cover these.
    """
    end = checkpoint.size if last is None else last
    if not 1 <= first <= end + 1 <= checkpoint.size + 1:
        raise VerificationError(
            f"a checkpoint of {checkpoint.size} records does not cover {first} to {end}"
        )
    looking = _Audit(checkpoint, ProvenTiles(tiles, checkpoint) if tiles else None, first, end)
    rest, told = iter(records), 0
    while chunk := list(islice(rest, looking.room())):
        looking.take(chunk)
        if looking.records - told >= _STEP:
            progress(told := looking.records)
    return looking.report()


class _Audit:
    """Where an audit is.

    Attributes:
        records: how many were looked at.
    """

    def __init__(
        self, checkpoint: Checkpoint, proven: ProvenTiles | None, first: int, last: int
    ) -> None:
        self.records = 0
        self._checkpoint, self._proven = checkpoint, proven
        self._first, self._last = first, last
        self._head = head_pattern(checkpoint.origin).match
        self._next = first  # the record that should come now
        self._before = Head(0, 0, 0, 0) if first == 1 else None  # of the one before, if it is known
        self._answered = 0
        self._shift: int = 0  # by how much places differ from sequences
        self._tree = Frontier()  # of all records, as long as they are whole
        self._unproven: list[_Span] = []
        self._findings: list[Finding] = []
        self._more = 0
        # What is in disorder:
        self._strangers: list[tuple[int, int]] = []  # of no known leaf: place, what it says it is
        self._ahead: _Found | None = None  # the one before: came too early, or others are missing
        self._early: set[int] = set()  # came too early
        self._missing: list[_Span] = []  # did not come yet
        self._disturbed = False  # so that places may differ by something else now

    def room(self) -> int:
        """How many records it is to be given next: up to the end of a tile."""
        return WIDTH - (self._next - 1) % WIDTH

    def take(self, chunk: list[Place]) -> None:
        """Look at the next records."""
        self.records += len(chunk)
        if not self._take_whole(chunk):
            for place, record in chunk:
                self._look(place, record)

    def report(self) -> Report:
        """After the last record."""
        if self._ahead:
            self._accept(self._ahead)
        self._settle(self._last + 1)
        for first, last in self._missing:
            self._find(Kind.TRUNCATED if last == self._last else Kind.MISSING, first, last)
        everything = self._first == 1 and self._last == self._checkpoint.size == self._tree.size
        if not everything or self._tree.root() != self._checkpoint.root:
            for first, last in self._unproven:
                self._find(Kind.UNPROVEN, first, last)
        for path, what in self._proven.faults.items() if self._proven else ():
            self._find(Kind.FILE, 0, 0, f"{path}: {what}")
        return Report(
            self._checkpoint,
            self._first,
            self._last,
            self.records,
            self._answered,
            tuple(sorted(self._findings, key=lambda found: found.first or self._last + 1)),
            self._more,
        )

    def _take_whole(self, chunk: list[Place]) -> bool:
        """The usual case, fast: all are what they should be. If not, this does nothing."""
        before, shift, head = self._before, self._shift, self._head
        last = self._next + len(chunk) - 1
        if before is None or self._ahead or self._early or self._strangers or last > self._last:
            return False
        for seq, (place, record) in enumerate(chunk, self._next):
            if not (match := head(record)):
                return False
            here = Head(*map(int, match.groups()))
            if here.seq != seq or place - seq != shift or here.fault(before):
                return False
            before = here
        leaves = [leaf_hash(record) for _, record in chunk]
        root = subtree(leaves) if len(leaves) == WIDTH else None
        proven = self._proven.agree(self._next - 1, leaves, root) if self._proven else None
        if proven is False:
            return False
        if proven is None:
            _extend(self._unproven, self._next, last)
        if self._tree.size == self._next - 1:
            if root:
                self._tree.append(root, _LEVEL)
            else:
                self._tree.extend(leaves)
        self._next, self._before, self._answered = last + 1, before, before.submission
        return True

    def _look(self, place: int, record: bytes) -> None:
        """The other case: find out which record it is, and what to make of that."""
        leaf, match = leaf_hash(record), self._head(record)
        head = Head(*map(int, match.groups())) if match else None
        claim = head.seq if head else 0
        if self._is(leaf, self._next):
            seq = self._next
        elif self._is(leaf, claim) is not False:
            seq = claim
        else:
            self._strangers.append((place, claim))
            return
        found = _Found(seq, place, leaf, head)
        if self._ahead:
            self._decide(seq, self._ahead)
        if seq < self._next or seq in self._early:
            self._late(seq)
        elif seq - self._next in (0, len(self._strangers)):  # each stands for one that is missing
            self._accept(found)
        else:
            self._ahead, self._disturbed = found, True

    def _is(self, leaf: bytes, seq: int) -> bool | None:
        """Whether that is the leaf of a record; None where that is not known."""
        if not self._first <= seq <= self._last:
            return False
        return self._proven.agree(seq - 1, [leaf], None) if self._proven else None

    def _decide(self, seq: int, ahead: _Found) -> None:
        """Now that one more came: whether the one before was too early, or others are missing."""
        self._ahead = None
        if self._next <= seq < ahead.seq:
            self._early.add(ahead.seq)
        else:
            self._accept(ahead)

    def _accept(self, found: _Found) -> None:
        """A record is where it should be, whatever became of those before it."""
        self._settle(found.seq)
        seq, shift, head, before = found.seq, found.place - found.seq, found.head, self._before
        if shift != self._shift and not self._disturbed:
            self._find(Kind.SHIFTED, seq, self._last, f"{shift:+}")
        if head is None or head.seq != seq:
            self._find(Kind.FORM, seq, seq)
        elif before and (fault := head.fault(before)):
            self._find(fault, seq, seq, f"{head} after {before}")
        if self._tree.size == seq - 1:
            self._tree.append(found.leaf)
        if not self._proven or self._proven.leaves((seq - 1) // WIDTH) is None:
            _extend(self._unproven, seq, seq)
        self._answered = head.submission if head else self._answered
        self._next, self._before, self._shift, self._disturbed = seq + 1, head, shift, False
        while self._next in self._early:
            self._settle(self._next + 1)

    def _settle(self, until: int) -> None:
        """What comes next is `until`. Those before it came too early, are altered, or missing."""
        gap = range(self._next, until)
        if not gap and not self._strangers:
            return
        # The smaller of the two is gone through: how large they are is up to a stranger.
        there = {seq for seq in min(self._early, gap, key=len) if seq in gap and seq in self._early}
        for seq in there:
            self._find(Kind.SWAPPED, seq, seq)
        self._early -= there
        free = (seq for seq in gap if seq not in there)
        for place, claim in sorted(self._strangers, key=lambda one: one[1] not in gap):
            stands_for = claim if claim in gap and claim not in there else next(free, None)
            if stands_for is None:
                self._find(Kind.INSERTED, until, until, f"found as {place}")
            else:
                there.add(stands_for)
                self._find(Kind.ALTERED, stands_for, stands_for)
        for seq in (*sorted(there), until):
            if self._next < seq:
                self._missing.append((self._next, seq - 1))
            self._next = seq + 1
        self._strangers.clear()
        self._next, self._before, self._disturbed = until, None, True

    def _late(self, seq: int) -> None:
        """A record that should have come before: it stands elsewhere, or is there once more."""
        self._disturbed = True
        at = bisect(self._missing, (seq, self._last)) - 1
        first, last = self._missing[at] if at >= 0 else (0, 0)
        if first <= seq <= last:
            rest = [(first, seq - 1), (seq + 1, last)]
            self._missing[at : at + 1] = [span for span in rest if span[0] <= span[1]]
            self._find(Kind.SWAPPED, seq, seq)
        else:
            self._find(Kind.DUPLICATED, seq, seq)

    def _find(self, kind: Kind, first: int, last: int, detail: str = "") -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(kind, first, last, detail))
        else:
            self._more += 1


def _extend(spans: list[_Span], first: int, last: int) -> None:
    """Add sequences that come after those that are there."""
    if spans and spans[-1][1] == first - 1:
        first = spans.pop()[0]
    spans.append((first, last))
