"""Hashes of tiles, as far as the root of a checkpoint proves them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from tidegate_schemas.errors import VerificationError

from .checkpoint import Checkpoint
from .tiles import WIDTH, TileReader, tile_path
from .tree import subtree, tree_hash

_CACHED = 512


class ProvenTiles:
    """Tiles that were checked against a checkpoint.

    A whole tile is proven by a hash of the tile above it. Those that are not whole are at the right
    edge of the tree, and the root proves all of them at once, or none.

    Args:
        tiles: of a tree of the checkpoint's size.
        checkpoint: one that is trusted.

    Attributes:
        faults: what is wrong with tiles, as far as they were asked for; by their paths.
    """

    def __init__(self, tiles: TileReader, checkpoint: Checkpoint) -> None:
        self.faults: dict[str, str] = {}
        self._tiles = tiles
        self._edge = True
        self._tile = lru_cache(_CACHED)(self._prove)
        try:
            root = tree_hash(checkpoint.size, tiles.node)
        except VerificationError as error:
            self._edge = self._fault("tile", f"the right edge of the tree: {error}")
        else:
            if root != checkpoint.root:
                self._edge = self._fault("tile", "they have another root than the checkpoint")

    def leaves(self, number: int) -> Sequence[bytes] | None:
        """The leaves of a tile of the lowest level; None where they are not proven."""
        return self._tile(0, number)

    def agree(self, start: int, leaves: Sequence[bytes], root: bytes | None) -> bool | None:
        """Whether these are the leaves from `start` on; None where that is not known.

        Args:
            start: index of the first one.
            leaves: of one tile.
            root: of the tile, if they are all of it.
        """
        number, offset = divmod(start, WIDTH)
        if root is None:
            proven = self.leaves(number)
            return None if proven is None else proven[offset : offset + len(leaves)] == leaves
        above = self._tile(1, number // WIDTH)
        if above is None:
            return None
        if above[number % WIDTH] != root:
            return False
        if self._read(0, number) not in (None, leaves):
            self._fault(tile_path(0, number), "altered")
        return True

    def _prove(self, level: int, number: int) -> list[bytes] | None:
        hashes = self._read(level, number)
        if hashes is None:
            return None
        if len(hashes) < WIDTH:
            return hashes if self._edge else None
        above = self._tile(level + 1, number // WIDTH)
        if above is None:
            return None
        if above[number % WIDTH] != subtree(hashes):
            self._fault(tile_path(level, number), "altered")
            return None
        return hashes

    def _read(self, level: int, number: int) -> list[bytes] | None:
        try:
            return self._tiles.tile(level, number)
        except VerificationError as error:
            self._fault(tile_path(level, number), str(error))
            return None

    def _fault(self, path: str, what: str) -> bool:
        self.faults.setdefault(path, what)
        return False
