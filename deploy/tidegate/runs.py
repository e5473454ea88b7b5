"""Runs, as people are shown them: folded from the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Self

import msgspec

from tidegate_agents.fold import Fold
from tidegate_agents.run import Run
from tidegate_bus.frames import Entry
from tidegate_policy.replay.past import read_record
from tidegate_schemas import vocabulary
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict

from .index import Batch, Glance

STATES: tuple[str, ...] = ("running", "succeeded", "failed", "cancelled")
_COORDINATOR = str(vocabulary.COORDINATOR)
_ABOUT_ALL = frozenset(
    (
        vocabulary.IDENTITY_REGISTER,
        vocabulary.IDENTITY_REVOKE,
        vocabulary.BLUEPRINT_REGISTER,
        vocabulary.CONTROL_KILL,
        vocabulary.PRIVACY_ERASE,
        vocabulary.RUN_CANCEL,
    )
)
"""Commands that no run's correlation leads to."""
_MOST = 20_000
"""Runs that are listed; older ones are found in the ledger by their correlation id."""


@dataclass(frozen=True, slots=True)
class Brief:
    """A run in a list.

    Attributes:
        id, blueprint, correlation, status, error, sealed: see `Run`; `blueprint` with its version.
        started: ns since 1970.
        done, steps: how many have ended well or were skipped, and how many there are.
        waits: a task of it waits at the gateway.
    """

    id: str
    blueprint: str
    correlation: str
    status: str
    error: str | None
    started: int
    done: int
    steps: int
    waits: bool
    sealed: bool


class KnownRuns(msgspec.Struct):
    """What `Runs` know. Of what lasts longer than a run, and of runs that go on, the records."""

    briefs: list[Brief]
    commands: list[int]
    open: dict[str, list[int]]

    def records(self) -> set[int]:
        """Sequences of all of them."""
        return {*self.commands, *(seq for seqs in self.open.values() for seq in seqs)}


class Runs:
    """All runs of a ledger in brief; a listener of `index.IndexKeeper`.

    A run that has ended is kept in brief only: `folded` tells the whole of it, from its records.
    """

    def __init__(self) -> None:
        self._fold = Fold(vocabulary.COORDINATOR, keep_ended=True)
        self._briefs: dict[str, Brief] = {}
        self._commands: list[Record] = []
        self._open: dict[str, list[int]] = {}
        self.seq = 0
        """Of the last record that it knows of."""

    @classmethod
    def of(cls, known: KnownRuns, seq: int, entries: Iterable[Entry]) -> Self:
        """Those that know this, right after the record `seq`.

        Args:
            known: what they know.
            seq: of the last record that they know of.
            entries: the records of `known`, in order.

        Raises:
            LedgerError: one of them is not of a gateway.
        """
        made, commands = cls(), set(known.commands)
        for entry in entries:
            record = read_record(*entry)
            if entry.seq in commands:
                made._commands.append(record)
            made._fold.apply(record)
        for name in made._fold.runs.keys() - known.open.keys():  # begun by the same event
            del made._fold.runs[name]
        made._briefs = {brief.id: brief for brief in known.briefs}
        made._open = known.open
        made.seq = seq
        return made

    def known(self) -> KnownRuns:
        """What they know; to be written before they hear of more."""
        commands = [record.seq for record in self._commands]
        return KnownRuns(list(self._briefs.values()), commands, self._open)

    def __call__(self, batch: Batch) -> None:
        """Take in the next records."""
        for entry, row in zip(*batch, strict=True):
            if not _may_concern(row):
                continue
            record = read_record(*entry)
            if row.to in _ABOUT_ALL:
                self._commands.append(record)
            for changed in self._fold.apply(record):
                run = self._fold.runs[changed]
                self._briefs[changed] = brief(run)
                self._open.setdefault(changed, []).append(row.seq)
                if run.announced:
                    del self._fold.runs[changed], self._open[changed]
        while len(self._briefs) > _MOST:
            del self._briefs[next(iter(self._briefs))]
        self.seq = batch.entries[-1].seq

    def __len__(self) -> int:
        return len(self._briefs)

    def get(self, name: str) -> Brief | None:
        """A run by its id."""
        return self._briefs.get(name)

    def newest(
        self, *, status: str = "", blueprint: str = "", text: str = "", skip: int = 0, most: int
    ) -> list[Brief]:
        """Some runs, the newest first.

        Args:
            status: only such; all if it is empty.
            blueprint: only of that name; of all if it is empty.
            text: only those whose id begins so, or which have it as correlation id.
            skip: not the first so many.
            most: at most so many.
        """
        found = (
            one
            for one in reversed(list(self._briefs.values()))
            if status in ("", one.status)
            and blueprint in ("", one.blueprint.partition("@")[0])
            and (one.id.startswith(text) or one.correlation == text)
        )
        return list(islice(found, skip, skip + most))

    def counts(self) -> dict[str, int]:
        """How many there are by status."""
        counted = dict.fromkeys(STATES, 0)
        for one in list(self._briefs.values()):
            counted[one.status] += 1
        return counted

    def blueprints(self) -> list[str]:
        """Names of those that are registered."""
        return sorted(self._fold.active)

    def folded(self, name: str, story: Iterable[Record]) -> Run | None:
        """The whole of a run; None if these records do not begin it.

        Args:
            name: its id.
            story: the records of its correlation, in order.
        """
        fold = Fold(vocabulary.COORDINATOR, keep_ended=True)
        own = (record for record in story if record.to not in _ABOUT_ALL)
        for record in merge(list(self._commands), own, key=lambda record: record.seq):
            fold.apply(record)
        return fold.runs.get(name)


