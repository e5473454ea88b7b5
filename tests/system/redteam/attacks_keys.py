"""Keys and tokens that were good once, are somebody else's, or never were good at all.

Each key here is one more of the attacker's own, so that its main one stays what it is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from bus.test_operator_mode import forged
from support import AGENT, OTHER
from tidegate_bus.identity import jwt
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.jwt import Key
from tidegate_bus.identity.operator_mode import AccountLimits, Authority
from tidegate_schemas.identity import Role
from tidegate_schemas.vocabulary import COORDINATOR, GATEWAY

from .attack import INBOX, NOW, OWN, PULL, Attack, Marks, event
from .ground import Foe
from .layouts import SECOND, Signed
from .wire import Wire, frame

REFUSED = Marks(logged=("authentication error",))
_ALLOWED = "allow permitted"


async def _issue(foe: Foe, until: int | None = None) -> Credentials:
    found = await foe.ground.broker.issue(until)
    foe.keys.add(found.public_key)
    return found


async def _enter(foe: Foe, found: Credentials, name: str) -> Wire:
    """A connection by which something was submitted, and work is waited for."""
    wire = await Wire.open(foe.url, found)
    foe.wires.append(wire)
    await wire.say(b"SUB _INBOX_team_agent.> 1", b"SUB receipt.team.agent 2")
    await wire.say(frame(OWN, event(name), INBOX))
    await wire.write(frame(PULL, b'{"batch": 9}', INBOX) + b"\r\n")
    await wire.say()
    assert not wire.cut, wire.errors
    return wire


async def _try(foe: Foe, connect: Callable[[Wire], bytes]) -> None:
    """Log in, and without waiting for an answer submit, ask for work and listen to all."""
    wire = await foe.dial()
    await wire.say(
        connect(wire),
        b"SUB _INBOX_team_agent.> 1",
        b"SUB > 2",
        frame(OWN, event("must not get in"), INBOX),
        frame("ledger.0.allow.task.work.do"),
        frame(PULL, NOW, INBOX),
    )


def _proof(secret: Credentials, fields: dict[str, str], wire: Wire) -> bytes:
    return wire.proof(secret, **fields)


async def _knock(foe: Foe, found: Credentials) -> None:
    await _try(foe, lambda wire: wire.proof(found))


async def _after_the_end(foe: Foe, wire: Wire, found: Credentials) -> Marks:
    """What is cut stays so: work that comes now is not for it, and nothing it says counts."""
    await wire.end()
    heard = len(wire.heard)
    await foe.ground.feed()
    await wire.write(frame(OWN, event("after the end")) + b"\r\n")
    await _knock(foe, found)
    assert len(wire.heard) == heard
    return Marks(records=(_ALLOWED,), logged=("authentication error",))


async def _revoked_live(foe: Foe) -> Marks:
    """A connection that stands and waits for work when its key is taken back."""
    found = await _issue(foe)
    wire = await _enter(foe, found, f"before {found.public_key}")
    await foe.ground.broker.revoke(found)
    return await _after_the_end(foe, wire, found)


async def _revoked(foe: Foe) -> Marks:
    """A login with it afterwards."""
    found = await _issue(foe)
    await foe.ground.broker.revoke(found)
    await _knock(foe, found)
    return REFUSED


async def _revoked_again_and_again(foe: Foe) -> Marks:
    """Twenty logins at once, in a row."""
    found = await _issue(foe)
    await foe.ground.broker.revoke(found)
    for _ in range(20):
        await _knock(foe, found)
    return REFUSED


async def _revoked_with_the_fields_of_the_good_one(foe: Foe) -> Marks:
    """The public key, or token, that is still good, with the signature of the one that is not."""
    found = await _issue(foe)
    await foe.ground.broker.revoke(found)
    await _try(
        foe, lambda wire: wire.proof(foe.secret, sig=found.sign(wire.info["nonce"]).decode())
    )
    return REFUSED


async def _expired(foe: Foe) -> Marks:
    """A key, or token, whose time is over."""
    await _knock(foe, await _issue(foe, time.time_ns() - 5 * SECOND))
    return REFUSED


async def _expires_live(foe: Foe) -> Marks:
    """A connection that stands when its time is over."""
    until = time.time_ns() + 2 * SECOND
    found = await _issue(foe, until)
    wire = await _enter(foe, found, f"before {found.public_key}")
    await foe.ground.broker.lapse(until)
    return await _after_the_end(foe, wire, found)


async def _rotated_away(foe: Foe) -> Marks:
    """The key from before a rotation; the one after it works meanwhile."""
    old, new = await _issue(foe), await _issue(foe)
    await foe.ground.broker.revoke(old)
    await _knock(foe, old)
    await _enter(foe, new, f"rotated {new.public_key}")
    return Marks(records=(_ALLOWED,), logged=("authentication error",))


def _beside_the_key(**fields: Any) -> Callable[[Foe], Awaitable[Marks]]:
    """The own key, and something else beside it: it is the key that counts."""

    async def run(foe: Foe) -> Marks:
        wire = await foe.open(**fields)
        await wire.say(frame(OWN, event(f"beside {list(fields)}")), frame("in.team.other"))
        # In operator mode the log names what was said beside the token, not what it proves.
        return Marks(records=(_ALLOWED,), logged=('Publish Violation - Subject "in.team.other"',))

    return run


async def _key_of_another(foe: Foe) -> Marks:
    """The token or public key of another, signed with the own seed."""
    for who in (OTHER, GATEWAY, COORDINATOR):
        other = foe.ground.broker.secret(who)
        known = {"jwt": other.jwt} if other.jwt else {"nkey": other.public_key}
        await _try(foe, partial(_proof, foe.secret, known))
    return REFUSED


async def _token_where_there_is_a_list(foe: Foe) -> Marks:
    """Tokens of an authority of the attacker's own, where the broker goes by a list."""
    folder = foe.ground.broker.folder / "own-authority"
    own = Authority.open(folder, AccountLimits(2**30), now=time.time_ns())
    for who, role in ((AGENT, Role.AGENT), (OTHER, Role.AGENT), (GATEWAY, Role.GATEWAY)):
        await _knock(foe, own.credentials(who, role, now=time.time_ns()))
    return REFUSED


