"""The keys that sign evidence: made, renewed with an overlap, and the trust file that names them.

One file a role, newest key first, one a line: the text of the signer, since when it is there, and
for one that gives way until when. All keys that are there sign. One whose time is over goes when
the next one has signed, so that whoever knew the old one has been told of the new one by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate_bus.identity.keyring import write_secret
from tidegate_evidence.note import Algorithm, Signer, Verifier
from tidegate_evidence.trust import Trust
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import InvalidInput, VerificationError
from tidegate_schemas.evidence import EvidenceKey, EvidenceKeys, KeyRole

if TYPE_CHECKING:
    from .project import Project, State

_SECOND = 1_000_000_000
OWN_ROLES = (KeyRole.WRITER, KeyRole.NOTARY, KeyRole.EXPORT)
"""Whose secret keys are kept here; that of a witness is with the witness."""
_ALGORITHMS = {KeyRole.NOTARY: Algorithm.COSIGNATURE}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret key, which is not needed any more after `until`; times in ns since 1970."""

    signer: Signer
    since: int
    until: int | None = None

    def over(self, now: int) -> bool:
        """Whether its time is over."""
        return self.until is not None and self.until <= now

    def line(self) -> str:
        """As it stands in the file."""
        times = [rfc3339(self.since), *([rfc3339(self.until)] if self.until is not None else [])]
        return " ".join([self.signer.secret(), *times])

    @classmethod
    def parse(cls, line: str) -> SigningKey:
        """Read a line of the file.

        Raises:
            VerificationError, ValueError: it is none. Neither quotes the key.
        """
        secret, since, *until = line.split(" ")
        if len(until) > 1:
            raise ValueError("write the key, since when, and until when")
        return cls(
            Signer.parse(secret), parse_rfc3339(since), parse_rfc3339(until[0]) if until else None
        )


class SigningKeys:
    """The secret keys of a log, in a folder.

    Args:
        folder: `writer`, `notary` and `export` are in it, and only their owner may read them.
        project: names the keys: `<project>/0` is the writer of its only partition, as in records.
    """

    def __init__(self, folder: Path, project: str) -> None:
        self._folder = folder
        self._names = {role: f"{project}/{role}" for role in OWN_ROLES}
        self._names[KeyRole.WRITER] = f"{project}/0"

    def ensure(self, now: int) -> None:
        """Make the keys that are not there yet.

        Raises:
            InvalidInput: see `read`.
        """
        with self._locked():
            for role in OWN_ROLES:
                if not self.read(role):
                    self._write(role, [self._new(role, now)])

    def read(self, role: KeyRole) -> list[SigningKey]:
        """All keys of a role, newest first.

        Raises:
            InvalidInput: others may read the file, or it holds something else.
        """
        path = self._folder / role
        try:
            if path.stat().st_mode & 0o077:
                raise InvalidInput(f"{path}: others may read these keys; run chmod 600 {path}")
            lines = path.read_text("ascii").splitlines()
            found = [SigningKey.parse(line) for line in lines]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror}") from error
        except (VerificationError, ValueError) as error:
            raise InvalidInput(f"{path}: not the keys that sign evidence: {error}") from error
        if any(key.signer.name != self._names[role] for key in found):
            raise InvalidInput(f"{path}: has a key that is not named {self._names[role]}")
        return found

    def signers(self, role: KeyRole) -> list[Signer]:
        """Those of a role that sign, newest first.

        Raises:
            InvalidInput: there is none; see also `read`.
        """
        found = [key.signer for key in self.read(role)]
        if not found:
            raise InvalidInput(f"{self._folder / role}: no key; `tidegate up` makes the first one")
        return found

    def rotate(self, role: KeyRole, overlap: float, now: int) -> SigningKey:
        """Make a new key beside the old one; both sign for `overlap` seconds.

        Raises:
            InvalidInput: see `read`.
        """
        with self._locked():
            end = now + int(overlap * _SECOND)
            kept = [
                key if key.until is not None and key.until <= end else replace(key, until=end)
                for key in self.read(role)
            ]
            made = self._new(role, now)
            self._write(role, [made, *kept])
            return made

    def drop_old(self, role: KeyRole, now: int) -> None:
        """Forget the keys of a role whose time is over.

        Raises:
            InvalidInput: see `read`.
        """
        with self._locked():
            found = self.read(role)
            kept = [key for key in found if not key.over(now)]
            if len(kept) < len(found):
                self._write(role, kept)

    def version(self) -> str:
        """Another one after each change."""
        states: list[str] = []
        for role in OWN_ROLES:
            with contextlib.suppress(OSError):
                status = (self._folder / role).stat()
                states.append(f"{status.st_mtime_ns}-{status.st_ino}-{status.st_size}")
        return " ".join(states)

    def in_use(self) -> list[EvidenceKey]:
        """The public keys of all roles.

        Raises:
            InvalidInput: see `signers`.
        """
        return [
            EvidenceKey(role, str(signer.verifier))
            for role in OWN_ROLES
            for signer in self.signers(role)
        ]

    def _new(self, role: KeyRole, now: int) -> SigningKey:
        algorithm = _ALGORITHMS.get(role, Algorithm.NOTE)
        return SigningKey(Signer.generate(self._names[role], algorithm), now)

    def _write(self, role: KeyRole, keys: list[SigningKey]) -> None:
        text = "\n".join(key.line() for key in keys)
        write_secret(self._folder / role, text, replace=True)

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "lock").open("a") as lock:
            os.fchmod(lock.fileno(), 0o600)  # whoever may open it may lock it
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def signing_keys(project: Project) -> SigningKeys:
    """Those of a project."""
    return SigningKeys(project.state.evidence_keys, project.settings.project)