def _may_concern(row: Glance) -> bool:
    """Whether a record can be one that the fold of runs looks at, see `Fold`."""
    match row.kind:
        case Kind.TASK:
            return row.by == _COORDINATOR
        case Kind.RESULT:
            return row.to == _COORDINATOR
        case Kind.EVENT | Kind.CONTROL:
            return row.verdict is Verdict.ALLOW
        case _:
            return False


def brief(run: Run) -> Brief:
    """A run, for a list."""
    steps = run.steps.values()
    return Brief(
        run.id,
        f"{run.blueprint.blueprint}@{run.blueprint.version}",
        run.correlation,
        run.status,
        run.error,
        run.started,
        sum(step.ended for step in steps),
        len(run.steps),
        run.status == "running" and any(u.phase == "held" for s in steps for u in s.units),
        run.sealed,
    )


def described(found: Run) -> dict[str, Any]:
    """The whole of a run, for programs."""
    return {
        "id": found.id,
        "blueprint": f"{found.blueprint.blueprint}@{found.blueprint.version}",
        "digest": found.digest,
        "status": found.status,
        "started": rfc3339(found.started),
        "correlation": found.correlation,
        "error": found.error,
        "output": found.output,
        "sealed": found.sealed,
        "steps": {
            name: {
                "status": step.status,
                "error": step.error,
                "output": step.output,
                "units": [
                    {
                        "index": unit.index,
                        "attempt": unit.attempt,
                        "phase": unit.phase,
                        "provider": unit.provider,
                        "error": unit.error,
                        "waits": unit.waits if unit.phase == "held" else None,
                    }
                    for unit in step.units
                ],
            }
            for name, step in found.steps.items()
        },
    }


def spans(seqs: Iterable[int], gap: int) -> Iterator[tuple[int, int]]:
    """Stretches of the ledger, first and last, that hold these sequences, which are in order.

    Records up to `gap` apart are in one: reading a few too many costs less than asking again.
    """
    first = last = 0
    for seq in seqs:
        if first and seq - last > gap:
            yield first, last
            first = 0
        first, last = first or seq, seq
    if first:
        yield first, last