async def _token_beside_a_key(foe: Foe) -> Marks:
    """A token that says that it is the gateway, beside the own key, where there is a list."""
    folder = foe.ground.broker.folder / "own-authority"
    own = Authority.open(folder, AccountLimits(2**30), now=time.time_ns())
    token = own.credentials(GATEWAY, Role.GATEWAY, now=time.time_ns()).jwt
    return await _beside_the_key(jwt=token)(foe)


# Where the broker goes by tokens


async def _no_token(foe: Foe) -> Marks:
    """The public key of somebody who has a token, without it."""
    await _knock(foe, Credentials(foe.secret.seed))
    await _try(foe, lambda wire: wire.proof(Credentials(foe.secret.seed), jwt=""))
    return REFUSED


async def _public_key_of_another_beside_the_token(foe: Foe) -> Marks:
    """In the broker's log stands what was said; what counts is what was proven."""
    other = foe.ground.broker.secret(OTHER).public_key
    wire = await foe.open(nkey=other)
    await wire.say(frame(OWN, event("claimed")), frame("in.team.other"))
    return Marks(records=(_ALLOWED,), logged=('Publish Violation - Subject "in.team.other"',))


def _edited(**claims: Any) -> Callable[[Foe], Awaitable[Marks]]:
    """The own token with other claims, under the old signature and under one of the own."""

    async def run(foe: Foe) -> Marks:
        header, payload, signature = foe.secret.jwt.split(".")
        found = json.loads(base64.urlsafe_b64decode(payload + "=="))
        body = {**found["nats"], **claims.get("nats", {})}
        text = f"{header}.{_base64(json.dumps({**found, **claims, 'nats': body}).encode())}"
        own = _base64(base64.b64decode(foe.secret.sign(text)))
        for token in (f"{text}.{signature}", f"{text}.{own}", f"{text}."):
            await _knock(foe, Credentials(foe.secret.seed, token))
        return REFUSED

    return run


async def _self_signed(foe: Foe) -> Marks:
    """Says of itself, as user, account and operator at once, that it may do everything."""
    header, payload, _ = foe.secret.jwt.split(".")
    found = json.loads(base64.urlsafe_b64decode(payload + "=="))
    found |= {"iss": found["sub"], "nats": {**found["nats"], "issuer_account": found["sub"]}}
    text = f"{header}.{_base64(json.dumps(found).encode())}"
    signature = _base64(base64.b64decode(foe.secret.sign(text)))
    await _knock(foe, Credentials(foe.secret.seed, f"{text}.{signature}"))
    return REFUSED


