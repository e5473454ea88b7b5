"""What an attack is: a name, what it does, and the marks that it must leave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tidegate_schemas.envelope import Envelope, encode

from .ground import Foe
from .wire import frame

OWN = "in.team.agent"
"""The one subject on which the attacker may submit."""
PULL = "$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.team_agent"
"""How it asks for its own work."""
INBOX = "_INBOX_team_agent.x"
"""Where it may be answered."""
NOW = b'{"batch": 1, "no_wait": true}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """How others see that it was tried.

    Attributes:
        refused: subjects that the broker's log names, as refused, next to the attacker's key.
        records: verdict and reason of each record that the attacker has caused, in order.
        logged: words in the broker's log.
        warned: events in the log of our own library, at the victim's.
        answered: words of the answer that the attacker got; nobody else is told.
        own: why there is nothing to see: it is the attacker's own right, and did nothing else.
    """

    refused: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    own: str = ""


@dataclass(frozen=True, slots=True)
class Attack:
    """Something that somebody tries who has a valid key."""

    name: str
    run: Callable[[Foe], Awaitable[Marks]]

    def __str__(self) -> str:
        return self.name


def event(name: str, **attributes: Any) -> bytes:
    """An envelope of the attacker that policy admits, unless its attributes forbid it."""
    return encode(Envelope.new("noise", {"by": "the attacker"}, id=name, **attributes))


def publish(
    subject: str, payload: bytes = b"{}", reply: str = "", headers: bytes | None = None
) -> Callable[[Foe], Awaitable[Marks]]:
    """A publish that the broker itself must refuse."""

    async def run(foe: Foe) -> Marks:
        await foe.wire.publish(subject, payload, reply, headers)
        return Marks(refused=(subject,))

    return run


def subscribe(subject: str, queue: str = "") -> Callable[[Foe], Awaitable[Marks]]:
    """A subscription that the broker itself must refuse."""

    async def run(foe: Foe) -> Marks:
        await foe.wire.subscribe(f"{subject} {queue}".strip())
        return Marks(refused=(subject,))

    return run


def submit(
    payload: bytes, *records: str, headers: bytes | None = None
) -> Callable[[Foe], Awaitable[Marks]]:
    """A submission on the own subject, and what the ledger must say of it."""

    async def run(foe: Foe) -> Marks:
        await foe.wire.say(frame(OWN, payload, INBOX, headers))
        return Marks(records=records)

    return run


def answered(payload: bytes, headers: bytes, *words: str) -> Callable[[Foe], Awaitable[Marks]]:
    """A submission that the stream itself must refuse, and the words of its answer."""

    async def run(foe: Foe) -> Marks:
        await foe.wire.say(frame(OWN, payload, INBOX, headers))
        await foe.wire.until(lambda: any(heard.subject == INBOX for heard in foe.wire.heard))
        return Marks(answered=words)

    return run
