"""Counting findings: by policy, agent and subject, with examples. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from .outcome import Finding, Outcome

EXAMPLES = 5
"""Records that are named of each group."""


class Key(NamedTuple):
    """What findings have in common."""

    outcome: Outcome
    policies: tuple[str, ...]
    agent: str
    subject: str
    why: str


@dataclass(slots=True)
class Found:
    """How many there are of a group, and the first of them."""

    records: int = 0
    examples: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class Tally:
    """Findings of a stretch of the ledger.

    Attributes:
        records: how many were looked at.
        groups: those that differ.
    """

    records: int = 0
    groups: dict[Key, Found] = field(default_factory=dict[Key, Found])

    def add(self, seq: int, agent: str, subject: str, finding: Finding) -> None:
        """Count a finding; in ledger order."""
        key = Key(finding.outcome, finding.policies, agent, subject, finding.why)
        found = self.groups.setdefault(key, Found())
        found.records += 1
        if len(found.examples) < EXAMPLES:
            found.examples.append(seq)

    def merge(self, later: Tally) -> None:
        """Count what was found in the stretch that follows."""
        self.records += later.records
        for key, more in later.groups.items():
            found = self.groups.setdefault(key, Found())
            found.records += more.records
            found.examples = [*found.examples, *more.examples][:EXAMPLES]

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Records by outcome; those that differ in nothing are among them."""
        counted = Counter(dict.fromkeys(Outcome, 0))
        for key, found in self.groups.items():
            counted[key.outcome] += found.records
        counted[Outcome.SAME] = self.records - counted.total()
        return counted


def sums(groups: Iterable[tuple[Iterable[str], Outcome, int]]) -> dict[str, dict[Outcome, int]]:
    """Records by name and outcome; the name with most of them first."""
    found: dict[str, Counter[Outcome]] = {}
    for names, outcome, records in groups:
        for name in names:
            found.setdefault(name, Counter())[outcome] += records
    ordered = sorted(found.items(), key=lambda item: (-item[1].total(), item[0]))
    return {name: dict(sorted(counted.items())) for name, counted in ordered}
