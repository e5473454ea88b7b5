"""Records and all that proves them, in a folder; the signed manifest comes last."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tidegate_bus.bulk import BulkReader
from tidegate_evidence import manifest
from tidegate_evidence.export import CHECKPOINT, KEYS, KEYS_PROOF, MANIFEST, PREDICATE, TRUST
from tidegate_evidence.note import Signer
from tidegate_evidence.proof import Proof
from tidegate_evidence.tree import inclusion, leaf_hash
from tidegate_policy.replay.past import strange
from tidegate_schemas import subjects
from tidegate_schemas.audit import Export, Format
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.evidence import EvidenceKey, EvidenceKeys, KeyRole
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import EVIDENCE_KEYS

from .evidence import Evidence
from .outputs import Output, open_output
from .reading import Leaf, leaves


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be exported.

    Attributes:
        first, last: ledger sequences; no records if `last` is before `first`.
        formats: of the records, each once.
        query: what somebody asked for, as they wrote it.
    """

    first: int
    last: int
    formats: tuple[Format, ...]
    query: dict[str, str]


def pack(
    folder: Path,
    order: Order,
    reader: BulkReader,
    evidence: Evidence,
    signers: Sequence[Signer],
    now: int,
    on_progress: Callable[[int], None],
) -> Export:
    """Fill a folder; what the ledger is to be told of it.

    Args:
        folder: it is empty.
        order: what is wanted, none of it after the checkpoint of the evidence.
        reader: of the ledger.
        evidence: what each record is compared with.
        signers: keys for the manifest; the first one that the ledger knows signs it.
        now: ns since 1970.
        on_progress: called with the number of records that are written.

    Raises:
        VerificationError: a record or a tile was altered.
        LedgerError: a record is missing, or not of a gateway.
        NotConnected, Unavailable: the broker does not answer, or no key is known yet.
        InvalidInput: what writes a format is not installed.
        OSError: the disk does not take it.
    """
    size = evidence.checkpoint.size
    evidence.copy_tiles(folder, order.first, order.last)
    with contextlib.ExitStack() as opened:
        outputs: list[Output] = []
        for format in order.formats:
            outputs.append(open_output(folder, format))
            opened.callback(outputs[-1].close)
        done = 0
        for found in leaves(reader, evidence.tiles, order.first, order.last):
            for output in outputs:
                output.add(found)
            done += len(found)
            on_progress(done)
        for output in outputs:
            output.finish()
    signer = _write_keys(folder, reader, evidence, signers)
    (folder / CHECKPOINT).write_bytes(evidence.note.encode())
    (folder / TRUST).write_bytes(evidence.policy)
    predicate = {
        "origin": evidence.checkpoint.origin,
        "first": order.first,
        "last": order.last,
        "size": size,
        "checkpoint": evidence.note.encode().decode(),
        "formats": [format.value for format in order.formats],
        "query": order.query,
        "tool": f"tidegate {version('tidegate')}",
        "created": rfc3339(now),
    }
    statement = manifest.Statement(dict(_digests(folder)), PREDICATE, predicate)
    envelope = manifest.sign(statement, signer)
    (folder / MANIFEST).write_bytes(envelope)
    digest = f"sha256:{hashlib.sha256(envelope).hexdigest()}"
    return Export(order.first, order.last, size, order.formats, digest, order.query)


def _write_keys(
    folder: Path, reader: BulkReader, evidence: Evidence, signers: Sequence[Signer]
) -> Signer:
    """Write the newest record that says which keys are in use, and that it is in the tree.

    So whoever trusts the key of the writer finds the others.

    Returns:
        The first of the signers whose key is among them.

    Raises:
        Unavailable: there is no such record below the checkpoint, or it names none of them.
        LedgerError: that record is not of a gateway, or was altered.
    """
    size = evidence.checkpoint.size
    wanted = subjects.delivery(0, Kind.CONTROL, EVIDENCE_KEYS)
    newest = None
    for entries in reader.read(1, size, filter=wanted):
        newest = entries[-1]
    said: tuple[EvidenceKey, ...] = ()
    if newest is not None:
        leaf = Leaf(newest.seq, newest.payload, leaf_hash(newest.payload))
        record, message = leaf.record, leaf.message
        found = record.kind, record.to, record.verdict
        if message is None or found != (Kind.CONTROL, EVIDENCE_KEYS, Verdict.ALLOW):
            raise strange(leaf.seq, ValueError("its subject promises another one"))
        said = message.payload(EvidenceKeys).keys
        hashes = tuple(inclusion(leaf.seq - 1, size, evidence.tiles.node))
        proof = Proof(leaf.seq - 1, hashes, evidence.note)
        proof.check(leaf.payload, evidence.trust)
        (folder / KEYS).write_bytes(leaf.payload)
        (folder / KEYS_PROOF).write_bytes(proof.encode())
    announced = {key.key for key in said if key.role is KeyRole.EXPORT}
    for signer in signers:
        if str(signer.verifier) in announced:
            return signer
    raise Unavailable(
        f"no record before {size + 1:,} says that the export key is in use, so nobody could check "
        "the manifest; once the notary has signed the one that does, there can be exports"
    )


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of each file."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            yield (
                path.relative_to(folder).as_posix(),
                hashlib.file_digest(file, "sha256").hexdigest(),
            )
