"""The work of others, and what may be done with the own consumer beyond its purpose."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from .attack import NOW, PULL, Attack, Marks
from .attacks_replies import own_work
from .ground import Foe

SETTLEMENTS = {
    "ack": b"+ACK",
    "an empty ack": b"",
    "nak": b"-NAK",
    "a late nak": b'-NAK {"delay": 1}',
    "term": b"+TERM",
    "term with a reason": b"+TERM because",
    "progress": b"+WPI",
    "next": b"+NXT " + NOW,
    "nonsense": b"\x00\xff+ACK",
}


def _settle(body: bytes, forge: Callable[[str], str]) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        subject = forge(foe.ground.held_ack)
        await foe.wire.publish(subject, body, "_INBOX_team_agent.x")
        return Marks(refused=(subject,))

    return run


def _second_form(ack: str) -> str:
    """`$JS.ACK.<domain>.<account hash>.…`, as brokers may write it one day."""
    return ack.replace("$JS.ACK.", "$JS.ACK._.ABCDEFGH.") + ".x"


FORGED: dict[str, Callable[[str], str]] = {
    "of the other stream": lambda ack: ack.replace("LEDGER_0", "INGRESS_0"),
    "of another ledger": lambda ack: ack.replace("LEDGER_0", "LEDGER_1"),
    "in the second form": _second_form,
    "in capitals": lambda ack: ack.replace("team_other", "TEAM_OTHER"),
    "of every consumer": lambda ack: ack.replace("team_other", "*"),
    "with more behind": lambda ack: ack + ".more",
    "in the second form with the own name as account": lambda ack: ack.replace(
        "$JS.ACK.", "$JS.ACK._.LEDGER_0."
    ),
}


def _own_consumer(
    body: bytes, forge: Callable[[list[str]], str]
) -> Callable[[Foe], Awaitable[Marks]]:
    """The sequences of what another holds, under the own consumer."""

    async def run(foe: Foe) -> Marks:
        subject = forge(foe.ground.held_ack.split("."))
        await foe.wire.publish(subject, body, "_INBOX_team_agent.x")
        return Marks(own="the broker takes it for the own consumer, which holds no such delivery")

    return run


def _named(tokens: list[str]) -> str:
    return ".".join([*tokens[:3], "team_agent", *tokens[4:]])


def _all_sequences(tokens: list[str]) -> str:
    return f"$JS.ACK.LEDGER_0.team_agent.1.{2**63}.{2**63}.{tokens[7]}.0"


def _negative(tokens: list[str]) -> str:
    return f"$JS.ACK.LEDGER_0.team_agent.-1.-1.-1.{tokens[7]}.-1"


def _short(_: list[str]) -> str:
    return "$JS.ACK.LEDGER_0.team_agent.1"


def _smuggled(tokens: list[str]) -> str:
    """The own consumer where the permission looks, the other one where a v2 reader would."""
    return ".".join(["$JS.ACK.LEDGER_0.team_agent", *tokens[2:]])


def _body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


REQUESTS = {
    "for very much": _body(batch=2**62, no_wait=True),
    "of less than nothing": _body(batch=-5, no_wait=True),
    "for ever": _body(batch=1, expires=2**62),
    "of a group": _body(batch=1, no_wait=True, group="g", id="x", min_pending=-1),
    "that names another consumer": _body(batch=1, no_wait=True, consumer="team_other"),
    "that names another stream": _body(batch=1, no_wait=True, stream_name="INGRESS_0"),
    "with a filter": _body(batch=1, no_wait=True, filter_subject="ledger.>"),
    "that is no JSON": b"{",
    "that is nested": b"[" * 50_000,
    "that is a word": b'"all"',
}


def _request(body: bytes) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        await foe.ground.feed()
        await foe.wire.publish(PULL, body, "_INBOX_team_agent.x")
        await foe.wire.publish(PULL, NOW, "_INBOX_team_agent.x")
        await foe.wire.until(lambda: bool(foe.wire.heard))
        return Marks(own="whatever is asked, the own work is what comes")

    return run


async def _many_requests(foe: Foe) -> Marks:
    """Each is remembered for the answer that will come: more than the broker keeps waiting."""
    request = f"PUB {PULL} _INBOX_team_agent.x 12\r\n" + '{"batch": 1}'
    await foe.wire.say(*[request.encode()] * 5_000)
    await foe.wire.until(lambda: any(b"409" in heard.headers for heard in foe.wire.heard))
    return Marks(own="the broker forgets the oldest requests, and tells the attacker")


async def _work_of_a_task_twice(foe: Foe) -> Marks:
    """Acks what it has acked, naks it, terminates it: nothing comes back, nobody else gets it."""
    await foe.ground.feed()
    ack = await own_work(foe)
    for body in SETTLEMENTS.values():
        await foe.wire.publish(ack, body)
    return Marks(own="the own delivery is settled once, with its first ack")


WORK = [
    *(Attack(f"{name} another's work", _settle(body, str)) for name, body in SETTLEMENTS.items()),
    *(Attack(f"ack {name}", _settle(b"+ACK", forge)) for name, forge in FORGED.items()),
    *(
        Attack(f"{what} another's sequence under the own consumer", _own_consumer(body, _named))
        for what, body in SETTLEMENTS.items()
        if what != "next"  # that asks for the own next work
    ),
    Attack("ack sequences of the future", _own_consumer(b"+ACK", _all_sequences)),
    Attack("ack negative sequences", _own_consumer(b"+ACK", _negative)),
    Attack("ack with too few tokens", _own_consumer(b"+ACK", _short)),
    Attack("ack another consumer behind the own", _own_consumer(b"+ACK", _smuggled)),
    Attack("terminate another consumer behind the own", _own_consumer(b"+TERM", _smuggled)),
    *(Attack(f"a pull {name}", _request(body)) for name, body in REQUESTS.items()),
    Attack("more pulls than can wait", _many_requests),
    Attack("settle the own work in every way", _work_of_a_task_twice),
]
