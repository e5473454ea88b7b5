"""How the broker learns who may connect: from a list of its own, or from signed tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import structlog
from prometheus_client import Counter

from tidegate_bus.broker.accounts import MAX_SUBSCRIPTIONS, WARDEN, account, configuration
from tidegate_bus.broker.generated import write_generated
from tidegate_bus.connection import Connection
from tidegate_bus.identity import jwt
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.keyring import write_secret
from tidegate_bus.identity.operator_mode import AccountLimits, Authority
from tidegate_bus.watch.cut import cut_all
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.subjects import Principal

from .identities import Wanted
from .project import Project, State

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.access")

RELOADS = Counter("tidegate_broker_reloads", "Configurations that the broker took in")
REVOCATIONS = Counter("tidegate_broker_revocations", "Keys that were taken back, in operator mode")

_SECOND = 1_000_000_000

Connect = Callable[[Principal], Awaitable[Connection]]
"""Gives a connection of one of the bus's own principals."""


class Access(Protocol):
    """Says to a broker who may connect."""

    def write(self, wanted: Wanted, port: int, tls: dict[str, Any] | None) -> bool:
        """Write its configuration; whether it is another one than before.

        Args:
            wanted: who may connect.
            port: where it listens; 0 for a free one.
            tls: the block of that name.
        """
        ...

    async def admit(self, wanted: Wanted, port: int, tls: dict[str, Any] | None) -> None:
        """Tell a running broker: who goes is cut, who comes is let in, others do not notice.

        Raises:
            ServerFailed, Unavailable: it could not be told; try again.
        """
        ...


class Listed:
    """The broker's configuration lists everybody; it is read again after each change.

    Args:
        project: whose broker it is.
        reload: makes the broker read its configuration again.
    """

    def __init__(self, project: Project, reload: Callable[[], Awaitable[None]]) -> None:
        self._project = project
        self._reload = reload
        self._stale = False  # whether the broker has not taken in what is written
        self._accounts: set[Principal] = set()

    def write(self, wanted: Wanted, port: int, tls: dict[str, Any] | None) -> bool:
        """See `Access`."""
        state = self._project.state
        for entry in wanted.entries.values():
            state.keyring.creds_path(entry.who).unlink(missing_ok=True)  # of operator mode
        return write_generated(state.server_configuration, body(self._project, wanted, port, tls))

    async def admit(self, wanted: Wanted, port: int, tls: dict[str, Any] | None) -> None:
        """See `Access`."""
        before, now = self._accounts, {user.principal for user in wanted.users()}
        self._stale |= self.write(wanted, port, tls)
        if self._stale:
            await self._reload()
            if not now <= before:  # the imports of a new account are dead until the next one
                await self._reload()
            self._stale, self._accounts = False, now
            RELOADS.inc()


class Signed:
    """Operator mode: who has a token for its key may connect, and revocations are pushed.

    Args:
        project: whose broker it is.
        connect: gives a connection of one of the bus's own principals.
    """

    def __init__(self, project: Project, connect: Connect) -> None:
        self._project = project
        self._connect = connect

    def write(self, wanted: Wanted, port: int, tls: dict[str, Any] | None) -> bool:
        """See `Access`. Also writes the credentials of whoever has a seed here."""
        self._issue(_authority(self._project, wanted.now), wanted)
        path = self._project.state.server_configuration
        return write_generated(path, body(self._project, wanted, port, tls))

    async def admit(self, wanted: Wanted, port: int, tls: dict[str, Any] | None) -> None:
        """See `Access`."""
        authority = _authority(self._project, wanted.now)
        self._issue(authority, wanted)  # first, so that who is cut comes back with the new key
        gone = [i for i in wanted.gone if not authority.is_revoked(i.public_key, i.role)]
        if gone:
            async with await self._connect(WARDEN) as warden:
                for identity in gone:
                    key, role = identity.public_key, identity.role
                    await authority.revoke(warden, key, role, now=wanted.now)
                    REVOCATIONS.inc()
                    _log.info("key revoked", principal=str(identity.principal), key=key)
                if any(account(identity.role) == "BUS" for identity in gone):
                    # The broker has dropped every pull that was out, and would count the next
                    # delivery of each as made.
                    await cut_all(warden)
        self.write(wanted, port, tls)  # for the next start: the broker has been told

    def _issue(self, authority: Authority, wanted: Wanted) -> None:
        keyring = self._project.state.keyring
        for identity in wanted.users():
            who, key = identity.principal, identity.public_key
            entry = wanted.entries[str(who)]
            expires = parse_rfc3339(entry.expires) if entry.expires else None
            seed = keyring.find_seed(who)
            ours = seed is not None and Credentials(seed).public_key == key
            path = keyring.creds_path(who) if ours else keyring.token_path(who)
            revoked = authority.revoked_at(key, identity.role)  # it went, and came back
            if key != entry.good(wanted.now)[-1]:
                continue
            if revoked is None and _is_issued(path, key, expires):
                continue
            now = max(wanted.now, 0 if revoked is None else (revoked + 1) * _SECOND)
            if expires is not None and expires // _SECOND <= now // _SECOND:
                continue  # tokens are good for whole seconds
            token = authority.token(who, identity.role, key, now=now, expires=expires)
            text = jwt.credentials_text(Credentials(seed, token)) if ours and seed else token
            write_secret(path, text, replace=True)
            if revoked is not None:
                authority.reinstate(key, identity.role)


def access(project: Project, connect: Connect, reload: Callable[[], Awaitable[None]]) -> Access:
    """The way that the project's settings name.

    Raises:
        InvalidInput: the ledger here was made in the other mode.
    """
    mode, marker = project.settings.server.mode, project.state.mode
    found = recorded_mode(project.state)
    if found not in (None, mode):
        raise InvalidInput(
            f"the ledger in {project.state.folder} was made with `server.mode: {found}`, and the "
            f"accounts of the other mode cannot see it; set it back, or name another --state"
        )
    if found is None:
        marker.write_text(f"{mode}\n", "ascii")
    if mode == "operator":
        return Signed(project, connect)
    return Listed(project, reload)


def body(project: Project, wanted: Wanted, port: int, tls: dict[str, Any] | None) -> str:
    """The configuration that the broker is to have; arguments as of `Access.write`."""
    store, log = project.state.store, project.state.server_log
    if project.settings.server.mode == "operator":
        authority = _authority(project, wanted.now)
        return authority.configuration(store=store, port=port or -1, tls=tls, log=log)
    return configuration(
        wanted.users(),
        store=store,
        store_bytes=project.limits().store_bytes,
        port=port or -1,
        tls=tls,
        log=log,
    )


def _authority(project: Project, now: int) -> Authority:
    limits = AccountLimits(project.limits().store_bytes, subscriptions=MAX_SUBSCRIPTIONS)
    return Authority.open(project.state.authority, limits, now=now)


def recorded_mode(state: State) -> str | None:
    """In which mode the ledger was made; None where there is none yet."""
    try:
        return state.mode.read_text("ascii").strip() or None
    except OSError:
        return None


def _is_issued(path: Path, key: str, expires: int | None) -> bool:
    """Whether a file holds a token for a key until a time."""
    try:
        text = path.read_text("ascii")
        token = Credentials.parse(text).jwt if path.suffix == ".creds" else text.strip()
        claims = jwt.decode(token, jwt.User)
    except (OSError, ValueError, InvalidInput):
        return False
    return claims.sub == key and claims.exp == (expires or 0) // _SECOND
