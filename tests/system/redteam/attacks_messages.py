"""What is submitted: headers that mean something to the broker, payloads that mean harm."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from tidegate_schemas.envelope import Envelope, encode

from .attack import INBOX, NOW, OWN, PULL, Attack, Marks, answered, event, submit
from .ground import Foe
from .wire import frame

REJECTED = "reject malformed"
RESERVED = "reject reserved_header"
NOWHERE = "deny unknown_destination"
DENIED = "deny forbidden"
UNASKED = "deny not_asked"
ALLOWED = "allow permitted"


def headers(*lines: str) -> bytes:
    """A header block."""
    return "\r\n".join(("NATS/1.0", *lines, "", "")).encode()


REFUSED_HEADERS = {
    "rollup of everything": (("Nats-Rollup: all",), "rollup not permitted"),
    "rollup of the subject": (("Nats-Rollup: sub",), "rollup not permitted"),
    "rollup in small letters": (("nats-rollup: all",), "seq"),
    "a time to live": (("Nats-TTL: 1s",), "TTL is disabled"),
    "a time to live for ever": (("Nats-TTL: never",), "TTL is disabled"),
    "a counter": (("Nats-Incr: 1",), "counter"),
    "a schedule": (
        ("Nats-Schedule: @at 2000-01-01T00:00:00Z", "Nats-Schedule-Target: in.team.other"),
        "schedules is disabled",
    ),
    "a repeated schedule": (
        ("Nats-Schedule: @every 1s", "Nats-Schedule-Target: in.outside.source"),
        "schedules is disabled",
    ),
    "a batch of one": (
        ("Nats-Batch-Id: b", "Nats-Batch-Sequence: 1", "Nats-Batch-Commit: 1"),
        "atomic publish is disabled",
    ),
    "the other stream": (("Nats-Expected-Stream: LEDGER_0",), "expected stream does not match"),
    "a last sequence": (("Nats-Expected-Last-Sequence: 1",), "wrong last sequence"),
    "a last sequence of the subject": (
        ("Nats-Expected-Last-Subject-Sequence: 999999",),
        "wrong last sequence",
    ),
    "a last sequence of another's subject": (
        (
            "Nats-Expected-Last-Subject-Sequence: 999999",
            "Nats-Expected-Last-Subject-Sequence-Subject: in.outside.source",
        ),
        "wrong last sequence",
    ),
    "a last id": (("Nats-Expected-Last-Msg-Id: canary-1",), "wrong last msg ID"),
    "a later version of the API": (("Nats-Required-Api-Level: 99",), "seq"),
    "a source": (("Nats-Stream-Source: LEDGER_0 1 1 > >",), "10227"),
}
"""Headers that streams know, and what INGRESS answers; `seq` where it takes the message."""

RESERVED_HEADERS = {
    "those of a stored record": (
        *("Nats-Stream: LEDGER_0", "Nats-Subject: ledger.0.allow.task.work.do"),
        *("Nats-Sequence: 1", "Nats-Time-Stamp: 2026-01-01T00:00:00Z", "Nats-Last-Sequence: 0"),
    ),
    "a sequence of a stored record": ("Nats-Sequence: 1",),
    "a subject of a stored record": ("Nats-Subject: ledger.0.allow.task.work.do",),
    "a time of a stored record": ("Nats-Time-Stamp: 2026-01-01T00:00:00Z",),
    "a stream in capitals": ("NATS-STREAM: LEDGER_0",),
    "a stream in small letters": ("nats-stream: LEDGER_0",),
    "a stream of nothing": ("Nats-Stream:",),
    "what is left of a batch": ("Nats-Num-Pending: 0", "Nats-Last-Sequence: 99"),
    "a marker of limits": ("Nats-Marker-Reason: Purge", "KV-Operation: PURGE"),
}
"""Headers that only what is handed out of a stream bears: a copy with them is no submission."""

IGNORED_HEADERS = {
    "a status": ("Status: 409", "Description: Consumer Deleted"),
    "the end of a request": ("Status: 408", "Nats-Pending-Messages: 1000000"),
    "a heartbeat": ("Status: 100", "Nats-Last-Consumer: 1", "Nats-Last-Stream: 1"),
    "another sender": ("Nats-Client-Id: 1", "Nats-Request-Info: {}", "From: outside.source"),
    "another account": ('Nats-Request-Info: {"acc": "BUS", "user": "tidegate.gateway"}',),
    "the same thing many times": tuple(f"A: {number}" for number in range(2_000)),
}

_LONE = "NATS/1.0\r\n\xff: \xff\r\n \r\nno colon\r\n\r\n".encode("latin-1")


def _envelope(**fields: Any) -> bytes:
    plain: dict[str, Any] = {"specversion": "1.0", "id": "raw", "source": "x", "type": "noise"}
    return json.dumps({**plain, **fields}).encode()


def _data(text: bytes, name: bytes = b"data") -> bytes:
    """An envelope whose data is these bytes."""
    return b'{"specversion":"1.0","source":"x","type":"noise","id":"%b","data":%b}' % (name, text)


PAYLOADS = {
    "nothing": (b"", REJECTED),
    "no JSON": (b"{", REJECTED),
    "a number": (b"1", REJECTED),
    "arrays in arrays": (_data(b"[" * 100_000 + b"]" * 100_000), REJECTED),
    "objects in objects": (_data(b'{"a":' * 40_000 + b"1" + b"}" * 40_000), REJECTED),
    "brackets without end": (b"[" * 200_000, REJECTED),
    "invalid UTF-8": (_data(b'"\xff\xfe"'), REJECTED),
    "an overlong form": (_data(b'"\xc0\xaf"'), REJECTED),
    "half a surrogate pair as bytes": (_data(b'"\xed\xa0\x80"'), REJECTED),
    "UTF-16": (_envelope().decode().encode("utf-16"), REJECTED),
    "a byte order mark": (b"\xef\xbb\xbf" + _envelope(), REJECTED),
    "an attribute twice": (_data(b'1,"id":"twice"'), REJECTED),
    "an attribute twice, once escaped": (_data(b'1,"\\u0069d":"twice"'), REJECTED),
    "NaN": (_data(b"NaN"), REJECTED),
    "infinity": (_data(b"-Infinity"), REJECTED),
    "NUL bytes": (b"\x00" * 1_000, REJECTED),
    "a NUL in the id": (_envelope(id="a\x00b"), REJECTED),
    "a line end in the type": (_envelope(type="a\r\nPUB in.team.other 0"), REJECTED),
    "an endless number": (_envelope(attempt=10**400), REJECTED),
    "an attempt below one": (_envelope(attempt=-1), REJECTED),
    "a destination with a wildcard": (_envelope(to="thing.*"), REJECTED),
    "a full wildcard": (_envelope(to=">"), REJECTED),
    "a destination with an empty token": (_envelope(to="thing..happened"), REJECTED),
    "a destination that ends in a dot": (_envelope(to="thing.happened."), REJECTED),
    "a destination with a space": (_envelope(to="thing happened"), REJECTED),
    "a destination with a tab": (_envelope(to="thing\thappened"), REJECTED),
    "a destination with a line end": (_envelope(to="thing.happened\n"), REJECTED),
    "a destination with CR LF": (_envelope(to="x 0\r\n\r\nPUB tail.0 0"), REJECTED),
    "a destination in look-alikes": (_envelope(to="thing.h\u0430ppened"), REJECTED),
    "a destination in full width": (_envelope(to="thing\uff0ehappened"), REJECTED),
    "a destination of 300 characters": (_envelope(to="x" * 300), REJECTED),
    "a destination that climbs": (_envelope(to="../ledger"), REJECTED),
    "an empty destination": (_envelope(to=""), REJECTED),
    "a kind that is not there": (_envelope(kind="record", to="x"), REJECTED),
    "the kind of unreadable messages": (_envelope(kind="unknown", to="none"), REJECTED),
    "a list for a destination": (_envelope(to=["thing", "happened"]), REJECTED),
    "an id of a kilobyte": (_envelope(id="x" * 1_024), REJECTED),
    "a future expiry without sense": (_envelope(expirytime="99999-01-01T00:00:00Z"), REJECTED),
    "a past expiry": (_envelope(id="late", expirytime="2000-01-01T00:00:00Z"), "deny expired"),
    "an envelope that is too large": (_data(b'"' + b"x" * 2**18 + b'"'), "reject oversized"),
    "just under the largest message": (b"x" * (2**20 - 1), "reject oversized"),
    "a huge number": (_data(b"1" * 100_000, b"huge"), ALLOWED),
    "an exponent without end": (_data(b"1e999999999", b"exponent"), ALLOWED),
    "a hundred thousand members": (_data(b"[%b1]" % (b"1," * 100_000), b"many"), ALLOWED),
}

LIES = {
    "a source": (_envelope(id="l1", source="/tidegate/coordinator"), ALLOWED),
    "a field `by`": (_envelope(by="tidegate.coordinator"), REJECTED),
    "a field `sender`": (_envelope(sender="outside.source"), REJECTED),
    "a field `verdict`": (_envelope(verdict="allow"), REJECTED),
    "a field `seq`": (_envelope(seq=1), REJECTED),
    "on behalf of the operator": (_envelope(id="l2", onbehalfof="tidegate.operator"), ALLOWED),
    "a subject of another": (_envelope(id="l3", subject="in.outside.source"), ALLOWED),
    "the run of another": (_envelope(id="l4", runid="r1", stepid="s", attempt=1), ALLOWED),
    "a task to oneself": (_envelope(id="l5", kind="task", to="work.do"), DENIED),
    "a task of a run": (_envelope(id="l6", kind="task", to="work.do", runid="r1"), DENIED),
    "a task nobody takes": (_envelope(id="l7", kind="task", to="no.body"), NOWHERE),
    "a command": (_envelope(id="l8", kind="control", to="run.cancel", data={"run": "r1"}), DENIED),
    "a registration": (_envelope(id="l9", kind="control", to="agent.register"), DENIED),
    "a result for another's step": (
        _envelope(
            id="l10", kind="result", type="tidegate.result", to="tidegate.coordinator",
            runid="r1", stepid="s1", attempt=1, answers="1",
        ),
        UNASKED,
    ),
    "a result of nothing": (_envelope(id="l13", kind="result", to="outside.source"), UNASKED),
    "a result to nobody": (_envelope(id="l11", kind="result", to="no.body"), NOWHERE),
    "an id of another": (_envelope(id="canary-held"), ALLOWED),
    "the end of a run": (_envelope(id="l12", type="run.finished", runid="r1"), ALLOWED),
}  # fmt: skip


def _answer(lines: tuple[str, ...], word: str, name: str) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        marks = await answered(event(name), headers(*lines), word)(foe)
        return Marks(records=(ALLOWED,)) if word == "seq" else marks

    return run


async def _ids_of_another(foe: Foe) -> Marks:
    """The ids that the others will use next: the broker's own memory is one for all."""
    frames = [
        frame(OWN, event(f"squat-{n}"), headers=headers(f"Nats-Msg-Id: canary-{n}"))
        for n in range(50)
    ]
    await foe.wire.say(*frames)
    return Marks(records=(ALLOWED,) * 50)


