"""What operators have stopped, in the ledger and at deliveries, and what a command would touch.

For the command line and the console.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tidegate_bus.broker.pauses import Feed, feeds
from tidegate_bus.connection import Connection
from tidegate_bus.ledger import LedgerReader
from tidegate_policy.bundle.faults import meant
from tidegate_policy.controls import Controls
from tidegate_policy.state import State
from tidegate_schemas import vocabulary
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.governance import Target, What
from tidegate_schemas.vocabulary import CONTROL_PAUSE

from .deliveries import misaligned, stops
from .governance import Command, held_by, missing, standing, state_of

DONE = {
    vocabulary.CONTROL_PAUSE: "paused",
    vocabulary.CONTROL_RESUME: "resumed",
    vocabulary.CONTROL_QUARANTINE: "quarantined",
    vocabulary.CONTROL_KILL: "killed",
    vocabulary.CONTROL_RELEASE: "released",
}
"""Each command, and what its target is after it."""
STOPPING = (vocabulary.CONTROL_PAUSE, vocabulary.CONTROL_QUARANTINE, vocabulary.CONTROL_KILL)
DELIVERED = (What.BUS, What.TEAM, What.AGENT)
"""Of these what was admitted before stands still too."""

_APPLY_SECONDS = 15.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Stop:
    """Something that is stopped.

    Attributes:
        target: what.
        level: how: `paused`, `quarantined` or `killed`.
        command: that stopped it.
        held: messages that it holds.
        feeds: agents to which nothing is delivered because of it.
    """

    target: Target
    level: str
    command: Command
    held: int
    feeds: tuple[Feed, ...]

    @property
    def waiting(self) -> int:
        """Admitted messages that are not delivered because of it."""
        return sum(feed.waiting for feed in self.feeds)


async def standing_stops(ledger: LedgerReader, registrar: Connection) -> list[Stop]:
    """Everything that is stopped.

    Args:
        ledger: through a connection that may read it.
        registrar: sees the consumers.

    Raises:
        LedgerError: a record is none that a gateway admits.
        Unavailable: the broker does not answer.
    """
    controls, found = await standing(ledger)
    held = held_by(await state_of(ledger), found)
    by_target: dict[Target, list[Feed]] = {}
    for feed in await feeds(registrar):
        if feed.paused and (stopped := stops(controls, feed.principal)):
            by_target.setdefault(stopped[1], []).append(feed)
    return [
        Stop(
            target,
            controls.levels[target].word,
            command,
            held[target],
            tuple(by_target.get(target, ())),
        )
        for target, command in found.items()
    ]


def fed(target: Target, found: Iterable[Feed]) -> list[Feed]:
    """Those whom a target stops at delivery."""
    alone = Controls().after(CONTROL_PAUSE, target)
    return [feed for feed in found if stops(alone, feed.principal)]


async def until_aligned(
    ledger: LedgerReader, registrar: Connection, target: Target, seq: int
) -> list[Feed]:
    """Those whom a target stops at delivery, once they are as the ledger says.

    Args:
        ledger: see `standing_stops`.
        registrar: so too.
        target: of the command.
        seq: of its record.

    Raises:
        Unavailable: they did not become so in time.
    """
    if target.what not in DELIVERED:
        return []
    deadline = time.monotonic() + _APPLY_SECONDS
    while True:
        controls, _ = await standing(ledger)
        touched = fed(target, await feeds(registrar))
        wrong = misaligned(controls, touched)
        if not wrong:
            return touched
        if time.monotonic() > deadline:
            names = ", ".join(str(feed.principal) for feed in wrong)
            raise Unavailable(
                f"record {seq} is in force at the gateway, but not yet at the "
                f"deliveries to {names}; the output of `tidegate up` says why"
            )
        await asyncio.sleep(_POLL_SECONDS)


def known_targets(state: State, what: What) -> frozenset[str] | None:
    """The targets of a kind that the ledger knows, as text; None where nobody can tell."""
    match what:
        case What.TEAM:
            names = frozenset(name.partition(".")[0] for name in state.roster.members)
        case What.AGENT:
            names = frozenset(state.roster.members)
        case What.CAPABILITY:
            names = frozenset(state.roster.providers)
        case What.BLUEPRINT:
            names = state.blueprints.names
        case _:
            return None
    return frozenset(str(Target(what, name)) for name in names)


def unknown(state: State, target: Target) -> str | None:
    """What may be meant instead, where nothing is known of a target; None where something is."""
    known = known_targets(state, target.what)
    if known is None or str(target) in known:
        return None
    return meant(str(target), known)


def released(state: State) -> int:
    """How many messages nothing keeps waiting any more, in the state right after a command."""
    return sum(
        not missing(state, hold) and not state.stopped(hold.by, hold.kind, hold.to, hold.envelope)
        for hold in state.holds
    )


def would_release(state: State, command: str, target: Target) -> int:
    """How many messages a command would let go on.

    Raises:
        InvalidEnvelope: code `data`; it would be refused.
    """
    after = state.controls.after(command, target)
    return sum(
        not missing(state, hold)
        and after.on(state.touched(hold.by, hold.kind, hold.to, hold.envelope)) is None
        for hold in state.holds
    )
