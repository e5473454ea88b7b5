"""Where a ledger begins to differ from what a notary has checked of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tidegate_bus.bulk import BulkReader
from tidegate_evidence.tiles import WIDTH, TileReader
from tidegate_evidence.tree import leaf_hash
from tidegate_schemas.errors import LedgerGap

from .alarms import Located

_KEPT_BYTES = 8 * 1024 * 1024
"""Of the records that are kept as evidence; the ledger has the others."""


def first_changed(
    reader: BulkReader, folder: Path, size: int, go_on: Callable[[], None]
) -> tuple[Located, dict[str, bytes]] | None:
    """The first record that has not the hash it had, with its tile, and what it is now.

    Args:
        reader: of the ledger.
        folder: of the tiles.
        size: how many records were checked.
        go_on: called now and then; it may raise to stop.

    Raises:
        VerificationError: the tiles are not there.
        Unavailable: the broker does not answer.
    """
    if size == 0:
        return None
    tiles, seq = TileReader(folder, size), 0

    def found(kept: dict[str, bytes]) -> tuple[Located, dict[str, bytes]]:
        number = (seq - 1) // WIDTH
        tile = b"".join(tiles.tile(0, number))
        return Located(seq, seq, "tiles"), {f"tile-0-{number}": tile, **kept}

    try:
        for entries in reader.read(1, size):
            go_on()
            for seq, payload in entries:
                if tiles.tile(0, (seq - 1) // WIDTH)[(seq - 1) % WIDTH] != leaf_hash(payload):
                    return found({f"record-{seq}": payload})
    except LedgerGap as gap:
        seq = gap.expected
        return found({})
    return None


def records(reader: BulkReader, located: Located) -> dict[str, bytes]:
    """The records of a stretch by file name, as many as there is room for.

    Raises:
        LedgerGap, Unavailable: see `BulkReader.read`.
    """
    found, room = dict[str, bytes](), _KEPT_BYTES
    for entries in reader.read(located.first, located.last):
        for entry in entries:
            room -= len(entry.payload)
            if room < 0:
                return found
            found[f"record-{entry.seq}"] = entry.payload
    return found
