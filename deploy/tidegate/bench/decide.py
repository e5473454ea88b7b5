"""What a decision costs: by Cedar each time, and remembered; in one process, without a broker.

The two take turns, so what else the machine does hits both alike. Times are of this process's CPU.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import islice

from tidegate_policy.engine import Counters, Difference, Engine, Limits

from .load import Figure, OnProgress
from .rulebook import CONTEXTS, SCHEMA, Request, Stream, distinct, organisation, rules

_FLOWS = 879
_SIZES = (20, 500)
_ROUNDS = 9
_ROUND = 200
_REPEATS = 20
"""How often more remembered decisions are timed than others: they are so much shorter."""
_MIB = 2**20


def decide(messages: int, keys: int, on_progress: OnProgress) -> list[Figure]:
    """Decide messages of some flows with numbers that may be anything, then ever new requests.

    Args:
        messages: of the flows, for each number of rules.
        keys: requests of which no two are alike, so that none is remembered when it comes.
        on_progress: told how many of all these were decided so far.
    """
    clock = _Clock(on_progress)
    bound = _bound(keys, clock)  # first: the process only ever grows
    figures: list[Figure] = []
    for size in _SIZES:
        figures += _costs(size, clock)
        figures += _stream(size, messages, clock)
    return [*figures, *bound]


def requests(messages: int, keys: int) -> int:
    """How many requests `decide` decides in all."""
    costs = _FLOWS + 2 * _ROUND + _ROUNDS * (_ROUND + _ROUND * _REPEATS)
    return keys + len(_SIZES) * (costs + messages // 3 * 3)


class _Clock:
    """Asks, and tells what it took."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._done = 0

    def asked(self, engine: Engine, requests: Sequence[Request]) -> float:
        """Microseconds of CPU, each."""
        ask = engine.ask
        began = time.process_time()
        for principal, action, what, context in requests:
            ask(principal, action, what, context)
        took = time.process_time() - began
        self._done += len(requests)
        self._on_progress(self._done)
        return took / len(requests) * 1e6


def _costs(size: int, clock: _Clock) -> list[Figure]:
    """The same requests, remembered and not."""
    cached, uncached = _engine(size), _engine(size, Limits(entries=0))
    stream = Stream(_FLOWS)
    opening = clock.asked(cached, stream.each())
    requests = stream.requests(_ROUND)
    clock.asked(cached, requests)  # from here on all of them are remembered
    clock.asked(uncached, requests)  # which keeps the entities of a flow, as every engine does
    by_cedar: list[float] = []
    remembered: list[float] = []
    for _ in range(_ROUNDS):
        by_cedar.append(clock.asked(uncached, requests))
        remembered.append(clock.asked(cached, requests * _REPEATS))
    return [
        Figure(f"{size} rules: by Cedar", statistics.median(by_cedar), "us"),
        Figure(f"{size} rules: remembered", statistics.median(remembered), "us"),
        Figure(f"{size} rules: first of a flow", opening, "us"),
    ]


def _stream(size: int, messages: int, clock: _Clock) -> list[Figure]:
    """A stream from its first message on."""
    engine = _engine(size)
    stream = Stream(_FLOWS, seed=2)
    third = messages // 3
    for _ in range(2):
        clock.asked(engine, stream.requests(third))
    before = engine.counters
    took = clock.asked(engine, stream.requests(third))
    after = engine.counters
    return [
        Figure(f"{size} rules: hits of the last third", _percent(before, after), "%"),
        Figure(f"{size} rules: a message of the last third", took, "us"),
        Figure(f"{size} rules: remembered decisions", after.entries, "entries"),
        Figure(f"{size} rules: memory of those", after.bytes / _MIB, "MiB"),
    ]


def _bound(keys: int, clock: _Clock) -> list[Figure]:
    """What an engine holds at most, and what that took of the process, if all is new always."""
    engine = _engine(20)
    requests = distinct(keys)
    entries = size = 0
    before = _peak_memory()
    while batch := list(islice(requests, 1000)):
        clock.asked(engine, batch)
        entries = max(entries, engine.counters.entries)
        size = max(size, engine.counters.bytes)
    return [
        Figure(f"{keys:,} different: remembered at most", entries, "entries"),
        Figure(f"{keys:,} different: memory of those", size / _MIB, "MiB"),
        Figure(f"{keys:,} different: the process grew by", (_peak_memory() - before) / _MIB, "MiB"),
    ]


def _engine(size: int, limits: Limits | None = None) -> Engine:
    return Engine.build(
        rules(size),
        SCHEMA,
        CONTEXTS,
        organisation(),
        on_difference=_alarm,
        limits=limits or Limits(),
    )


def _alarm(difference: Difference) -> None:
    raise AssertionError(difference)


def _percent(before: Counters, after: Counters) -> float:
    hits = after.hits - before.hits
    others = after.misses + after.uncached - before.misses - before.uncached
    return 100 * hits / (hits + others)


def _peak_memory() -> int:
    """Bytes; never less than it was."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
