"""Connections: who one is, and the protocol beyond what any client writes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

from support import OTHER, until
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.keyring import new_seed
from tidegate_schemas.vocabulary import GATEWAY

from .attack import INBOX, NOW, OWN, PULL, Attack, Marks, event
from .ground import Foe
from .wire import Wire, frame

_ALLOWED = "allow permitted"
_MiB = 2**20
_FOREIGN = frame("ledger.0.allow.task.work.do")


def _json(fields: str) -> bytes:
    return b"CONNECT {" + fields.encode() + b"}"


def _nkey(foe: Foe, who: Any) -> str:
    return foe.ground.broker.keyring.ensure(who)


def _own_signature(foe: Foe, wire: Wire, **fields: Any) -> bytes:
    return wire.proof(foe.secret, **fields)


def _stranger(_: Foe, wire: Wire) -> bytes:
    return wire.proof(Credentials(new_seed()))


IMPOSTORS: dict[str, Callable[[Foe, Wire], bytes]] = {
    "no key": lambda foe, wire: _json(""),
    "no CONNECT at all": lambda foe, wire: _FOREIGN,
    "a key that nobody knows": _stranger,
    "another's public key": lambda foe, wire: _own_signature(foe, wire, nkey=_nkey(foe, OTHER)),
    "the gateway's public key": lambda foe, wire: _own_signature(
        foe, wire, nkey=_nkey(foe, GATEWAY)
    ),
    "a signature over another nonce": lambda foe, wire: wire.proof(
        foe.secret, nonce=str(foe.wire.info["nonce"])
    ),
    "no signature": lambda foe, wire: _own_signature(foe, wire, sig=""),
    "a signature of zeros": lambda foe, wire: _own_signature(
        foe, wire, sig=base64.b64encode(bytes(64)).decode()
    ),
    "a signature that is no base64": lambda foe, wire: _own_signature(foe, wire, sig="\x00" * 64),
    "a wildcard for a key": lambda foe, wire: _own_signature(foe, wire, nkey="*"),
    "a user and a password": lambda foe, wire: _json('"user": "tidegate.gateway", "pass": ""'),
    "a key as a user": lambda foe, wire: _json(f'"user": "{_nkey(foe, GATEWAY)}", "pass": "x"'),
    "a token": lambda foe, wire: _json('"auth_token": "tidegate"'),
    "a JWT that says so": lambda foe, wire: _own_signature(
        foe, wire, nkey="", jwt="eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.e30."
    ),
    "no JSON": lambda foe, wire: b"CONNECT {",
    "another broker": lambda foe, wire: _json('"server_id": "x", "cluster": "c", "lnoc": true'),
    "a leaf of brokers": lambda foe, wire: _json(
        '"name": "leaf", "remote_account": "BUS", "hub": true, "cluster": "c"'
    ),
    "a gateway of brokers": lambda foe, wire: _json('"gateway": "g", "server_id": "x"'),
}

FIELDS: dict[str, dict[str, object]] = {
    "an account": {"account": "BUS", "new_account": True},
    "the system account": {"account": "SYS"},
    "another's name": {"name": "tidegate.gateway"},
    "a user beside the key": {"user": "tidegate.gateway", "pass": "x"},
    "permissions": {"permissions": {"publish": {"allow": [">"]}}, "import": {"allow": [">"]}},
    "a JWT beside the key": {"jwt": ""},
    "another protocol version": {"protocol": 99},
    "every flag": {"verbose": True, "pedantic": True, "echo": False, "tls_required": True},
    "names with line ends": {
        "name": "a\n[1] 2026/01/01 00:00:00.000000 [INF] forged",
        "lang": "b\r\n[INF] forged",
        "version": "c\n[INF] forged",
    },
    "a name of half a megabyte": {"name": "x" * 2**19},
}

OPERATIONS = {
    "of a route": b"RS+ BUS ledger.> 1",
    "of a route, a message": b"RMSG BUS ledger.0.allow.task.work.do 2\r\n{}",
    "of a leaf": b"LS+ ledger.>",
    "of a leaf, a message": b"LMSG ledger.0.allow.task.work.do 2\r\n{}",
    "of an account": b"A+ BUS",
    "of the broker to a client": b"MSG ledger.0.allow.task.work.do 1 2\r\n{}",
    "unknown": b"FLUSHALL",
    "a websocket": b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    "a TLS greeting": bytes.fromhex("16030100a5010000a1") + bytes(160),
    "HTTP": b"POST /jsz?acc=BUS HTTP/1.1\r\nContent-Length: 0\r\n",
    "a header longer than all": b"HPUB in.team.agent 90 10\r\nNATS/1.0\r\n",
    "a negative header": b"HPUB in.team.agent -1 10\r\nNATS/1.0\r\n",
    "a negative size": b"PUB in.team.agent -1\r\n",
    "a size over 64 bits": b"PUB in.team.agent 18446744073709551617\r\n",
    "a size that is none": b"PUB in.team.agent 0x10\r\n",
    "no size": b"PUB in.team.agent\r\n",
    "more words": b"PUB in.team.agent a b c 2\r\n{}",
    "no words": b"PUB\r\n",
    "unsubscribe nothing": b"UNSUB",
    "subscribe to nothing": b"SUB",
    "unsubscribe with words": b"UNSUB a b c",
    "a line without end": b"PUB " + b"x" * 10_000,
    "a payload without its end": b"PUB in.team.agent 2\r\n{}XXPING",
}

SMUGGLED = {
    "behind a short size": b"PUB in.team.agent 2\r\n{}\r\n" + frame("in.team.other"),
    "behind an empty message": b"PUB in.team.agent 0\r\n\r\n" + frame("in.team.other"),
    "behind a tab": b"PUB in.team.other\t_INBOX_team_agent.x\t2\r\n{}",
    "behind a carriage return": b"PUB in.team.other\r 2\r\n{}",
    "in small letters": b"pub in.team.other 2\r\n{}",
    "with more spaces": b"PUB    in.team.other      2\r\n{}",
    "behind headers": b"HPUB in.team.agent 12 14\r\nNATS/1.0\r\n\r\n{}\r\n"
    + frame("in.team.other"),
}


def _impostor(connect: Callable[[Foe, Wire], bytes]) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        wire = await foe.dial()
        await wire.say(connect(foe, wire), _FOREIGN, b"SUB > 1")
        return Marks(logged=("[ERR]",))

    return run


def _field(fields: dict[str, object]) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        wire = await foe.open(**fields)
        await wire.say(_FOREIGN, b"SUB ledger.> 1", frame("in.team.other"))
        log = foe.ground.broker.server.log.read_text()
        assert not any(line.startswith("[INF] forged") for line in log.splitlines())
        if wire.cut:
            return Marks(logged=("[ERR]",))
        if "user" in fields and foe.secret.jwt:  # the log names it instead of what was proven
            return Marks(logged=('Publish Violation - Subject "ledger.0',))
        return Marks(refused=("ledger.0.allow.task.work.do", "ledger.>", "in.team.other"))

    return run


def _operation(line: bytes) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        wire = await foe.open()
        await wire.say(line)
        return Marks(logged=("[ERR]",))

    return run


def _smuggle(lines: bytes) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        await foe.wire.say(lines)
        subject = "in.team.other\r" if b"other\r " in lines else "in.team.other"
        own = lines.count(b"PUB in.team.agent")
        return Marks(refused=(subject,), records=("reject malformed",) * own)

    return run


def _too_large(headers: bytes | None) -> Callable[[Foe], Awaitable[Marks]]:
    async def run(foe: Foe) -> Marks:
        wire = await foe.open()
        await wire.say(frame(OWN, b"x" * (_MiB + 1), headers=headers))
        return Marks(logged=("maximum payload exceeded",))

    return run


async def _no_headers(foe: Foe) -> Marks:
    """Says that it knows no headers, and sends them."""
    wire = await foe.open(headers=False, no_responders=False)
    await wire.say(frame(OWN, event("headers"), headers=b"NATS/1.0\r\n\r\n"))
    await wire.end()
    return Marks(logged=("message headers not supported",))


async def _inform(foe: Foe) -> Marks:
    """What one broker says to another, on a client's connection."""
    wire = await foe.open()
    await wire.say(b'INFO {"server_id": "x", "connect_urls": ["127.0.0.1:1"], "nonce": "x"}')
    await wire.say(frame("in.team.other"))
    return Marks(refused=("in.team.other",))


