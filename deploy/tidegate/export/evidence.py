"""What the notary keeps of the ledger: a checkpoint, and the tiles of its tree."""

from __future__ import annotations

from pathlib import Path

from tidegate_evidence.export import CHECKPOINT, TRUST
from tidegate_evidence.note import Note
from tidegate_evidence.tiles import WIDTH, TileReader, tile_path, tiles_of
from tidegate_evidence.tree import subtree
from tidegate_evidence.trust import Trust
from tidegate_schemas.errors import Unavailable, VerificationError


class Evidence:
    """The newest checkpoint of a notary, and the tree below it.

    Args:
        folder: `evidence` in the state of a stack.

    Attributes:
        note: the checkpoint, with all signatures.
        checkpoint: what it says.
        policy: bytes of the file that says who must have signed it.
        trust: what that file says.
        tiles: of the tree of the checkpoint's size.

    Raises:
        Unavailable: there is no checkpoint yet.
        VerificationError: it is not signed by whom it must be, or the tiles have another root.
    """

    def __init__(self, folder: Path) -> None:
        notary = folder / "notary"
        try:
            self.note = Note.parse((notary / CHECKPOINT).read_bytes())
            self.policy = (folder / TRUST).read_bytes()
        except FileNotFoundError as error:
            raise Unavailable(
                f"{error.filename}: not there yet; the notary of a running stack writes it"
            ) from None
        self.trust = Trust.parse(self.policy)
        self.checkpoint = self.trust.check(self.note)
        self.tiles = TileReader(notary, self.checkpoint.size)
        if self.tiles.frontier().root() != self.checkpoint.root:
            raise VerificationError(f"{notary}: the tiles have another root than the checkpoint")

    def copy_tiles(self, folder: Path, first: int, last: int) -> None:
        """Write what proves the records from `first` to `last`, and where one was altered.

        All tiles above the leaves, the leaves of the records, and the narrow tiles of the right
        edge: from these the root can be computed.

        Raises:
            VerificationError: a tile is missing, or is not of this tree.
            OSError: the disk does not take it.
        """
        size = self.checkpoint.size
        wanted = range((first - 1) // WIDTH, (last - 1) // WIDTH + 1) if first <= last else range(0)
        for level, number, width in tiles_of(size):
            if level or width < WIDTH or number in wanted:
                hashes = self.tiles.tile(level, number)
                if width == WIDTH and subtree(hashes) != self._above(level, number):
                    name = tile_path(level, number)
                    raise VerificationError(f"{name} of the notary is not of the checkpoint's tree")
                path = folder / tile_path(level, number, width)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"".join(hashes))

    def _above(self, level: int, number: int) -> bytes:
        """The root of a whole tile, as the level above has it."""
        return self.tiles.tile(level + 1, number // WIDTH)[number % WIDTH]
