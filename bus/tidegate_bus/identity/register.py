"""The register: which identities there are, by their public keys, in one file.

It is what is wanted. The broker's configuration, the consumers and the records in the ledger follow
from it. People change it with `tidegate identity`, and a running stack sees to the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidegate_schemas.clock import MAX_SECONDS, parse_rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal, check_destination

from .credentials import check_public_key


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
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise InvalidInput(f"{self.path}: {error.strerror}") from error
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
        try:
            status = self.path.stat()
        except OSError:
            return ""
        return f"{status.st_mtime_ns:020}-{status.st_ino}-{status.st_size}"

    @contextlib.contextmanager
    def edit(self) -> Generator[dict[str, Entry]]:
        """Change the mapping that this gives; it is written at the end, unless something raises.

        Raises:
            InvalidInput: see `read`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.path.with_suffix(".lock").open("a") as lock:
            os.fchmod(lock.fileno(), 0o600)  # whoever may open it may lock it, and keep it locked
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = self.read()
            before = dict(entries)
            yield entries
            if entries != before:
                self._write(entries)

    def _write(self, entries: Mapping[str, Entry]) -> None:
        identities = _sorted(entries.values())
        text = msgspec.json.format(msgspec.json.encode(_File(identities)))
        part = self.path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(text + b"\n")
            file.flush()
            # The clock of files stands still for milliseconds, and numbers of files come again.
            before = self.path.stat().st_mtime_ns if self.path.exists() else 0
            moment = max(time.time_ns(), before + 1)
            os.utime(file.fileno(), ns=(moment, moment))
            os.fsync(file.fileno())  # a key that it names may be in use from now on
        part.replace(self.path)


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
