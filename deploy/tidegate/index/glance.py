"""What the index keeps of a record. Pure: bytes in, values out."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.subjects import Kind, Verdict

KINDS = tuple(Kind)
VERDICTS = tuple(Verdict)
"""Their places are in the file: whoever adds one adds it at the end, or changes `store.VERSION`."""


class _Why(msgspec.Struct, gc=False):
    reason: str = ""
    policies: tuple[str, ...] = ()


class _Message(msgspec.Struct, gc=False):
    id: str | None = None
    source: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    causationsource: str | None = None
    runid: str | None = None


class Glance(msgspec.Struct, gc=False):
    """A record, as far as the index is interested. Names are those of `record.Record`.

    Decoding it costs a fifth of decoding a record: nothing is checked that a gateway has checked.
    """

    seq: int
    time: str
    by: str
    kind: Kind
    to: str
    verdict: Verdict
    why: _Why
    first: int | None = None
    envelope: _Message = msgspec.field(default_factory=_Message)


class Row(NamedTuple):
    """A record in the index.

    Attributes:
        seq: of the record.
        time: when the gateway decided, ns since 1970; where its clock went back, the latest time
            before, so that rows are in order of time as they are in order of the ledger.
        by, kind, to, verdict: of the record.
        reason, policies: of its `why`.
        id, source, correlation, causation, causation_source, run: of the envelope; None where it
            has none.
        first: see `record.Record`.
    """

    seq: int
    time: int
    by: str
    kind: Kind
    to: str
    verdict: Verdict
    reason: str
    policies: tuple[str, ...]
    id: str | None
    source: str | None
    correlation: str | None
    causation: str | None
    causation_source: str | None
    run: str | None
    first: int | None


class Key:
    """By what records are found, besides their columns: what their keys begin with.

    `ANSWER` is the cause of a result: what other messages follow from is of one correlation.
    """

    ID = zlib.crc32(b"i")
    CORRELATION = zlib.crc32(b"r")
    ANSWER = zlib.crc32(b"a")
    FIRST = zlib.crc32(b"f")


SEGMENT_BITS = 16
"""Keys are in order within so many records. In one order for all they would change every page of
the file with each batch; a search looks into each segment instead, of which there are few."""
STRIDE_BITS = 12
"""Of so many records it is known who is among them. To look through one takes half a millisecond;
an entry for each record would be a fifth of what writing costs."""
_TEXT_BITS = 30
"""Of a key, for the text that it stands for; the segment is above them, the place below."""
_TEXTS = (1 << _TEXT_BITS) - 1
PLACES = (1 << SEGMENT_BITS) - 1

_decoder = msgspec.json.Decoder(Glance)


def glance(payload: bytes) -> Glance:
    """Look at a record.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _decoder.decode(payload)


def key(of: int, text: str, seq: int) -> int:
    """What a record is found by: its segment, bits that stand for a text, its place in the segment.

    A table of such numbers is a fifth of one of the texts, and SQLite keeps numbers in order at a
    third of the cost. Two texts may have the same, so what is found must be compared; whoever would
    make up such texts to slow down a search could as well repeat one.
    """
    low = zlib.crc32(text.encode(), of) & _TEXTS
    return ((seq >> SEGMENT_BITS) << _TEXT_BITS | low) << SEGMENT_BITS | seq & PLACES


def keys(rows: Iterable[Glance]) -> Iterator[tuple[int]]:
    """All keys of records, as rows of a table."""
    for row in rows:
        seq, message = row.seq, row.envelope
        if message.id is not None:
            yield (key(Key.ID, message.id, seq),)
        if message.correlationid is not None:
            yield (key(Key.CORRELATION, message.correlationid, seq),)
        if message.causationid is not None and row.kind is Kind.RESULT:
            yield (key(Key.ANSWER, message.causationid, seq),)
        if row.first is not None:
            yield (key(Key.FIRST, str(row.first), seq),)


class Clock:
    """Reads the times of records, which come in order and many in a second."""

    def __init__(self, latest: int) -> None:
        self._latest = latest
        self._second = ("", 0)

    def read(self, text: str) -> int:
        """Nanoseconds since 1970, but never before what was read before."""
        second, moment = self._second
        if text[:20] != second:
            second = text[:20]
            moment = parse_rfc3339(f"{text[:19]}Z")
            self._second = second, moment
        self._latest = max(self._latest, moment + int(text[20:-1] or 0))
        return self._latest


def why(row: Glance) -> str:
    """Reason and policies in one text: there are few of them in a ledger."""
    return "\n".join((row.why.reason, *row.why.policies))


def row_of(found: tuple[Any, ...]) -> Row:
    """A row, as the file has it: see `lookup`."""
    seq, time, by, kind, to, verdict, grounds, *rest = found
    reason, *names = grounds.split("\n")
    policies = tuple(names)
    return Row(seq, time, by, KINDS[kind], to, VERDICTS[verdict], reason, policies, *rest)