async def _envelope_ids_of_another(foe: Foe) -> Marks:
    """The gateway remembers ids by sender: the same id of another is another message."""
    last = sum(1 for id_ in foe.ground.sent if id_.startswith("canary-answer"))
    ids = [f"canary-{number}" for number in range(last, last + 30)]
    await foe.wire.say(*(frame(OWN, event(id_)) for id_ in ids))
    return Marks(records=(ALLOWED,) * 30)


async def _open_batches(foe: Foe) -> Marks:
    """More batches than a stream may have open, none of them ever committed."""
    batches = [
        frame(OWN, b"{}", INBOX, headers(f"Nats-Batch-Id: b{n}", "Nats-Batch-Sequence: 1"))
        for n in range(60)
    ]
    await foe.wire.say(*batches)
    await foe.wire.until(lambda: len(foe.wire.heard) >= len(batches))
    return Marks(answered=("atomic publish is disabled",))


async def _fast_batches(foe: Foe) -> Marks:
    """Fast-ingest batches, which the ledger takes and the ingress must not."""
    begun = [frame(OWN, b"{}", f"_INBOX_team_agent.b{n}.500.fail.1.0.$FI") for n in range(60)]
    await foe.wire.say(*begun)
    await foe.wire.until(lambda: len(foe.wire.heard) >= len(begun))
    return Marks(answered=("batch publish is disabled",))


