"""The rows of the page of agents."""

from __future__ import annotations

import pytest

from tidegate.console.agents import Agent, agents
from tidegate.console.follower import Process
from tidegate.vitals import Vital
from tidegate_bus.broker.pauses import Feed
from tidegate_policy.genesis import genesis
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas.governance import Target
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.subjects import Principal

NAME = "work.bee"
BEE = Registration(NAME, Role.AGENT, ("work.do",), keys=("U",), version="3", owner="ops")


def row(*commands: tuple[str, str], out: int = 0, workers: int = 1, known: bool = True) -> Agent:
    """The only agent, after some controls."""
    state = State(genesis(), Window(0.0, 0))
    if known:
        state.roster = state.roster.after(BEE)
    for command, target in commands:
        state.controls = state.controls.after(command, Target.parse(target))
    feed = Feed(Principal.parse(NAME), bool(commands), 7, out)
    processes = [
        Process(NAME, pid, Vital(pid == 0, {"beat_seconds": pid + 0.5})) for pid in range(workers)
    ]
    (found,) = agents(state, [feed], processes, {NAME: "4"}, {NAME: (9, 10)}.get)
    return found


@pytest.mark.parametrize(
    ("commands", "out", "workers", "state", "by", "words"),
    [
        ([], 3, 1, "active", "", ["Drain", "Quarantine"]),
        ([], 0, 0, "away", "", ["Drain", "Quarantine"]),
        ([("control.pause", f"agent:{NAME}")], 3, 1, "draining", "", ["Resume", "Quarantine"]),
        ([("control.pause", f"agent:{NAME}")], 0, 1, "paused", "", ["Resume", "Quarantine"]),
        ([("control.quarantine", f"agent:{NAME}")], 3, 1, "quarantined", "", ["Release"]),
        ([("control.kill", f"agent:{NAME}")], 0, 0, "killed", "", ["Release"]),
        ([("control.pause", "bus")], 0, 1, "paused", "bus", ["Drain", "Quarantine"]),
        (
            [("control.pause", f"agent:{NAME}"), ("control.kill", "team:work")],
            *(0, 1, "killed", "team:work", ["Resume", "Quarantine"]),
        ),
    ],
)
def test_the_state_is_what_stops_it_most(
    commands: list[tuple[str, str]], out: int, workers: int, state: str, by: str, words: list[str]
) -> None:
    """By whom that is, if not by a control of its own; what can be done is about its own."""
    found = row(*commands, out=out, workers=workers)

    assert (found.state, found.by) == (state, by)
    assert [word for _, word in found.commands] == words
    assert found.target == f"agent:{NAME}"


def test_a_row_tells_version_load_and_progress() -> None:
    """The ledger's version where it has one; of several workers the one that is worst."""
    found, unknown = row(workers=2, out=2), row(known=False)

    assert (found.version, found.owner, found.capabilities) == ("3", "ops", ("work.do",))
    assert (found.waiting, found.out, found.last) == (7, 2, (9, 10))
    assert (found.workers, found.well, found.beat) == (2, False, 1.5)
    assert (unknown.version, unknown.capabilities) == ("4", ())
