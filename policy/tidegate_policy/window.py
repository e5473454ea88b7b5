"""Which envelopes were seen lately, and what was said of them first."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Verdict

_SWEEP = 10_000
"""After so many ids those of all senders are looked through."""


class First(NamedTuple):
    """The first verdict on an envelope. `time` is when, ns since 1970."""

    seq: int
    time: int
    verdict: Verdict
    reason: str
    policies: tuple[str, ...]


class Window:
    """Keys of envelopes by sender, of the last `length` seconds; at most `entries` of each sender.

    Of each: with one bound for all, a sender of many would drive those of others out, and what
    they repeat would be admitted again. What it knows after a record follows from the ledger up to
    that record alone.
    """

    def __init__(self, length: float, entries: int) -> None:
        self.length = length
        self._ns = int(length * 1_000_000_000)
        self._entries = entries
        self._seen: dict[str, OrderedDict[str, First]] = {}
        self._added = 0

    def __len__(self) -> int:
        return sum(map(len, self._seen.values()))

    def find(self, by: str, key: str, now: int) -> First | None:
        """The first verdict on an envelope, if it was given within the window."""
        seen = self._seen.get(by)
        first = seen.get(key) if seen else None
        return first if first and first.time > now - self._ns else None

    def add(self, by: str, key: str, first: First) -> None:
        """Remember a verdict. Verdicts come in ledger order."""
        seen = self._seen.setdefault(by, OrderedDict())
        if key in seen:  # out of the window, or `find` would have told
            del seen[key]
        seen[key] = first
        horizon = first.time - self._ns
        while seen and (len(seen) > self._entries or next(iter(seen.values())).time <= horizon):
            seen.popitem(last=False)
        self._added += 1
        if self._added % _SWEEP == 0:  # who says nothing more is forgotten too
            self._sweep(horizon)

    def _sweep(self, horizon: int) -> None:
        for by, seen in list(self._seen.items()):
            while seen and next(iter(seen.values())).time <= horizon:
                seen.popitem(last=False)
            if not seen:
                del self._seen[by]

    def add_record(self, record: Record, key: str, time: int) -> None:
        """Remember what a record says. That it repeats another one is not remembered."""
        if record.verdict is Verdict.DUPLICATE:
            return
        why = record.why
        first = First(record.seq, time, record.verdict, why.reason, why.policies)
        self.add(record.by, key, first)
