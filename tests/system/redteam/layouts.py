"""The layouts of the broker that an attack may meet, and what its administrator does meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.test_operator_mode import Deployment, Wallet, open_authority
from support import ADMIN, AGENT, Broker
from support import until as wait_until
from support.broker import IN_CONTAINER, configure
from tidegate_bus.broker.accounts import WARDEN
from tidegate_bus.broker.server import Server
from tidegate_bus.identity import jwt
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.jwt import Key
from tidegate_bus.identity.keyring import Keyring, new_seed
from tidegate_bus.identity.operator_mode import Authority
from tidegate_bus.identity.register import Entry
from tidegate_bus.identity.register import Key as Registered
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

SECOND = 1_000_000_000
Alter = Callable[[dict[str, Any]], None]


class Layout(StrEnum):
    """How the broker knows who connects, and in which accounts they are."""

    APART = "accounts apart"
    """By a list, everybody in an account of their own: static mode."""
    TOGETHER = "one account"
    """By a list, all in one account. No product configuration is like that."""
    OPERATOR = "operator mode"
    """By a token, all in one account."""

    @property
    def shared(self) -> bool:
        """Whether agents are in one account, so that answers can be aimed at each other."""
        return self is not Layout.APART


BY_LIST = pytest.mark.parametrize(
    "judge", [{"layout": Layout.APART}], indirect=True, ids=[str(Layout.APART)]
)
BY_TOKENS = pytest.mark.parametrize(
    "judge", [{"layout": Layout.OPERATOR}], indirect=True, ids=[str(Layout.OPERATOR)]
)
"""For tests with a judge: in which layout."""


class Listed(Broker):
    """A broker that knows keys by a list. Each change of the list is a reload.

    Attributes:
        layout: which one it is.
        forgetful: who revokes forgets to take the key out of the list.
    """

    def __init__(
        self,
        server: Server,
        keyring: Keyring,
        folder: Path,
        layout: Layout = Layout.APART,
        alter: Alter | None = None,
    ) -> None:
        super().__init__(server, keyring, folder)
        self.layout = layout
        self.forgetful = False
        self._alter = alter
        self._keys = [_registered(keyring.ensure(AGENT))]

    def secret(self, who: Principal) -> Credentials:
        """What somebody connects with."""
        self.keyring.ensure(who)
        return Credentials(self.keyring.seed(who))

    async def issue(self, until: int | None = None) -> Credentials:
        """One more key for the attacker, good until a time (ns since 1970)."""
        found = Credentials(new_seed())
        self._keys.append(_registered(found.public_key, until))
        await self._apply(time.time_ns())
        return found

    async def revoke(self, found: Credentials) -> None:
        """Take back what was issued."""
        if not self.forgetful:
            self._keys = [key for key in self._keys if key.public != found.public_key]
        await self._apply(time.time_ns())

    async def lapse(self, until: int) -> None:
        """The time until which keys are good is over: nobody waits for it here."""
        await self._apply(until)

    async def _apply(self, now: int) -> None:
        """List the keys that are good at a time, and have the broker take the list in."""
        entry = Entry(principal=str(AGENT), role=Role.AGENT, keys=tuple(self._keys))
        known, *more = entry.good(now)
        file = configure(
            self.folder, self.keyring, self.server.port, together=self.layout is Layout.TOGETHER
        )
        document = altered(file, self._alter)
        for account in document["accounts"].values():
            users = account.get("users", [])
            own = [user for user in users if user.get("nkey") == known]
            users += [{**user, "nkey": key} for user in own for key in more]
        file.write_text(json.dumps(document))
        await self.server.reload()


class Signed(Deployment):
    """A broker in operator mode, with a user of the tests that may do everything in BUS."""

    layout = Layout.OPERATOR

    def __init__(self, server: Server, folder: Path, authority: Authority, admin: str) -> None:
        super().__init__(server, folder, authority)
        self.keyring = _Purse(folder / "keys", authority, admin)

    def secret(self, who: Principal) -> Credentials:
        """What somebody connects with."""
        return Credentials.parse(self.keyring.seed(who))

    async def issue(self, until: int | None = None) -> Credentials:
        """One more key and token for the attacker, good until a time (ns since 1970)."""
        if until is None:
            return self.credentials(AGENT)
        return self.credentials(AGENT, now=until - 5 * SECOND, expires=until)

    async def revoke(self, found: Credentials) -> None:  # type: ignore[override]
        """Take back what was issued."""
        await self.authority.revoke(
            await self.connect(WARDEN), found.public_key, Role.AGENT, now=time.time_ns()
        )

    async def lapse(self, until: int) -> None:
        """The broker has a clock of its own; the last second of a token is a whole one."""
        await wait_until(lambda: time.time_ns() > until + SECOND)


Site = Listed | Signed


class _Purse(Wallet):
    """The wallet, with the credentials of that user in it."""

    def __init__(self, folder: Path, authority: Authority, admin: str) -> None:
        super().__init__(folder, authority)
        self._texts[ADMIN] = admin

    def ensure(self, principal: Principal) -> str:
        """The public key of a principal."""
        return Credentials.parse(self.seed(principal)).public_key


def _registered(public: str, until: int | None = None) -> Registered:
    return Registered(public, rfc3339(time.time_ns()), None if until is None else rfc3339(until))


def altered(file: Path, alter: Alter | None) -> dict[str, Any]:
    """A configuration with a defence less."""
    document: dict[str, Any] = json.loads(file.read_text())
    if alter:
        alter(document)
        file.write_text(json.dumps(document))
    return document


async def start(folder: Path, layout: Layout, alter: Alter | None = None) -> Site:
    """Start a broker without streams.

    Args:
        folder: for its store and its log.
        layout: see there.
        alter: changes the configuration, not that of operator mode.
    """
    if IN_CONTAINER:
        pytest.skip("needs the process and the log of the broker, which runs in a container")
    log = folder / "server.log"
    if layout is Layout.OPERATOR:
        assert alter is None
        authority = open_authority(folder)
        document = json.loads(authority.configuration(store=folder / "jetstream"))
        admin = _admit_admin(document, folder / "authority")
        (folder / "nats.conf").write_text(json.dumps(document))
        server = await Server.start(folder / "nats.conf", log)
        return Signed(server, folder, authority, admin)
    keyring = Keyring(folder / "keys")
    file = configure(folder, keyring, together=layout is Layout.TOGETHER)
    altered(file, alter)
    return Listed(await Server.start(file, log), keyring, folder, layout, alter)


def _admit_admin(document: dict[str, Any], keys: Path) -> str:
    """Add a signing key without a scope to BUS; credentials that it has signed."""

    def seed(name: str) -> str:
        return (keys / f"{name}.nk").read_text().strip()

    mine, bus = Key.ACCOUNT.new_seed(), Key.ACCOUNT.public(seed("BUS"))
    claims = jwt.decode(document["resolver_preload"][bus], jwt.Account)
    signing = (*claims.nats.signing_keys, Key.ACCOUNT.public(mine))
    document["resolver_preload"][bus] = jwt.encode(
        msgspec.structs.replace(claims.nats, signing_keys=signing),
        subject=bus,
        seed=seed("operator-signing"),
        now=claims.iat * SECOND,
        name=claims.name,
    )
    user, everything = Key.USER.new_seed(), jwt.Permission(allow=(">",))
    body = jwt.User(
        issuer_account=bus,
        pub=everything,
        sub=everything,
        subs=jwt.UNLIMITED,
        data=jwt.UNLIMITED,
        payload=jwt.UNLIMITED,
    )
    token = jwt.encode(body, subject=Key.USER.public(user), seed=mine, now=time.time_ns())
    return jwt.credentials_text(Credentials(user, token))