def in_use(project: Project) -> EvidenceKeys:
    """Every public key that a checkpoint or an export is signed with from now on.

    Raises:
        InvalidInput: there are none yet, or they cannot be read; or a witness's key is none.
    """
    theirs = (EvidenceKey(KeyRole.WITNESS, str(key)) for key, _ in witnesses(project))
    return EvidenceKeys((*signing_keys(project).in_use(), *theirs))


def witnesses(project: Project) -> list[tuple[Verifier, str]]:
    """Key and address of each witness of the settings.

    Raises:
        InvalidInput: a key is none of a witness, or there twice.
    """
    found: list[tuple[Verifier, str]] = []
    for number, settings in enumerate(project.settings.evidence.witnesses):
        where = f"evidence.witnesses[{number}].key"
        try:
            key = Verifier.parse(settings.key)
        except VerificationError as error:
            raise InvalidInput(f"{where}: {error}") from error
        if key.algorithm is not Algorithm.COSIGNATURE:
            raise InvalidInput(f"{where}: this key makes no cosignatures, so it is of no witness")
        if any(key.name == other.name or key.public == other.public for other, _ in found):
            raise InvalidInput(f"{where}: {key.name} is there already")
        found.append((key, settings.url))
    return found


def trust_text(project: Project) -> str:
    """What a checkpoint needs to be trusted (C2SP tlog-policy).

    The writer signs, the notary cosigns, and so do as many witnesses as the settings say.

    Raises:
        InvalidInput: see `in_use`.
    """
    keys = signing_keys(project)
    lines = [f"log {signer.verifier}" for signer in keys.signers(KeyRole.WRITER)]
    notaries = [signer.verifier for signer in keys.signers(KeyRole.NOTARY)]
    lines += [f"witness {_name(key)} {key}" for key in notaries]
    lines.append(f"group notary any {' '.join(map(_name, notaries))}")
    others = witnesses(project)
    quorum = "notary"
    if others:
        lines += [f"witness {_name(key)} {key} {url}" for key, url in others]
        names = " ".join(_name(key) for key, _ in others)
        lines.append(f"group witnesses {project.settings.evidence.quorum} {names}")
        lines.append("group everybody all notary witnesses")
        quorum = "everybody"
    return "\n".join([*lines, f"quorum {quorum}", ""])


def _name(key: Verifier) -> str:
    """What people know a key by; no two of them have the same, and no group has one."""
    return f"{key.name}+{key.key_id.hex()}"


def trusted_writers(state: State) -> tuple[Verifier, ...]:
    """The keys of the writer, as the trust file says: who checks needs no secret one.

    Raises:
        InvalidInput: the file is not there, or is none.
    """
    try:
        return Trust.parse(state.trust.read_bytes()).logs
    except OSError as error:
        raise InvalidInput(f"{state.trust}: {error.strerror}; `tidegate up` makes it") from error
    except VerificationError as error:
        raise InvalidInput(f"{state.trust}: {error}") from error


def write_trust(project: Project) -> None:
    """Bring the trust file to what `trust_text` says.

    Raises:
        InvalidInput: see `in_use`.
        OSError: it cannot be written.
    """
    path, text = project.state.trust, trust_text(project)
    with contextlib.suppress(OSError):
        if path.read_text("ascii") == text:
            return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, "ascii")
    part.replace(path)
