"""Tiles: the hashes of a tree as files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate_evidence import tree
from tidegate_evidence.tiles import TileReader, TileWriter, tile_path, tiles_of
from tidegate_schemas.errors import VerificationError

LEAVES = [tree.leaf_hash(b"%d" % number) for number in range(70_000)]


def test_the_paths_are_those_of_the_specification() -> None:
    """Numbers come in groups of three digits (C2SP tlog-tiles)."""
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(1, 0, 7) == "tile/1/000.p/7"


def test_a_tree_grows_by_any_steps_and_starts(tmp_path: Path) -> None:
    """Whatever the steps, and started again between them, roots and proofs are the tree's."""
    frontier, writer, before = tree.Frontier(), TileWriter(tmp_path), 0
    for size in (0, 1, 2, 255, 256, 257, 600, 601, 65_535, 65_536, 65_537, 70_000):
        frontier.extend(LEAVES[before:size])
        writer.extend(LEAVES[before:size])
        writer.sync()
        writer.tidy(before)
        reader = TileReader(tmp_path, size)
        assert reader.frontier().root() == frontier.root() == tree.tree_hash(size, reader.node)
        for index in {0, size // 3, size - 1} & set(range(size)):
            proof = tree.inclusion(index, size, reader.node)
            tree.check_inclusion(LEAVES[index], index, size, frontier.root(), proof)
        old = TileReader(tmp_path, before)  # what was published stays readable
        proof = tree.consistency(before, size, reader.node)
        tree.check_consistency(before, old.frontier().root(), size, frontier.root(), proof)
        writer, before = TileWriter(tmp_path, size), size
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {tile_path(*tile) for tile in tiles_of(70_000)}


def test_a_tile_that_is_there_is_never_changed(tmp_path: Path) -> None:
    """Another history meets the files of the first one, and fails."""
    TileWriter(tmp_path).extend(LEAVES[:256])
    with pytest.raises(VerificationError, match="another tile"):
        TileWriter(tmp_path).extend(LEAVES[1:257])


def test_missing_and_damaged_tiles_are_named(tmp_path: Path) -> None:
    """No tile, half a hash or a tile too narrow is an error that names the file."""
    writer = TileWriter(tmp_path)
    writer.extend(LEAVES[:300])
    writer.sync()
    (tmp_path / "tile/0/000").write_bytes(b"\0" * 33)
    (tmp_path / "tile/0/001.p/44").unlink()
    reader = TileReader(tmp_path, 300)
    for number in (0, 1):
        with pytest.raises(VerificationError, match=f"tile/0/00{number}"):
            reader.tile(0, number)


def test_a_tile_that_gives_way_while_it_is_looked_for_is_found(tmp_path: Path) -> None:
    """A notary goes on while somebody reads; that is no damage."""
    writer = TileWriter(tmp_path)

    def grow() -> None:
        before = writer.size
        writer.extend(LEAVES[before : before + 10])
        writer.sync()
        writer.tidy(before)

    class Slow(TileReader):
        def _candidates(self, level: int, number: int, width: int) -> Iterator[Path]:
            found = list(super()._candidates(level, number, width))
            if writer.size == 20:
                grow()
            yield from found

    grow()
    grow()
    assert Slow(tmp_path, 10).tile(0, 0) == LEAVES[:10]