async def _fast_batch_to_another(foe: Foe) -> Marks:
    """The flow control of such a batch, aimed at another's inbox."""
    await foe.wire.publish(OWN, event("fast"), "_INBOX_team_other.b.1.ok.1.2.$FI")
    return Marks(own="the refusal goes nowhere, and nothing is stored")


def _trace(destination: str, *, only: bool) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        lines = (f"Nats-Trace-Dest: {destination}", *(("Nats-Trace-Only: 1",) if only else ()))
        await foe.wire.publish(OWN, event(f"trace {destination} {only}"), headers=headers(*lines))
        return Marks(logged=(f'Subject "{destination}"',))

    return run


async def _replay(foe: Foe) -> Marks:
    """A record with the headers under which it came, and the envelope inside it."""
    await foe.ground.feed()
    await foe.wire.publish(PULL, NOW, INBOX)
    await foe.wire.until(lambda: any(heard.reply for heard in foe.wire.heard))
    task = next(heard for heard in foe.wire.heard if heard.reply)
    await foe.wire.publish(OWN, task.payload, task.reply.replace("$JS.ACK", "x"))
    await foe.wire.publish(OWN, task.payload, headers=headers("Nats-Stream: LEDGER_0"))
    envelope = json.dumps(json.loads(task.payload)["envelope"], separators=(",", ":")).encode()
    await foe.wire.publish(OWN, envelope)
    return Marks(records=(REJECTED, RESERVED, DENIED))


