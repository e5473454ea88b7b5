"""The register: which identities there are, by their public keys, in one file.

It is what is wanted. The broker's configuration, the consumers and the records in the ledger follow
from it. People change it with `tidegate identity`, and a running stack sees to the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidegate_schemas.clock import MAX_SECONDS, parse_rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal, check_destination

from .credentials import check_public_key
from .guarded import GuardedFile, Stamp


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A public key. Times are RFC 3339; `until` is set for one that was replaced."""

    public: str
    since: str
    until: str | None = None


class Entry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One identity.

    Attributes:
        principal: `team.name`.
        role: what it is.
        keys: the newest last; more than one while a rotation overlaps.
        declared: its role and work stand in the project's files, and it is wanted as long as
            they say so; else they stand here.
        capabilities, subscribes, lease: of an agent that is not declared.
        expires: when the broker stops to know it, if ever.
        revoked: when it was revoked, if it was; it stays here so that nothing brings it back.
        reason: why it was revoked.
    """

    principal: str
    role: Role
    keys: tuple[Key, ...]
    declared: bool = False
    capabilities: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    lease: float = 30.0
    expires: str | None = None
    revoked: str | None = None
    reason: str = ""

    @property
    def who(self) -> Principal:
        """The principal."""
        return Principal.parse(self.principal)

    def good(self, now: int) -> tuple[str, ...]:
        """The public keys that are good at a time (ns since 1970), the newest last."""
        if self.revoked or (self.expires and parse_rfc3339(self.expires) <= now):
            return ()
        return tuple(
            key.public for key in self.keys if key.until is None or parse_rfc3339(key.until) > now
        )

    def state(self, now: int) -> str:
        """`active`, `expired` or `revoked`, at a time (ns since 1970)."""
        if self.revoked:
            return "revoked"
        return "active" if self.good(now) else "expired"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identities: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Register:
    """The file of identities; changed under a lock, and there whole or not at all."""

    path: Path

    def read(self) -> dict[str, Entry]:
        """Every identity, by `team.name`; none where there is no file.

        Raises:
            InvalidInput: the file does not hold what it must.
        """
        content = self._file.read()
        if content is None:
            return {}
        try:
            file = msgspec.json.decode(content, type=_File)
            _check(file.identities)
        except (msgspec.MsgspecError, ValueError, RecursionError, InvalidInput) as error:
            raise InvalidInput(f"{self.path}: {error}") from error
        return {entry.principal: entry for entry in file.identities}

    def version(self) -> str:
        """Another one after each change, and of two that `edit` made the later is the greater.

        Empty where there is no file.
        """
        return self._file.version()

    def stamp(self) -> Stamp | None:
        """The same for whoever asks often; see `GuardedFile`."""
        return self._file.stamp()

    @contextlib.contextmanager
    def edit(self) -> Generator[dict[str, Entry]]:
        """Change the mapping that this gives; it is written at the end, unless something raises.

        Raises:
            InvalidInput: see `read`.
        """
        with self._file.locked():
            entries = self.read()
            before = dict(entries)
            yield entries
            if entries != before:
                text = msgspec.json.encode(_File(_sorted(entries.values())))
                self._file.write(msgspec.json.format(text) + b"\n")

    @property
    def _file(self) -> GuardedFile:
        return GuardedFile(self.path)


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.principal))


def _check(identities: Iterable[Entry]) -> None:
    """See to it that these can be told to the broker.

    Raises:
        InvalidInput, ValueError: says whose entry is wrong, and what is.
    """
    names, keys = set[str](), dict[str, str]()
    for entry in identities:
        try:
            _check_one(entry)
        except (InvalidInput, ValueError) as error:
            raise InvalidInput(f"{entry.principal}: {error}") from error
        if entry.principal in names:
            raise InvalidInput(f"{entry.principal}: is there twice")
        names.add(entry.principal)
        for key in entry.keys:
            if key.public in keys:
                raise InvalidInput(f"{entry.principal}: has a key of {keys[key.public]}")
            keys[key.public] = entry.principal


def _check_one(entry: Entry) -> None:
    _ = entry.who
    if not entry.keys:
        raise InvalidInput("has no key")
    for key in entry.keys:
        check_public_key(key.public)
        for moment in (key.since, key.until):
            _check_time(moment)
    _check_time(entry.expires)
    _check_time(entry.revoked)
    for destinations in (entry.capabilities, entry.subscribes):
        for destination in destinations:
            check_destination(destination)
        if len(set(destinations)) < len(destinations):
            raise InvalidInput("takes or hears the same twice")
    if not 1 <= entry.lease <= MAX_SECONDS:
        raise InvalidInput(f"a lease of {entry.lease:g} s")


def _check_time(text: str | None) -> None:
    if text is not None:
        parse_rfc3339(text)