async def _connect_again(foe: Foe) -> Marks:
    """A second CONNECT on a proven connection, with the key of another."""
    wire = await foe.open()
    await wire.say(
        wire.proof(foe.secret, nkey=_nkey(foe, OTHER)), wire.proof(foe.secret, account="BUS")
    )
    if not wire.cut:
        await wire.say(frame("in.team.other"), _FOREIGN)
    return Marks(logged=("[ERR]",))


async def _half_a_frame(foe: Foe) -> Marks:
    """Twenty connections that begin a large message and fall silent."""
    for _ in range(20):
        wire = await foe.open()
        await wire.write(b"PUB in.team.agent %d\r\n" % _MiB + b"x" * 1_000)
        foe.leave(wire)
    return Marks(own="nothing is stored before a message is whole")


async def _silence(foe: Foe) -> Marks:
    """Fifty connections that never say who they are: the broker cuts them after two seconds."""
    wires = [await foe.dial() for _ in range(50)]
    await asyncio.gather(*(wire.end() for wire in wires))
    assert all("Authentication Timeout" in wire.errors[-1] for wire in wires)
    return Marks(own="the broker tells only the one that is silent")


async def _connections(foe: Foe) -> Marks:
    """Two hundred connections of one key, each of which submits."""
    wires = await asyncio.gather(*(foe.open() for _ in range(200)))
    await asyncio.gather(*(wire.publish(OWN, event(f"flood-{n}")) for n, wire in enumerate(wires)))
    return Marks(records=(_ALLOWED,) * 200)


