"""The answer aimed at somebody: nobody checks where a client wants to be answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .attack import NOW, OWN, PULL, Attack, Marks, event
from .ground import Foe

REPLIES = {
    "a submission of another": "in.team.other",
    "a submission of a publisher": "in.outside.source",
    "a record": "ledger.0.allow.event.thing.happened",
    "the tail": "tail.0",
    "a receipt of another": "receipt.team.other",
    "a receipt of a publisher": "receipt.outside.source",
    "the purge of the ingress": "$JS.API.STREAM.PURGE.INGRESS_0",
    "the deletion of the ledger": "$JS.API.STREAM.DELETE.LEDGER_0",
    "another's pull": "$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.team_other",
    "the system": "$SYS.REQ.SERVER.PING",
    "another's inbox": "_INBOX_team_other.x",
    "the gateway's inbox": "_INBOX_tidegate_gateway.x",
    "a response of the broker": "_R_.aaaaaa.bbbbbb",
}
EXACT: dict[str, Callable[[Foe], str]] = {
    "the exact inbox of a worker": lambda foe: foe.ground.worker_inbox,
    "the exact inbox of a publisher": lambda foe: foe.ground.publisher_inbox,
    "the ack of another's work": lambda foe: foe.ground.held_ack,
}
"""Aims that an attacker would have to guess."""

_WARNED = {
    "a receipt of another": "not receipts",
    "a receipt of a publisher": "not receipts",
}


def _warned(foe: Foe, name: str) -> tuple[str, ...]:
    """What the victim's own library says when it is handed what is not for it."""
    return (_WARNED[name],) if name in _WARNED and foe.ground.shared else ()


def _always(subject: str) -> Callable[[Foe], str]:
    return lambda _: subject


def _aims() -> dict[str, Callable[[Foe], str]]:
    return {**{name: _always(subject) for name, subject in REPLIES.items()}, **EXACT}


def _publish(name: str, aim: Callable[[Foe], str]) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        errors = await foe.wire.publish(OWN, event(f"reply to {name}"), aim(foe))
        if errors:  # the broker knows an ack where it sees one
            return Marks(logged=("Violation",))
        return Marks(records=("allow permitted",), warned=_warned(foe, name))

    return run


def _pull(name: str, aim: Callable[[Foe], str]) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        await foe.ground.feed()
        errors = await foe.wire.publish(PULL, NOW, aim(foe))
        return _work_sent_elsewhere(foe, name, errors)

    return run


def _pull_nothing(name: str, aim: Callable[[Foe], str]) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        await no_work_left(foe)
        if await foe.wire.publish(PULL, NOW, aim(foe)):
            return Marks(logged=("Violation",))
        own = "it was told that there is no work, on another subject"
        return Marks(own=own, warned=_warned(foe, name))

    return run


def _next(name: str, aim: Callable[[Foe], str]) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        await foe.ground.feed(2)
        ack = await own_work(foe)
        errors = await foe.wire.publish(ack, b"+NXT " + NOW, aim(foe))
        return _work_sent_elsewhere(foe, name, errors)

    return run


def _work_sent_elsewhere(foe: Foe, name: str, errors: list[str]) -> Marks:
    if errors:
        return Marks(logged=("Violation",))
    if name == "the exact inbox of a worker" and foe.ground.shared:
        return Marks(warned=("forged or damaged delivery ignored",))
    own = "its own work went nowhere; the consumer counts it as delivered"
    return Marks(own=own, warned=_warned(foe, name))


async def no_work_left(foe: Foe) -> None:
    """Take all own tasks away, so that the next answer is a status."""
    await foe.wire.publish(PULL, b'{"batch": 10000, "no_wait": true}', "_INBOX_team_agent.rest")
    await foe.wire.until(
        lambda: any(b" 404" in h.headers or b" 408" in h.headers for h in foe.wire.heard)
    )


async def own_work(foe: Foe) -> str:
    """Take one task that was meant for the attacker; its ack subject."""
    await foe.wire.publish(PULL, NOW, "_INBOX_team_agent.work")

    def acks() -> list[str]:
        return [heard.reply for heard in foe.wire.heard if heard.reply.startswith("$JS.ACK.")]

    await foe.wire.until(lambda: bool(acks()))
    return acks()[-1]


async def _status_for_a_worker(foe: Foe) -> Marks:
    """The ends of requests that the worker has not made."""
    await no_work_left(foe)
    for body in (NOW, b'{"batch": 1, "expires": 1}', b"{", b'{"batch": -1}', b'{"max_bytes": 1}'):
        await foe.wire.publish(PULL, body, foe.ground.worker_inbox)
    return Marks(own="the worker asks anew, which is logged at a level that tests do not keep")


async def _acceptance_with_a_known_sequence(foe: Foe) -> Marks:
    """The same submission again and again: each answer tells the publisher another sequence."""
    for _ in range(5):
        await foe.wire.publish(OWN, event("acceptance"), foe.ground.publisher_inbox)
    return Marks(records=("allow permitted", *["duplicate repeated"] * 4))


ANSWERS = [
    *(Attack(f"publish, answer to {name}", _publish(name, aim)) for name, aim in _aims().items()),
    *(Attack(f"pull, answer to {name}", _pull(name, aim)) for name, aim in _aims().items()),
    *(
        Attack(f"pull nothing, answer to {name}", _pull_nothing(name, aim))
        for name, aim in _aims().items()
    ),
    *(Attack(f"ack +NXT, answer to {name}", _next(name, aim)) for name, aim in _aims().items()),
    Attack("statuses for a worker", _status_for_a_worker),
    Attack("acceptances for a publisher", _acceptance_with_a_known_sequence),
]