def _header(**fields: str) -> Callable[[Foe], Awaitable[Marks]]:
    """The own token under a header that asks for less."""

    async def run(foe: Foe) -> Marks:
        _, payload, signature = foe.secret.jwt.split(".")
        header = _base64(json.dumps({"typ": "JWT", "alg": "ed25519-nkey", **fields}).encode())
        for end in (signature, ""):
            token = f"{header}.{payload}.{end}"
            await _knock(foe, Credentials(foe.secret.seed, token))
        return REFUSED

    return run


def _forged(make: Callable[[Foe], dict[str, Any]]) -> Callable[[Foe], Awaitable[Marks]]:
    """A token as the authority would sign it, but for one thing."""

    async def run(foe: Foe) -> Marks:
        broker = foe.ground.broker
        assert isinstance(broker, Signed)
        await _knock(foe, forged(broker, **make(foe)))
        return REFUSED

    return run


async def _unknown_accounts(foe: Foe) -> Marks:
    """Each makes the broker look for an account for two seconds; it looks for all at once."""
    broker = foe.ground.broker
    assert isinstance(broker, Signed)
    attempts = [forged(broker, **_stranger(foe)) for _ in range(30)]
    await asyncio.gather(*(_knock(foe, found) for found in attempts))
    return REFUSED


def _seed(foe: Foe, name: str) -> str:
    """What an attacker does not have, and would have to have."""
    return (foe.ground.broker.folder / "authority" / f"{name}.nk").read_text().strip()


def _stranger(_: Foe) -> dict[str, Any]:
    seed = Key.ACCOUNT.new_seed()
    return {"by": seed, "account": Key.ACCOUNT.public(seed)}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


EDITS: dict[str, dict[str, Any]] = {
    "another's name": {"nats": {"tags": ["team:team", "name:other"]}},
    "everybody's name": {"nats": {"tags": ["team:*", "name:*"]}},
    "permissions": {"nats": {"pub": {"allow": [">"]}, "sub": {"allow": [">"]}}},
    "a later end": {"exp": 2**33},
    "an earlier beginning": {"iat": 1},
    "a bearer": {"nats": {"bearer_token": True}},
    "another's key": {"sub": Key.USER.public(Key.USER.new_seed())},
    "the type of an account": {"nats": {"type": "account"}},
}
FORGERIES: dict[str, Callable[[Foe], dict[str, Any]]] = {
    "a key that the account does not know": lambda _: {"by": Key.ACCOUNT.new_seed()},
    "the account's key, which is bound to no role": lambda foe: {"by": _seed(foe, "AGENTS")},
    "that key, without a name of the account": lambda foe: {
        "by": _seed(foe, "AGENTS"),
        "body": {"issuer_account": ""},
    },
    "the account of the streams": lambda foe: {"account": Key.ACCOUNT.public(_seed(foe, "BUS"))},
    "the account of the system": lambda foe: {"account": Key.ACCOUNT.public(_seed(foe, "SYS"))},
    "permissions beside the role": lambda _: {"body": {"pub": jwt.Permission(allow=(">",))}},
}
KEYS = [
    Attack("a revoked key that is connected", _revoked_live),
    Attack("a revoked key", _revoked),
    Attack("a revoked key, twenty times", _revoked_again_and_again),
    Attack("a revoked key's signature for a good one", _revoked_with_the_fields_of_the_good_one),
    Attack("an expired key", _expired),
    Attack("a key that expires while it is connected", _expires_live),
    Attack("a key from before a rotation", _rotated_away),
    Attack("the key of another", _key_of_another),
    Attack("another's name beside the key", _beside_the_key(name="team.other")),
    Attack("another user beside the key", _beside_the_key(user="team.other", **{"pass": "x"})),
]
"""Whatever the layout."""
LISTED = [
    Attack("a token where there is a list", _token_where_there_is_a_list),
    Attack("a token beside the key where there is a list", _token_beside_a_key),
]
SIGNED = [
    Attack("a key without its token", _no_token),
    Attack("another's public key beside the token", _public_key_of_another_beside_the_token),
    Attack("a token signed by itself", _self_signed),
    Attack("a token without an algorithm", _header(alg="none")),
    Attack("a token of the first version", _header(alg="ed25519")),
    Attack("thirty tokens of accounts of its own", _unknown_accounts),
    *(Attack(f"a token edited to {name}", _edited(**what)) for name, what in EDITS.items()),
    *(Attack(f"a token of {name}", _forged(what)) for name, what in FORGERIES.items()),
]
"""Where the broker goes by tokens."""