async def _wrong_keys(foe: Foe) -> Marks:
    """A hundred connections that guess."""
    for _ in range(100):
        wire = await foe.dial()
        await wire.say(_stranger(foe, wire))
        await wire.end()
    return Marks(logged=("authentication error",))


async def _subscriptions(foe: Foe) -> Marks:
    """Twenty thousand subscriptions below the own inbox, and as many that are refused."""
    before = foe.server_bytes()
    for part in range(20):
        numbers = range(1_000 * part, 1_000 * part + 1_000)
        await foe.wire.say(*(b"SUB _INBOX_team_agent.s%d %d" % (n, n + 100) for n in numbers))
        await foe.wire.say(*(b"UNSUB %d 99999999999999999999" % (n + 50) for n in numbers))
    await foe.wire.say(*(b"SUB in.%d.> %d" % (n, n) for n in range(100)))
    assert foe.server_bytes() - before < 200 * _MiB
    return Marks(refused=("in.99.>",))


async def _never_reading(foe: Foe) -> Marks:
    """Four deliveries, heard on sixty subscriptions by somebody who does not read them."""
    await foe.ground.feed(4, size=200_000)
    before = foe.server_bytes()
    wire = await foe.open()
    await wire.say(*(b"SUB _INBOX_team_agent.> %d" % (n + 100) for n in range(60)))
    await wire.write((frame(PULL, NOW, INBOX) + b"\r\n") * 4)
    foe.leave(wire)
    log = foe.ground.broker.server.log
    await until(lambda: "Slow Consumer" in log.read_text())
    assert foe.server_bytes() - before < 300 * _MiB
    return Marks(logged=("Slow Consumer",))


async def _pings(foe: Foe) -> Marks:
    """Fifty thousand pings and pongs that nobody asked for."""
    wire = await foe.open()
    await wire.write(b"PONG\r\n" * 50_000)
    for _ in range(10):
        await wire.say(*[b"PONG"] * 5_000)
    return Marks(own="the broker answers its pings and ignores the pongs")


async def _flags(foe: Foe) -> Marks:
    """Verbose, pedantic and without echo: what is refused stays so."""
    wire = await foe.open(verbose=True, pedantic=True, echo=False)
    await wire.publish("in.team.*")
    if not wire.cut:
        await wire.publish("in.team.other")
    return Marks(logged=("Violation",))


CONNECTIONS = [
    *(Attack(f"connect with {name}", _impostor(connect)) for name, connect in IMPOSTORS.items()),
    *(Attack(f"name {name}", _field(fields)) for name, fields in FIELDS.items()),
    *(Attack(f"speak: {name}", _operation(line)) for name, line in OPERATIONS.items()),
    *(Attack(f"smuggle {name}", _smuggle(lines)) for name, lines in SMUGGLED.items()),
    Attack("a payload that is too large", _too_large(None)),
    Attack("headers that are too large", _too_large(b"NATS/1.0\r\n\r\n")),
    Attack("headers without having said so", _no_headers),
    Attack("speak: of a server", _inform),
    Attack("CONNECT twice", _connect_again),
    Attack("half a frame", _half_a_frame),
    Attack("silence", _silence),
    Attack("flags", _flags),
    Attack("two hundred connections", _connections),
    Attack("a hundred wrong keys", _wrong_keys),
    Attack("twenty thousand subscriptions", _subscriptions),
    Attack("copies that nobody reads", _never_reading),
    Attack("fifty thousand pongs", _pings),
]
