"""Who is wanted on the bus: the project's files and the register put together."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from tidegate_bus.broker.accounts import Identity
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.identity.guarded import Stamp
from tidegate_bus.identity.register import Entry, Key
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.identity import Registration, Revocation, Role, is_built_in
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import IDENTITY_REGISTER, IDENTITY_REVOKE, OPERATOR

if TYPE_CHECKING:
    from .project import Project, State


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everybody who is wanted at a moment, by `team.name`, with what the project's files add.

    Make one with `wanted`.
    """

    entries: Mapping[str, Entry]
    details: Mapping[str, dict[str, str]]
    """Version and owner, where a manifest says so."""
    now: int
    gone: tuple[Identity, ...] = ()
    """Keys of the register that are not good, or of somebody who is not wanted."""

    def users(self) -> list[Identity]:
        """Whom the broker is to know: a user for each key that is good."""
        return [
            Identity(entry.who, entry.role, key)
            for entry in self.entries.values()
            for key in entry.good(self.now)
        ]

    def only(self, names: Collection[str]) -> Wanted:
        """Those of these names, and the bus's own."""
        entries = {n: e for n, e in self.entries.items() if n in names or is_built_in(n)}
        return replace(self, entries=entries)

    def admitted(self, refused: Collection[str], known: Mapping[str, Registration]) -> Wanted:
        """Those whom the ledger knows as they are wanted.

        Args:
            refused: of whom it did not take what it was told.
            known: who takes part, as it says.

        Who was admitted before stays as that: the keys of then are good, newer ones are not.
        """
        entries: dict[str, Entry] = {}
        for name, entry in self.entries.items():
            if name not in refused:
                entries[name] = entry
            elif name in known:
                keys = tuple(key for key in entry.keys if key.public in known[name].keys)
                if keys:
                    entries[name] = msgspec.structs.replace(entry, keys=keys)
        return replace(self, entries=entries)

    def registrations(self) -> dict[str, Registration]:
        """Who is to take part, as the ledger is to say it."""
        return {
            name: Registration(
                name,
                entry.role,
                entry.capabilities,
                entry.subscribes,
                keys,
                expires=entry.expires,
                **self.details.get(name, {}),
            )
            for name, entry in self.entries.items()
            if not is_built_in(name) and (keys := entry.good(self.now))
        }

    def subscriptions(self) -> list[Subscription]:
        """What the broker delivers, and to whom."""
        return [
            Subscription(entry.who, entry.capabilities, entry.subscribes, entry.lease)
            for entry in self.entries.values()
            if (entry.capabilities or entry.subscribes) and entry.good(self.now)
        ]

    def why_not(self, name: str) -> str:
        """Why somebody is not wanted."""
        entry = self.entries.get(name)
        if entry is None:
            return "no longer declared"
        return entry.reason if entry.revoked else "expired"

    def next_change(self) -> int | None:
        """When a key or an identity expires next, ns since 1970."""
        times = (
            parse_rfc3339(time)
            for entry in self.entries.values()
            for time in (entry.expires, *(key.until for key in entry.keys))
            if time
        )
        return min((time for time in times if time > self.now), default=None)


def wanted(project: Project, entries: Mapping[str, Entry], now: int) -> Wanted:
    """Who is wanted.

    Args:
        project: says who is declared, and what they do.
        entries: the register.
        now: ns since 1970.
    """
    manifests = {str(manifest.principal): manifest for manifest in project.manifests}
    roles = {str(who): role for who, role in project.principals}
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        if name in manifests:
            manifest = manifests[name]
            found[name] = msgspec.structs.replace(
                entry,
                role=roles[name],
                capabilities=manifest.capabilities,
                subscribes=manifest.subscribes,
                lease=manifest.lease,
            )
        elif name in roles:
            found[name] = msgspec.structs.replace(
                entry, role=roles[name], capabilities=(), subscribes=()
            )
        elif not entry.declared:
            found[name] = entry
    details = {n: {"version": m.version, "owner": m.owner} for n, m in manifests.items()}
    made = Wanted(found, details, now)
    good = {user.public_key for user in made.users()}
    gone = (
        Identity(entry.who, entry.role, key.public)
        for entry in entries.values()
        for key in entry.keys
        if key.public not in good
    )
    return replace(made, gone=tuple(gone))


def current(project: Project) -> Wanted:
    """Who is wanted now.

    Raises:
        InvalidInput: the register does not hold what it must.
    """
    return wanted(project, project.state.register.read(), time.time_ns())


class Roles:
    """What everybody is who may connect, as the register says; read again when it was changed."""

    def __init__(self, state: State) -> None:
        self._register = state.register
        self._stamp: Stamp | None = (0, 0, 0)
        self._entries: Mapping[str, Entry] = {}

    def stamp(self) -> Stamp | None:
        """Another one after each change."""
        return self._register.stamp()

    def of(self, principal: Principal, now: int) -> Role | None:
        """What somebody is at a time (ns since 1970); None if unknown, revoked or expired.

        Raises:
            InvalidInput: the register does not hold what it must.
        """
        stamp = self._register.stamp()
        if stamp != self._stamp:
            self._entries, self._stamp = self._register.read(), stamp
        entry = self._entries.get(str(principal))
        return entry.role if entry and entry.good(now) else None


def role_of(state: State, principal: Principal) -> Role | None:
    """What somebody is now, see `Roles.of`."""
    return Roles(state).of(principal, time.time_ns())


def ensure_keys(project: Project, now: int) -> None:
    """See to it that everybody whom the project declares has a key.

    Also finishes a rotation that was interrupted, or forgets it: see `Keyring.propose`.
    """
    keyring = project.state.keyring
    with project.state.register.edit() as entries:
        for who, role in project.principals:
            name = str(who)
            if name not in entries:
                key = Key(keyring.ensure(who), rfc3339(now))
                entries[name] = Entry(principal=name, role=role, keys=(key,), declared=True)
        for entry in entries.values():
            keyring.adopt(entry.who, entry.keys[-1].public)
            keyring.withdraw(entry.who)  # of one that did not get as far as the register


def changes(wanted: Wanted, known: Mapping[str, Registration]) -> Iterator[Envelope]:
    """What the ledger has to be told, in this order, so that it says who is wanted.

    Where two want the same capability, who has it keeps it, and the other is refused.

    Args:
        wanted: who is.
        known: what the ledger says already.
    """
    registrations = wanted.registrations()
    for name in known:
        if not is_built_in(name) and name not in registrations:
            yield _command(IDENTITY_REVOKE, Revocation(name, wanted.why_not(name)))
    claims = {c: name for name, found in registrations.items() for c in found.capabilities}
    for name, old in known.items():
        there = registrations[name].capabilities if name in registrations else ()
        claims |= {c: name for c in old.capabilities if c in there}
    for name, old in known.items():  # a capability is given up before another takes it
        kept = tuple(c for c in old.capabilities if claims.get(c, name) == name)
        if name in registrations and kept != old.capabilities:
            fewer = msgspec.structs.replace(old, capabilities=kept)
            yield _command(IDENTITY_REGISTER, fewer)
    for name, registration in registrations.items():
        if known.get(name) != registration:
            yield _command(IDENTITY_REGISTER, registration)


def _command(to: str, data: Any) -> Envelope:
    return Envelope.new(to, data, source=f"tidegate:{OPERATOR}", kind="control", to=to)
