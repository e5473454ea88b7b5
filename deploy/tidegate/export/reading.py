"""Records as they come from the broker, each compared with what the notary has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tidegate_bus.bulk import BulkReader
from tidegate_evidence.tiles import WIDTH, TileReader
from tidegate_evidence.tree import leaf_hash
from tidegate_policy.replay.past import read_record, strange
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, VerificationError
from tidegate_schemas.record import Record


@dataclass(frozen=True)
class Leaf:
    """A record and its place in the tree.

    Attributes:
        seq: ledger sequence; it is leaf `seq - 1`.
        payload: the record's bytes.
        hash: of the leaf, 32 bytes.
    """

    seq: int
    payload: bytes
    hash: bytes

    @cached_property
    def record(self) -> Record:
        """The record, read when somebody wants to know.

        Raises:
            LedgerError: it is not of a gateway.
        """
        return read_record(self.seq, self.payload)

    @cached_property
    def message(self) -> Envelope | None:
        """Its envelope; None where the message could not be read.

        Raises:
            LedgerError: it is not of a gateway.
        """
        try:
            return self.record.message()
        except InvalidEnvelope as error:
            raise strange(self.seq, error) from error


def leaves(reader: BulkReader, tiles: TileReader, first: int, last: int) -> Iterator[list[Leaf]]:
    """Records from `first` to `last` in order, some thousands at a time.

    Raises:
        VerificationError: a record is not the one that the notary has seen.
        LedgerGap: one is missing.
        NotConnected, Unavailable: the broker does not answer.
    """
    if last < first:
        return
    for entries in reader.read(first, last):
        found: list[Leaf] = []
        for seq, payload in entries:
            made = leaf_hash(payload)
            number, offset = divmod(seq - 1, WIDTH)
            if tiles.tile(0, number)[offset] != made:
                raise VerificationError(
                    f"record {seq} was altered: it is not the one that the notary has signed"
                )
            found.append(Leaf(seq, payload, made))
        yield found