async def _receipt(foe: Foe) -> Marks:
    """A receipt that says allow, submitted."""
    allow = [{"id": "canary-1", "verdict": "allow", "seq": 1, "reason": "permitted", "ingress": 1}]
    await foe.wire.publish(OWN, json.dumps(allow).encode(), "receipt.outside.source")
    warned = ("not receipts",) if foe.ground.shared else ()
    return Marks(records=(REJECTED,), warned=warned)


async def _same_again(foe: Foe) -> Marks:
    """One envelope, a denied one, again and again: there is one verdict."""
    task = encode(Envelope.new("work.do", id="again", kind="task", to="work.do"))
    await foe.wire.say(*[frame(OWN, task)] * 20)
    return Marks(records=(DENIED, *["duplicate repeated"] * 19))


MESSAGES = [
    *(
        Attack(f"header: {name}", _answer(lines, word, name))
        for name, (lines, word) in REFUSED_HEADERS.items()
    ),
    *(
        Attack(f"headers: {name}", submit(event(name), RESERVED, headers=headers(*lines)))
        for name, lines in RESERVED_HEADERS.items()
    ),
    *(
        Attack(f"headers: {name}", submit(event(name), ALLOWED, headers=headers(*lines)))
        for name, lines in IGNORED_HEADERS.items()
    ),
    Attack("headers: bytes", submit(event("bytes"), ALLOWED, headers=_LONE)),
    Attack("headers: only a status", submit(event("s"), ALLOWED, headers=b"NATS/1.0 503\r\n\r\n")),
    Attack("headers: no end", submit(event("open"), ALLOWED, headers=b"NATS/1.0\r\n")),
    Attack("headers: none at all", submit(event("none"), REJECTED, headers=b"x")),
    *(
        Attack(f"trace to {to}{' only' if only else ''}", _trace(to, only=only))
        for to in ("in.team.other", "ledger.0.allow.event.thing.happened", "_INBOX_team_other.x")
        for only in (False, True)
    ),
    Attack("header: ids of another", _ids_of_another),
    Attack("envelope ids of another", _envelope_ids_of_another),
    Attack("open batches", _open_batches),
    Attack("fast batches", _fast_batches),
    Attack("a fast batch to another", _fast_batch_to_another),
    Attack("replay a record", _replay),
    Attack("submit a receipt", _receipt),
    Attack("the same again", _same_again),
    *(Attack(f"payload: {name}", submit(*what)) for name, what in PAYLOADS.items()),
    *(Attack(f"lie: {name}", submit(*what)) for name, what in LIES.items()),
]
