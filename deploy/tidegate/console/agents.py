"""How the agents of a project are: a row for each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tidegate.deliveries import stops
from tidegate_bus.broker.pauses import Feed
from tidegate_policy.controls import Controls, Level
from tidegate_policy.state import State
from tidegate_schemas import vocabulary
from tidegate_schemas.governance import Target, What
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.subjects import Principal

from .follower import Process

_NOBODY = Registration("", Role.AGENT)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent at a moment.

    Attributes:
        name: `team.name`.
        state: `active`; `draining` where it gets nothing and works on; `paused`, `quarantined`,
            `killed`; `away` where nothing stops it and no worker runs.
        by: what stops it, if that is not the agent itself; empty otherwise.
        version, owner, capabilities, subscribes: as the ledger has them.
        workers: processes that run.
        well: whether they say that they are.
        beat: seconds since the one that was silent longest showed life; None without workers.
        waiting: admitted messages that were not delivered to it yet.
        out: delivered ones that it works on.
        last: sequence and time (ns since 1970) of its last record, if there is one.
        commands: that can be said of it now, each with its word.
    """

    name: str
    state: str
    by: str
    version: str
    owner: str
    capabilities: tuple[str, ...]
    subscribes: tuple[str, ...]
    workers: int
    well: bool
    beat: float | None
    waiting: int
    out: int
    last: tuple[int, int] | None
    commands: tuple[tuple[str, str], ...]

    @property
    def target(self) -> str:
        """Of commands about it."""
        return str(Target(What.AGENT, self.name))


def agents(
    state: State,
    feeds: Iterable[Feed],
    processes: Iterable[Process],
    declared: Mapping[str, str],
    seen: Callable[[str], tuple[int, int] | None],
) -> list[Agent]:
    """Those that take part or are declared, by name.

    Args:
        state: what the ledger says.
        feeds: what the broker delivers.
        processes: those that run here.
        declared: version by name, of the project's own.
        seen: the last record of somebody.
    """
    members = state.roster.members
    taking = {name for name, member in members.items() if member.role is Role.AGENT}
    by_name = {str(feed.principal): feed for feed in feeds}
    workers: dict[str, list[Process]] = {}
    for process in processes:
        workers.setdefault(process.name, []).append(process)
    found: list[Agent] = []
    for name in sorted({*taking, *declared}):
        member, feed = members.get(name, _NOBODY), by_name.get(name)
        own = workers.get(name, [])
        word, by = _state(state.controls, name, feed, bool(own))
        beats = [float(p.vital.facts.get("beat_seconds", 0)) for p in own]
        found.append(
            Agent(
                name,
                word,
                by,
                member.version or declared.get(name, ""),
                member.owner,
                member.capabilities,
                member.subscribes,
                len(own),
                all(process.vital.healthy for process in own),
                max(beats, default=None),
                feed.waiting if feed else 0,
                feed.out if feed else 0,
                seen(name),
                _commands(state.controls.levels.get(Target(What.AGENT, name))),
            )
        )
    return found


def _state(controls: Controls, name: str, feed: Feed | None, works: bool) -> tuple[str, str]:
    stopped = stops(controls, Principal.parse(name))
    if stopped is None:
        return ("active" if works else "away"), ""
    level, target = stopped
    by = "" if target == Target(What.AGENT, name) else str(target)
    if level is Level.PAUSED and feed and feed.out:
        return "draining", by
    return level.word, by


def _commands(level: Level | None) -> tuple[tuple[str, str], ...]:
    if level is None:
        return (
            (vocabulary.CONTROL_PAUSE, "Drain"),
            (vocabulary.CONTROL_QUARANTINE, "Quarantine"),
        )
    if level is Level.PAUSED:
        return (
            (vocabulary.CONTROL_RESUME, "Resume"),
            (vocabulary.CONTROL_QUARANTINE, "Quarantine"),
        )
    return ((vocabulary.CONTROL_RELEASE, "Release"),)
