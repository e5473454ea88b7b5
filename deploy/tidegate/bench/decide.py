"""What a decision costs: by Cedar each time, and remembered; in one process, without a broker.

The two take turns, so what else the machine does hits both alike. Times are of this process's CPU.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, islice

from tidegate_policy.engine import Counters, Difference, Engine, Limits

from .load import Figure, OnProgress
from .rulebook import (
    CONTEXTS,
    SCHEMA,
    Request,
    Stream,
    distinct,
    organisation,
    rules,
    rules_of_others,
)

_FLOWS = 879
_SIZES = (20, 500)
_ROUNDS = 9
_ROUND = 200
_REPEATS = 20
"""How often more remembered decisions are timed than others: they are so much shorter."""
_RULES = {
    **{f"{size} rules": rules(size) for size in _SIZES},
    f"{_SIZES[-1]} rules, most for others": rules_of_others(_SIZES[-1]),
}
"""What a remembered decision costs hangs on the rules for it, not on how many there are."""
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
    costs = _costs(clock)
    figures: list[Figure] = []
    for size in _SIZES:
        figures += costs.pop(f"{size} rules")
        figures += _stream(size, messages, clock)
    return [*figures, *chain.from_iterable(costs.values()), *bound]


def requests(messages: int, keys: int) -> int:
    """How many requests `decide` decides in all."""
    costs = _FLOWS + 2 * _ROUND + _ROUNDS * (_ROUND + _ROUND * _REPEATS)
    return keys + len(_RULES) * costs + len(_SIZES) * (messages // 3 * 3)


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


def _costs(clock: _Clock) -> dict[str, list[Figure]]:
    """The same requests under each set of rules, remembered and not; all of them take turns."""
    stream = Stream(_FLOWS)
    opening, requests = stream.each(), stream.requests(_ROUND)
    cached = {name: _engine(text) for name, text in _RULES.items()}
    uncached = {name: _engine(text, Limits(entries=0)) for name, text in _RULES.items()}
    first: dict[str, float] = {}
    by_cedar: defaultdict[str, list[float]] = defaultdict(list)
    remembered: defaultdict[str, list[float]] = defaultdict(list)
    for name in _RULES:
        first[name] = clock.asked(cached[name], opening)
        clock.asked(cached[name], requests)  # from here on all of them are remembered
        clock.asked(uncached[name], requests)  # which keeps the entities of a flow, as all do
    for _ in range(_ROUNDS):
        for name in _RULES:
            by_cedar[name].append(clock.asked(uncached[name], requests))
    for _ in range(_ROUNDS):  # not in between: Cedar leaves the processor's caches to the next one
        for name in _RULES:
            remembered[name].append(clock.asked(cached[name], requests * _REPEATS))
    return {
        name: [
            Figure(f"{name}: by Cedar", statistics.median(by_cedar[name]), "us"),
            Figure(f"{name}: remembered", statistics.median(remembered[name]), "us"),
            Figure(f"{name}: first of a flow", first[name], "us"),
        ]
        for name in _RULES
    }


def _stream(size: int, messages: int, clock: _Clock) -> list[Figure]:
    """A stream from its first message on."""
    engine = _engine(rules(size))
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
    engine = _engine(rules(_SIZES[0]))
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


def _engine(text: str, limits: Limits | None = None) -> Engine:
    return Engine.build(
        text,
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
