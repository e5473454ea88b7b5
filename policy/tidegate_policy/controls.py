"""Operators' controls: what is paused, quarantined or killed, and whom that touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from tidegate_schemas import vocabulary
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.governance import Target, What
from tidegate_schemas.subjects import Kind


class Level(IntEnum):
    """How much is stopped; the higher one decides where several touch a message."""

    PAUSED = 1
    QUARANTINED = 2
    KILLED = 3

    @property
    def word(self) -> str:
        """For people, and for `Reason`."""
        return self.name.lower()


_SETS = {
    vocabulary.CONTROL_PAUSE: Level.PAUSED,
    vocabulary.CONTROL_QUARANTINE: Level.QUARANTINED,
    vocabulary.CONTROL_KILL: Level.KILLED,
}
_ENDS = {
    vocabulary.CONTROL_RESUME: (Level.PAUSED,),
    vocabulary.CONTROL_RELEASE: (Level.QUARANTINED, Level.KILLED),
}
COMMANDS = frozenset((*_SETS, *_ENDS))


@dataclass(frozen=True, slots=True)
class Touched:
    """What a message has to do with.

    Attributes:
        senders: who sends it, and on whose behalf.
        receiver: who it is for, where that is one: a task's provider, who asked for a result.
        run, blueprint: which it belongs to; empty where to none.
    """

    kind: Kind
    to: str
    senders: tuple[str, ...]
    receiver: str
    run: str
    blueprint: str


@dataclass(frozen=True, slots=True)
class Controls:
    """Everything that is stopped. Never changes; `after` gives the next one."""

    levels: Mapping[Target, Level] = field(default_factory=dict[Target, Level])

    def after(self, command: str, target: Target) -> Controls:
        """The controls once the command is in the ledger.

        Raises:
            InvalidEnvelope: code `data`; there is nothing to end, or more is stopped already.
        """
        now = self.levels.get(target)
        if command in _SETS:
            level = _SETS[command]
            if now is not None and now >= level:
                raise InvalidEnvelope("data", f"{target} is {now.word} already")
            return Controls({**self.levels, target: level})
        if now not in _ENDS[command]:
            how = f"is {now.word}" if now else "is not stopped"
            hint = f"; `{'release' if now and now > Level.PAUSED else 'resume'}` ends that"
            raise InvalidEnvelope("data", f"{target} {how}{hint if now else ''}")
        return Controls({t: level for t, level in self.levels.items() if t != target})

    def on(self, message: Touched) -> tuple[Level, Target] | None:
        """The highest level that touches a message, and by which target."""
        found = [
            (level, target)
            for target in _targets(message, sides=True)
            if (level := self.levels.get(target)) and level > Level.PAUSED
        ]
        if message.kind in (Kind.TASK, Kind.EVENT):
            found += (
                (level, target)
                for target in _targets(message, sides=False)
                if (level := self.levels.get(target)) is Level.PAUSED
            )
        return max(found, default=None)


def _targets(message: Touched, *, sides: bool) -> Iterator[Target]:
    """What a message may be stopped by; with `sides` also by where it comes from."""
    if message.kind is not Kind.CONTROL:
        yield Target(What.BUS)
    principals = [message.receiver] if message.receiver else []
    if sides:
        principals += message.senders
    for principal in principals:
        yield Target(What.AGENT, principal)
        yield Target(What.TEAM, principal.partition(".")[0])
    if message.kind is Kind.TASK:
        yield Target(What.CAPABILITY, message.to)
        # Not what comes back: it changes nothing in a run that was stopped for good.
        if message.blueprint:
            yield Target(What.BLUEPRINT, message.blueprint)
        if message.run:
            yield Target(What.RUN, message.run)
