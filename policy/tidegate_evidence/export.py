"""The folder of an export: what is in it, and whether it holds.

    manifest.json     what all other files are, signed with the export key
    checkpoint        the note that everything is held against
    keys.json         the record that says which keys are in use, and by keys.tlog-proof it is one
    records.jsonl     a record on each line (or records.parquet, which is not read here)
    tile/…            hashes of the tree: all above the leaves, the leaves of what was exported

So the key of the log, or a trust policy, is all that must be known beforehand.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tidegate_schemas.errors import InvalidInput, VerificationError

from .audit import Finding, Kind, Place
from .checkpoint import Checkpoint
from .manifest import MAX_MANIFEST_BYTES, read_object, verify
from .note import MAX_NOTE_BYTES, Note, Verifier
from .proof import Proof
from .tiles import TileReader, read_file
from .trust import Trust, Witness

PREDICATE = "https://tidegate.invalid/export/v1"
MANIFEST, CHECKPOINT, TRUST = "manifest.json", "checkpoint", "trust"
RECORDS, KEYS, KEYS_PROOF = "records.jsonl", "keys.json", "keys.tlog-proof"

_STEP = 100
_MAX_LINE = 64 * 1024 * 1024
_MAX_KEYS = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Export:
    """An export whose checkpoint and manifest are signed by whom they must be.

    Attributes:
        folder: where it is.
        checkpoint: what its records are held against.
        cosigned: who cosigned that and when, in seconds since 1970.
        first, last: which records it is of; `last` is before `first` if none.
        files: SHA-256 in hex of each file, by its path in the folder.
        about: all else that the manifest says.
    """

    folder: Path
    checkpoint: Checkpoint
    cosigned: dict[str, int]
    first: int
    last: int
    files: dict[str, str]
    about: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, trust: Trust) -> Export:
        """Check the signatures; files and records are still to be looked at.

        Raises:
            InvalidInput: the folder is no export.
            OSError: one of its files cannot be read.
            VerificationError: a signature is missing or wrong, or the manifest is of another
                checkpoint.
        """
        for name in (MANIFEST, CHECKPOINT):
            if not (folder / name).is_file():
                raise InvalidInput(f"{folder / name}: not there, so {folder} is no export")
        text = _read(folder / CHECKPOINT, MAX_NOTE_BYTES)
        with _naming(folder / CHECKPOINT):
            note = Note.parse(text)
            checkpoint = trust.check(note)
        announced = _announced(folder, trust, checkpoint)
        known = {witness.key for witness in trust.witnesses}
        announced_only = (key for key in announced.get("notary", ()) if key not in known)
        notaries = tuple(Witness(key.name, key) for key in announced_only)
        envelope = _read(folder / MANIFEST, MAX_MANIFEST_BYTES)
        with _naming(folder / MANIFEST):
            statement = verify(envelope, announced.get("export", ()))
        about = dict(statement.predicate)
        match about:
            case {"first": int(first), "last": int(last)} if 1 <= first <= last + 1:
                pass
            case _:
                raise VerificationError("the manifest does not say which records it is of")
        said = (statement.predicate_type, about.get("checkpoint"), about.get("origin"))
        if said != (PREDICATE, text.decode(), checkpoint.origin):
            raise VerificationError("the manifest is not of this checkpoint")
        if last > checkpoint.size:
            raise VerificationError(f"the checkpoint does not cover record {last}")
        cosigned = Trust(trust.logs, notaries).cosigned(note) | trust.cosigned(note)
        files = dict(statement.subjects)
        return cls(folder, checkpoint, cosigned, first, last, files, about)

    @property
    def tiles(self) -> TileReader:
        """The hashes that it holds of the tree."""
        return TileReader(self.folder, self.checkpoint.size)

    def check_files(self, progress: Callable[[int], None] = lambda done: None) -> list[Finding]:
        """What differs from the manifest.

        Args:
            progress: is told now and then how many files were looked at.
        """
        # A link to a folder, into which nobody looks here, is no folder of the export.
        there = (p for p in self.folder.rglob("*") if p.is_symlink() or not p.is_dir())
        named = {path.relative_to(self.folder).as_posix(): path for path in there}
        found = {name: path for name, path in named.items() if path.is_file()}
        unknown = sorted(named.keys() - self.files.keys() - {MANIFEST})
        wrong = [(name, "the manifest does not know it") for name in unknown]
        for done, (name, digest) in enumerate(self.files.items(), 1):
            if name not in found:
                wrong.append((name, "not there"))
            elif _sha256(found[name]) != digest:
                wrong.append((name, "not what the manifest says"))
            if done % _STEP == 0:
                progress(done)
        return [Finding(Kind.FILE, 0, 0, f"{name}: {what}") for name, what in wrong]

    def records(self) -> Iterator[Place]:
        """The records of its JSON lines, each with the sequence that its line should have.

        Raises:
            VerificationError: they are not there.
        """
        path = self.folder / RECORDS
        if not path.is_file():
            raise VerificationError(f"{path}: not there")
        with path.open("rb") as file:
            for place, line in enumerate(iter(partial(file.readline, _MAX_LINE), b""), self.first):
                yield place, line.removesuffix(b"\n")


def _announced(folder: Path, trust: Trust, checkpoint: Checkpoint) -> dict[str, list[Verifier]]:
    """The keys that a record of the log says are in use, by what they sign."""
    record, proof = _read(folder / KEYS, _MAX_KEYS), _read(folder / KEYS_PROOF, MAX_NOTE_BYTES)
    with _naming(f"{folder / KEYS}, by {KEYS_PROOF}"):
        proven = Proof.parse(proof).check(record, trust)
    if proven.origin != checkpoint.origin:
        raise VerificationError(f"{KEYS} is a record of another log")
    match read_object(record):
        case {
            "kind": "control",
            "to": "evidence.keys",
            "verdict": "allow",
            "envelope": {"data": {"keys": [*keys]}},
        }:
            pass
        case _:
            raise VerificationError(f"{KEYS} is not a record that says which keys are in use")
    found: dict[str, list[Verifier]] = {}
    for one in keys:
        match one:
            case {"role": str(role), "key": str(key)}:
                found.setdefault(role, []).append(Verifier.parse(key))
            case _:
                raise VerificationError(f"{KEYS} names what is no key")
    return found


@contextlib.contextmanager
def _naming(what: object) -> Generator[None]:
    """Whatever is wrong here is wrong with that."""
    try:
        yield
    except VerificationError as error:
        raise VerificationError(f"{what}: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, most: int) -> bytes:
    """A small file.

    Raises:
        OSError: it cannot be read.
        VerificationError: it is not there, or not small.
    """
    try:
        data = read_file(path, most)
    except FileNotFoundError as error:
        raise VerificationError(f"{path}: {error.strerror}") from None
    if len(data) > most:
        raise VerificationError(f"{path}: over {most:,} bytes")
    return data
