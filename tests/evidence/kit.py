"""A log to check: records as a gateway writes them, their tree on disk, checkpoints, an export."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidegate_evidence import export, manifest
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signer
from tidegate_evidence.proof import Proof
from tidegate_evidence.tiles import WIDTH, TileReader, TileWriter, tile_path, tiles_of
from tidegate_evidence.tree import inclusion, leaf_hash
from tidegate_evidence.trust import Trust
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.record import Ingress, Record, Why, encode_record
from tidegate_schemas.subjects import Kind, Verdict

ORIGIN = "hello/0"
WRITER = Signer.generate(ORIGIN)
NOTARY = Signer.generate("hello/notary", Algorithm.COSIGNATURE)
EXPORTER = Signer.generate("hello/export")
TRUST = Trust.of_key(str(WRITER.verifier))
_KEYS = [("writer", WRITER), ("notary", NOTARY), ("export", EXPORTER)]
KEYS = {"keys": [{"role": role, "key": str(signer.verifier)} for role, signer in _KEYS]}
NOW = 1_800_000_000


def record(seq: int, *, submission: int | None = None, n: int = 0, epoch: int = 1) -> bytes:
    """A record; the first one says which keys are in use."""
    to, data = ("evidence.keys", KEYS) if seq == 1 else ("policy.note", {"number": seq, "é": "{"})
    time = rfc3339((NOW + seq) * 1_000_000_000)
    envelope = Envelope.new(to, data, id=f"id-{seq}", kind="control", to=to)
    return encode_record(
        Record(
            v=1,
            log=ORIGIN,
            seq=seq,
            time=time,
            epoch=epoch,
            ingress=Ingress(seq if submission is None else submission, n, time),
            by="tidegate.operator",
            kind=Kind.CONTROL,
            to=to,
            verdict=Verdict.ALLOW,
            why=Why(("p",), "permitted", "sha256:0"),
            envelope=msgspec.Raw(encode(envelope)),
        )
    )


@dataclass
class Log:
    """A log in a folder, as a notary keeps it."""

    folder: Path
    records: list[bytes]

    @classmethod
    def make(cls, folder: Path, records: list[bytes]) -> Log:
        """Write its tiles and its checkpoint."""
        writer = TileWriter(folder)
        writer.extend(map(leaf_hash, records))
        writer.sync()
        made = cls(folder, records)
        (folder / "checkpoint").write_bytes(made.note().encode())
        return made

    @property
    def size(self) -> int:
        """How many records it has."""
        return len(self.records)

    def tiles(self, size: int | None = None) -> TileReader:
        """Its tree, or what it was."""
        return TileReader(self.folder, self.size if size is None else size)

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        """Of all of it, or of what it was."""
        tiles = self.tiles(size)
        return Checkpoint(ORIGIN, tiles.size, tiles.frontier().root())

    def note(self, size: int | None = None) -> Note:
        """The same, signed by the writer and cosigned by the notary."""
        text = self.checkpoint(size).text()
        return Note(text).signed(WRITER.sign(text, 0), NOTARY.sign(text, NOW))

    def proof(self, seq: int) -> Proof:
        """That a record is in it."""
        hashes = inclusion(seq - 1, self.size, self.tiles().node)
        return Proof(seq - 1, tuple(hashes), self.note())

    def export(self, folder: Path, first: int = 1, last: int | None = None) -> Path:
        """Write an export of some of its records."""
        end = self.size if last is None else last
        wanted = range((first - 1) // WIDTH, (end - 1) // WIDTH + 1)
        for level, number, width in tiles_of(self.size):
            if level or width < WIDTH or number in wanted:
                name = tile_path(level, number, width)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes((self.folder / name).read_bytes())
        lines = b"".join(line + b"\n" for line in self.records[first - 1 : end])
        (folder / export.RECORDS).write_bytes(lines)
        (folder / export.CHECKPOINT).write_bytes(self.note().encode())
        (folder / export.KEYS).write_bytes(self.records[0])
        (folder / export.KEYS_PROOF).write_bytes(self.proof(1).encode())
        sign_export(folder, first=first, last=end)
        return folder


def sign_export(folder: Path, signer: Signer = EXPORTER, **about: object) -> None:
    """Write the manifest of what is in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    note = (folder / export.CHECKPOINT).read_text("utf-8")
    predicate = {"origin": ORIGIN, "checkpoint": note} | about
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != export.MANIFEST
    }
    statement = manifest.Statement(digests, export.PREDICATE, predicate)
    (folder / export.MANIFEST).write_bytes(manifest.sign(statement, signer))
