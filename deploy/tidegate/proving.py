"""Proofs that records are in the log, made of what the notary of a stack has published."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tidegate_evidence import tree
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note
from tidegate_evidence.proof import Proof
from tidegate_evidence.tiles import TileReader
from tidegate_schemas.errors import InvalidInput, VerificationError


class Proven(NamedTuple):
    """A proof, the hash of the record that it is of, and the checkpoint that it leads to."""

    proof: Proof
    leaf: bytes
    checkpoint: Checkpoint


class NoLeaf(VerificationError):
    """The tiles do not have the hash of the record itself, as those of an export of others."""


class NotCovered(InvalidInput):
    """The checkpoint is of fewer records.

    Attributes:
        size: how many.
    """

    def __init__(self, size: int, seq: int) -> None:
        super().__init__(f"the checkpoint is of {size:,} records, without {seq}")
        self.size = size


def prove(folder: Path, note: Note, seq: int) -> Proven:
    """The proof that a record is in the log, checked against the root of the checkpoint.

    Who signed the checkpoint is not looked at: see `Proof.check`.

    Args:
        folder: with the tiles.
        note: the checkpoint.
        seq: of the record.

    Raises:
        NotCovered: the checkpoint is older than the record.
        NoLeaf: there is no hash of it.
        VerificationError: the tiles are not there, or not those of the checkpoint.
    """
    checkpoint = Checkpoint.parse(note.text)
    if seq > checkpoint.size:
        raise NotCovered(checkpoint.size, seq)
    tiles = TileReader(folder, checkpoint.size)
    try:
        leaf = tiles.node(0, seq - 1)
    except VerificationError as error:
        raise NoLeaf(str(error)) from error
    proof = Proof(seq - 1, tuple(tree.inclusion(seq - 1, checkpoint.size, tiles.node)), note)
    tree.check_inclusion(leaf, proof.index, checkpoint.size, checkpoint.root, proof.hashes)
    return Proven(proof, leaf, checkpoint)
