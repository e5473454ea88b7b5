"""Whose signatures a checkpoint needs (C2SP tlog-policy).

    log <vkey> [<url>]                      a log whose checkpoints are taken
    witness <name> <vkey> [<url>]           somebody who cosigns them
    group <name> <k|any|all> <member>...    k of its members, which are witnesses or groups
    quorum <name|none>                      who must have cosigned

Whoever is named in a line is defined in one above it. Comments begin with a number sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from tidegate_schemas.errors import VerificationError

from .checkpoint import Checkpoint
from .note import Algorithm, Note, Verifier

MAX_TRUST_BYTES = 1024 * 1024
_NONE = "none"
_FORBIDDEN = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")
_COUNT = re.compile("[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class Witness:
    """Somebody who cosigns: the name in the policy, the key, and the URL if there is one."""

    name: str
    key: Verifier
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """As good as a witness if at least `least` of its members have cosigned."""

    name: str
    least: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """A policy: any one of the logs must have signed, and the quorum cosigned.

    Attributes:
        logs: keys of logs; the name of each is the origin of its checkpoints.
        witnesses: all that are known.
        groups: each after those that it has as members.
        quorum: the name of a witness or a group; `none` where nobody must have cosigned.
    """

    logs: tuple[Verifier, ...]
    witnesses: tuple[Witness, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: str = _NONE

    @classmethod
    def of_key(cls, vkey: str) -> Self:
        """That one log, by its key; nobody must have cosigned.

        Raises:
            VerificationError: it is no key of a log.
        """
        return cls((_key(vkey, Algorithm.NOTE),))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a policy file.

        Raises:
            VerificationError: it is none; the text begins with the line if it is one that is wrong.
        """
        if len(data) > MAX_TRUST_BYTES:
            raise VerificationError(f"a trust policy of {len(data)} bytes")
        reading = _Reading()
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                reading.line(line)
            except VerificationError as error:
                raise VerificationError(f"line {number}: {error}") from None
        if reading.quorum is None:
            raise VerificationError("the policy has no quorum")
        if not reading.logs:
            raise VerificationError("the policy has no log")
        witnesses, groups = tuple(reading.witnesses), tuple(reading.groups)
        return cls(tuple(reading.logs), witnesses, groups, reading.quorum)

    def check(self, note: Note) -> Checkpoint:
        """What a note says, once it is signed by whom it must be.

        Raises:
            VerificationError: it is no checkpoint, a signature is missing, or one of a known key
                does not verify.
        """
        checkpoint = Checkpoint.parse(note.text)
        keys = [key for key in self.logs if key.name == checkpoint.origin]
        if not keys:
            known = ", ".join(sorted({key.name for key in self.logs}))
            raise VerificationError(f"a checkpoint of {checkpoint.origin}; known is {known}")
        signed = [key.check(note) for key in keys]  # each: one that is false is an error
        if signed.count(None) == len(keys):
            raise VerificationError(f"the checkpoint has no known signature of {checkpoint.origin}")
        witnesses = set(self.cosigned(note))
        cosigned = {_NONE, *witnesses}
        for group in self.groups:
            if len(cosigned & set(group.members)) >= group.least:
                cosigned.add(group.name)
        if self.quorum not in cosigned:
            absent = [one.name for one in self.witnesses if one.name not in witnesses]
            raise VerificationError(
                f"the checkpoint of {checkpoint.size:,} records is not cosigned by the quorum "
                f"{self.quorum}; missing is {', '.join(absent)}"
            )
        return checkpoint

    def cosigned(self, note: Note) -> dict[str, int]:
        """Which witnesses have cosigned a note, and when, in seconds since 1970.

        Raises:
            VerificationError: a cosignature of one does not verify.
        """
        times = ((witness.name, witness.key.check(note)) for witness in self.witnesses)
        return {name: time for name, time in times if time is not None}


class _Reading:
    """A policy as far as it is read."""

    def __init__(self) -> None:
        self.logs: list[Verifier] = []
        self.witnesses: list[Witness] = []
        self.groups: list[Group] = []
        self.quorum: str | None = None
        self._names = {_NONE}
        self._members: set[str] = set()

    def line(self, line: bytes) -> None:
        """Take the next line."""
        if found := _FORBIDDEN.search(line):
            raise VerificationError(f"holds the control character {found[0]!r}")
        # Names are octets; what is no UTF-8 stays distinct.
        text = line.decode("utf-8", "surrogateescape")
        items = [item for item in re.split("[ \t]+", text) if item]
        if not items or items[0].startswith("#"):
            return
        read: dict[str, Callable[[list[str]], None]] = {
            "log": self._log,
            "witness": self._witness,
            "group": self._group,
            "quorum": self._quorum,
        }
        word, *rest = items
        if word not in read:
            raise VerificationError(f"{word[:40]!r} is none of {', '.join(read)}")
        read[word](rest)

    def _log(self, items: list[str]) -> None:
        if len(items) not in (1, 2):
            raise VerificationError("write: log <vkey> [<url>]")
        key = _key(items[0], Algorithm.NOTE)
        if any(key.public == other.public for other in self.logs):
            raise VerificationError(f"the key of {key.name} is there already")
        self.logs.append(key)

    def _witness(self, items: list[str]) -> None:
        if len(items) not in (2, 3):
            raise VerificationError("write: witness <name> <vkey> [<url>]")
        name, vkey, *url = items
        key = _key(vkey, Algorithm.COSIGNATURE)
        if any(key.public == other.key.public for other in self.witnesses):
            raise VerificationError(f"the key of {key.name} is there already")
        self._define(name)
        self.witnesses.append(Witness(name, key, *url))

    def _group(self, items: list[str]) -> None:
        if len(items) < 3:
            raise VerificationError("write: group <name> <k|any|all> <member>...")
        name, count, *members = items
        for member in members:
            self._known(member)
            if member in self._members:
                raise VerificationError(f"{member} is a member already")
            self._members.add(member)
        few = {"any": "1", "all": str(len(members))}.get(count, count)
        if not _COUNT.fullmatch(few) or int(few) > len(members):
            raise VerificationError(f"{count[:40]!r} of {len(members)} members")
        self._define(name)
        self.groups.append(Group(name, int(few), tuple(members)))

    def _quorum(self, items: list[str]) -> None:
        if len(items) != 1:
            raise VerificationError("write: quorum <name|none>")
        if self.quorum is not None:
            raise VerificationError("there is a quorum already")
        if items[0] != _NONE:
            self._known(items[0])
        self.quorum = items[0]

    def _define(self, name: str) -> None:
        if name in self._names:
            raise VerificationError(f"{name} is taken")
        self._names.add(name)

    def _known(self, name: str) -> None:
        if name == _NONE or name not in self._names:
            raise VerificationError(f"no witness or group {name} above")


def _key(vkey: str, algorithm: Algorithm) -> Verifier:
    key = Verifier.parse(vkey)
    if key.algorithm is not algorithm:
        who = "a log" if algorithm is Algorithm.NOTE else "a witness"
        raise VerificationError(f"the key of {key.name} is not of the kind that {who} signs with")
    return key
