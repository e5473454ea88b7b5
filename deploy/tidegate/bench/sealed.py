"""A ledger that is signed, for whoever reads one without a gateway and a notary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Raw

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer
from tidegate_evidence.tiles import TileReader, TileWriter
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.evidence import EvidenceKeys
from tidegate_schemas.record import Ingress, Record, Why, decode_record, encode_record
from tidegate_schemas.subjects import Kind, Verdict, delivery
from tidegate_schemas.vocabulary import EVIDENCE_KEYS, OPERATOR


def announcement(before: bytes, keys: EvidenceKeys) -> tuple[str, bytes]:
    """Subject and payload of the record after another one, by which keys become known."""
    last = decode_record(before)
    envelope = Envelope.new(EVIDENCE_KEYS, keys, kind="control", to=EVIDENCE_KEYS)
    made = Record(
        v=1,
        log=last.log,
        seq=last.seq + 1,
        time=last.time,
        epoch=last.epoch,
        ingress=Ingress(last.ingress.seq + 1, 0, last.time),
        by=str(OPERATOR),
        kind=Kind.CONTROL,
        to=EVIDENCE_KEYS,
        verdict=Verdict.ALLOW,
        why=Why(("operators-command",), "permitted", last.why.bundle),
        envelope=Raw(encode(envelope)),
    )
    return delivery(0, Kind.CONTROL, EVIDENCE_KEYS), encode_record(made)


def seal(
    folder: Path, origin: str, leaves: Iterable[bytes], signers: Sequence[Signer], now: int
) -> None:
    """Bring a notary's folder to a ledger with these leaves; it may have had the first of them.

    Args:
        folder: the notary's.
        origin: name of the log.
        leaves: their hashes, from the first one on.
        signers: of the checkpoint.
        now: seconds since 1970.

    Raises:
        VerificationError: what is there is not the beginning of this.
        OSError: the disk does not take it.
    """
    before = 0
    with contextlib.suppress(FileNotFoundError):
        note = Note.parse((folder / "checkpoint").read_bytes())
        before = Checkpoint.parse(note.text).size
    writer = TileWriter(folder, before)
    waiting = iter(leaves)
    for _ in range(before):
        next(waiting)
    writer.extend(waiting)
    writer.sync()
    root = TileReader(folder, writer.size).frontier().root()
    text = Checkpoint(origin, writer.size, root).text()
    folder.mkdir(parents=True, exist_ok=True)
    signed = Note(text).signed(*(signer.sign(text, now) for signer in signers))
    (folder / "checkpoint").write_bytes(signed.encode())
    writer.tidy(before)
