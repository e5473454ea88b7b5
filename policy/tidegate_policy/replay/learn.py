"""From what was allowed only because policy is learning, a policy that allows just that. Pure.

What is written permits messages by sender, kind and destination. That is as much as is known: that
a message came does not say which of its other properties mattered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tidegate_policy.bundle.schema import RESOURCES
from tidegate_schemas.record import Reason
from tidegate_schemas.subjects import Kind

from .line import Line

_VERBS = {
    Kind.TASK: "asks for",
    Kind.EVENT: "reports",
    Kind.RESULT: "answers",
    Kind.CONTROL: "commands",
}


class Right(NamedTuple):
    """Somebody may send something somewhere.

    Attributes:
        agent: who.
        kind, to: what, and where.
        delegated: only what somebody else sends on behalf of `agent`.
    """

    agent: str
    kind: Kind
    to: str
    delegated: bool = False


@dataclass(slots=True)
class Seen:
    """How often a right was used, and by which records first and last."""

    records: int = 0
    first: int = 0
    last: int = 0

    def __str__(self) -> str:
        if self.records == 1:
            return f"once, in record {self.first}"
        return f"{self.records:,} times, from record {self.first} to {self.last}"


@dataclass(slots=True)
class Lesson:
    """What is to be learned. Give it the records of a stretch, in ledger order.

    Attributes:
        rights: that were used and that nothing but learning permits.
        records: how many records used one.
    """

    rights: dict[Right, Seen] = field(default_factory=dict[Right, Seen])
    records: int = 0

    def add(self, seq: int, line: Line) -> None:
        """Look at a record."""
        if line.why.reason != Reason.LEARNED or line.envelope is None:
            return
        self.records += 1
        behind = line.envelope.onbehalfof
        agents = (line.by, *(behind.split(",") if behind else ()))
        for number, agent in enumerate(agents):
            right = Right(agent, line.kind, line.to, number > 0)
            seen = self.rights.setdefault(right, Seen(0, seq))
            seen.records += 1
            seen.last = seq

    def text(self, title: str) -> str:
        """Cedar: one permit for each kind of message and group of agents with the same rights.

        Args:
            title: what stands in the first line.
        """
        lines = [f"// {title}"]
        names = Counter[str]()
        for kind, delegated, agents, destinations in _groups(self.rights):
            rights = [Right(a, kind, to, delegated) for a in agents for to in destinations]
            first = min(self.rights[right].first for right in rights)
            # The record makes it unique, also beside what was learned of another stretch.
            name = f"learned-{kind}-{first}"
            names[name] += 1
            name += f"-{names[name]}" if names[name] > 1 else ""
            lines += [
                "",
                *(f"// {_told(right)}: {self.rights[right]}" for right in rights),
                f'@id("{name}")',
                *_permit(kind, agents, destinations, delegated),
            ]
        return "\n".join(lines) + "\n"


def _groups(rights: Iterable[Right]) -> Iterator[tuple[Kind, bool, list[str], list[str]]]:
    """Agents that may send messages of a kind to the same destinations."""
    destinations: defaultdict[tuple[Kind, bool, str], set[str]] = defaultdict(set)
    for agent, kind, to, delegated in rights:
        destinations[kind, delegated, agent].add(to)
    agents: defaultdict[tuple[Kind, bool, tuple[str, ...]], list[str]] = defaultdict(list)
    for (kind, delegated, agent), there in sorted(destinations.items()):
        agents[kind, delegated, tuple(sorted(there))].append(agent)
    for (kind, delegated, places), names in sorted(agents.items()):
        yield kind, delegated, names, list(places)


def _told(right: Right) -> str:
    said = f"{right.agent} {_VERBS[right.kind]} {right.to}"
    return f"{said}, through others" if right.delegated else said


def _permit(
    kind: Kind, agents: list[str], destinations: list[str], delegated: bool
) -> Iterator[str]:
    who, what = "principal", "resource"
    conditions: list[str] = []
    if len(agents) == 1:
        who = f"principal == {_entity('Agent', agents[0])}"
    else:
        conditions.append(f"{_set('Agent', agents)}.contains(principal)")
    if len(destinations) == 1:
        what = f"resource == {_entity(RESOURCES[kind], destinations[0])}"
    else:
        conditions.append(f"{_set(RESOURCES[kind], destinations)}.contains(resource)")
    if delegated:
        conditions.append("context.delegated")
    yield "permit ("
    yield f"  {who},"
    yield f'  action in Action::"{kind}",'
    yield f"  {what}"
    if conditions:
        yield ") when {"
        yield "  " + " &&\n  ".join(conditions)
        yield "};"
    else:
        yield ");"


def _set(kind: str, names: Iterable[str]) -> str:
    return (
        "[\n" + "".join(f"    {_entity(kind, name)},\n" for name in names).rstrip(",\n") + "\n  ]"
    )


def _entity(kind: str, name: str) -> str:
    # Names of principals and destinations have no characters that mean anything to Cedar.
    return f'{kind}::"{name}"'
