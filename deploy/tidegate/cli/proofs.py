"""`tidegate ledger prove`, `check-proof` and `consistency`."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import typer

from tidegate.proving import NoLeaf
from tidegate.proving import prove as proved
from tidegate_evidence import tree
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.export import CHECKPOINT, RECORDS
from tidegate_evidence.proof import Proof
from tidegate_evidence.tiles import TileReader, check_growth
from tidegate_evidence.trust import Trust
from tidegate_schemas.errors import InvalidInput, VerificationError

from .checking import KeyOption, TrustOption, describe, read, read_note, read_trust, times
from .console import JsonOption, ProjectOption, StateOption, clean, out, print_json

ExportOption = Annotated[
    Path | None,
    typer.Option(
        "--export", metavar="DIR", help="Folder of an export; by default the running stack."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Where to; N.tlog-proof by default."),
]
SideArgument = Annotated[
    str, typer.Argument(help="File of a checkpoint or of a proof, or how many records there were.")
]


def prove(
    seq: Annotated[int, typer.Argument(metavar="N", min=1, help="Ledger sequence.")],
    export: ExportOption = None,
    file: OutOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the proof that a record is in the log, and beside it the record, byte for byte.

    The files stand alone: whoever has the key of the log checks them with `check-proof`.
    """
    folder = export or _notary(project, state)
    try:
        proof, leaf, checkpoint = proved(folder, read_note(folder / CHECKPOINT), seq)
    except NoLeaf as error:
        if export:  # it holds the leaves of its own records only
            raise InvalidInput(f"{export}: not an export of record {seq}: {error}") from error
        raise
    record = _exported(export, seq, leaf) if export else _stored(project, state, seq, leaf)
    file = file or Path(f"{seq}.tlog-proof")
    file.write_bytes(proof.encode())
    beside = file.with_suffix(".json")
    beside.write_bytes(record)
    if as_json:
        print_json({"proof": str(file), "record": str(beside), "checkpoint": describe(checkpoint)})
    else:
        out.print(
            f"{clean(str(file))} proves {clean(str(beside))} by {len(proof.hashes)} hashes, in a "
            f"log of {checkpoint.size:,} records",
            highlight=False,
        )


def check_proof(
    proof: Annotated[Path, typer.Argument(help="File of the proof.")],
    record: Annotated[Path, typer.Argument(help="File of the record.")],
    key: KeyOption = None,
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a record is in the log, offline. Exit status 5 if that is not proven."""
    trusted = read_trust(key, trust)
    text, data = read(proof), read(record)
    try:
        found = Proof.parse(text)
        # A line end is no part of a record: none ends with one, and a line of an export does.
        checkpoint = found.check(data.removesuffix(b"\n"), trusted)
    except VerificationError as error:
        raise VerificationError(f"{proof} does not prove {record}: {error}") from error
    cosigned = times(trusted.cosigned(found.note))
    if as_json:
        body = {"seq": found.index + 1, "checkpoint": describe(checkpoint), "cosigned": cosigned}
        print_json(body)
        return
    by = "".join(f", cosigned by {who} at {time}" for who, time in cosigned.items())
    out.print(
        f"{clean(str(record))} is record {found.index + 1:,} of {clean(checkpoint.origin)}, proven "
        f"by its checkpoint of {checkpoint.size:,} records{clean(by)}",
        highlight=False,
    )


def consistency(
    a: SideArgument,
    b: SideArgument,
    export: ExportOption = None,
    key: KeyOption = None,
    trust: TrustOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that the log only grew from one checkpoint to the other.

    What is between is shown by tiles, of an export or of the running stack. Exit status 5 if it did
    not, or they do not show it.
    """
    default = None
    if export is None:
        folder = _notary(project, state)
        default = folder.parent / "trust"
    else:
        folder = export
    trusted = read_trust(key, trust, default)
    newest = trusted.check(read_note(folder / CHECKPOINT))
    sides = sorted(
        (_side(one, trusted, folder, newest) for one in (a, b)), key=lambda side: side.size
    )
    old, new = sides
    tiles = TileReader(folder, new.size)
    check_growth(old, new, tiles)
    if as_json:
        hashes = tree.consistency(old.size, new.size, tiles.node)
        proof = [base64.b64encode(one).decode() for one in hashes]
        print_json({"old": describe(old), "new": describe(new), "proof": proof})
    else:
        out.print(
            f"{clean(old.origin)} of {new.size:,} records begins with that of {old.size:,}",
            highlight=False,
        )


def _side(text: str, trust: Trust, folder: Path, newest: Checkpoint) -> Checkpoint:
    """A checkpoint of a file; or what it must have been at a size, by the newest one."""
    if not text.isdecimal():
        return trust.check(read_note(Path(text)))
    if int(text) > newest.size:
        raise InvalidInput(f"the newest checkpoint is of {newest.size:,} records, not {text}")
    tiles = TileReader(folder, int(text))
    side = Checkpoint(newest.origin, tiles.size, tiles.frontier().root())
    check_growth(side, newest, TileReader(folder, newest.size))
    return side


def _notary(project: Path | None, state: Path | None) -> Path:
    """What the notary of a stack keeps."""
    from tidegate.project import State, find_project

    return State(state or find_project(project or Path.cwd()) / ".tidegate").notary


def _stored(project: Path | None, state: Path | None, seq: int, leaf: bytes) -> bytes:
    """A record of the ledger, if it is the one that was signed."""
    from tidegate.audit import Audit

    with Audit(project, state) as audit:
        record = next(audit.reader.read(seq, seq))[0].payload
    if tree.leaf_hash(record) != leaf:
        raise VerificationError(f"record {seq} of the ledger is not the one that was signed")
    return record


def _exported(folder: Path, seq: int, leaf: bytes) -> bytes:
    """A record of an export, wherever it stands."""
    path = folder / RECORDS
    try:
        with path.open("rb") as lines:
            for line in lines:
                if tree.leaf_hash(record := line.removesuffix(b"\n")) == leaf:
                    return record
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    raise InvalidInput(f"{path}: record {seq} is not in it")
