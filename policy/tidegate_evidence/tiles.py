"""The hashes of a tree as files of 256 each (C2SP tlog-tiles).

    tile/<level>/<number>            256 hashes: leaves at level 0, roots of whole tiles above
    tile/<level>/<number>.p/<width>  the last ones, if they are fewer

Numbers are in groups of three digits, each but the last with an x before it: `x001/x234/067`.
A file of a tree that only grows never changes; one that is narrower than needed gives way to a
wider one, which begins with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path

from tidegate_schemas.errors import VerificationError

from .checkpoint import Checkpoint
from .tree import HASH_BYTES, Frontier, check_consistency, consistency, subtree

WIDTH = 256
_HEIGHT = 8
_LEVELS = 8
_CACHED = 512


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    """Where a tile is, below the folder of a log."""
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03d}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(groups)}{partial}"


def tiles_of(size: int, since: int = 0) -> Iterator[tuple[int, int, int]]:
    """Level, number and width of the tiles of a tree that one of `since` leaves does not have."""
    for level in range(_LEVELS):
        count, had = size >> level * _HEIGHT, since >> level * _HEIGHT
        if count == 0:
            return
        for number in range(had // WIDTH, -(-count // WIDTH)):
            width = min(WIDTH, count - number * WIDTH)
            if number * WIDTH + width > had:
                yield level, number, width


class TileReader:
    """Reads the hashes of a tree of `size` leaves; trusts none of them.

    Args:
        folder: the log's; `tile` is in it.
        size: how many leaves the tree has.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self.size = size
        self._tile = lru_cache(_CACHED)(self._read)

    def tile(self, level: int, number: int) -> list[bytes]:
        """The hashes of a tile, as many as the tree has there.

        Raises:
            VerificationError: it is not there, or is no tile.
        """
        return self._tile(level, number)

    def node(self, level: int, index: int) -> bytes:
        """The hash of a perfect subtree, see `tree.NodeOf`.

        Raises:
            VerificationError: its tile is not there, or is no tile.
        """
        height, inside = divmod(level, _HEIGHT)
        number, offset = divmod(index << inside, WIDTH)
        hashes = self.tile(height, number)[offset : offset + (1 << inside)]
        if len(hashes) != 1 << inside:
            raise VerificationError(f"a tree of {self.size} leaves has no node {level}/{index}")
        return subtree(hashes)

    def frontier(self) -> Frontier:
        """The right edge of the tree.

        Raises:
            VerificationError: a tile is not there, or is no tile.
        """
        levels = reversed(range(self.size.bit_length()))
        edge = (
            self.node(level, (self.size >> level) - 1) for level in levels if self.size >> level & 1
        )
        return Frontier(self.size, edge)

    def _read(self, level: int, number: int) -> list[bytes]:
        width = min(WIDTH, (self.size >> level * _HEIGHT) - number * WIDTH)
        if width <= 0 or number < 0:
            raise VerificationError(f"a tree of {self.size} leaves has no tile {level}/{number}")
        here = level, number, width
        for path in chain(self._candidates(*here), self._candidates(*here)):  # it may just grow
            try:
                data = read_file(path, WIDTH * HASH_BYTES)
            except OSError:
                continue
            if len(data) % HASH_BYTES or not width <= len(data) // HASH_BYTES <= WIDTH:
                raise VerificationError(f"{path}: {len(data)} bytes are no tile of {width} hashes")
            return [data[at : at + HASH_BYTES] for at in range(0, width * HASH_BYTES, HASH_BYTES)]
        raise VerificationError(f"{self._folder / tile_path(level, number, width)}: not there")

    def _candidates(self, level: int, number: int, width: int) -> Iterator[Path]:
        """Files that hold it: itself, or one that has grown meanwhile."""
        whole = self._folder / tile_path(level, number)
        yield whole
        if width < WIDTH:
            partial = self._folder / tile_path(level, number, width)
            yield partial
            wider = (p for p in partial.parent.glob("*") if p.name.isdecimal())
            yield from sorted((p for p in wider if int(p.name) > width), key=lambda p: int(p.name))


def read_file(path: Path, most: int) -> bytes:
    """A file of up to `most` bytes; of a larger one, one byte more.

    Raises:
        OSError: it cannot be read, or is none: a stranger's folder may hold what never ends.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "not there", str(path))
    with path.open("rb") as file:
        return file.read(most + 1)


def check_growth(old: Checkpoint, new: Checkpoint, tiles: TileReader) -> None:
    """Pass if a log began with what it was before.

    Args:
        old: of the log, some time ago.
        new: of the same log, later.
        tiles: of the tree of the newer one.

    Raises:
        VerificationError: it did not, or the tiles do not show it.
    """
    if old.origin != new.origin:
        raise VerificationError(f"{old.origin} and {new.origin} are two logs")
    proof = consistency(old.size, new.size, tiles.node)
    check_consistency(old.size, old.root, new.size, new.root, proof)


class TileWriter:
    """Makes the tiles of a tree that grows. What is there it never changes.

    Args:
        folder: the log's.
        size: how many leaves the tiles there have that count; more may be there.

    Raises:
        VerificationError: they do not.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        self._folder = folder
        self.size = size
        self._synced = size
        reader = TileReader(folder, size)
        self._last: list[list[bytes]] = []  # of each level, the hashes of the tile that grows
        for level in range(_LEVELS):
            number, width = divmod(size >> level * _HEIGHT, WIDTH)
            self._last.append(reader.tile(level, number) if width else [])

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves, by their hashes. Whole tiles are written, not yet to stay: see `sync`.

        Raises:
            VerificationError: another tile is there already.
            OSError: the disk does not take it.
        """
        bottom = self._last[0]
        for leaf in leaves:
            bottom.append(leaf)
            self.size += 1
            if len(bottom) == WIDTH:
                self._whole()
                bottom = self._last[0]

    def sync(self) -> None:
        """Write what is not written yet, and see to it that all of it stays.

        Raises:
            OSError: the disk does not take it.
        """
        folders: set[Path] = set()
        for level, number, width in tiles_of(self.size, self._synced):
            path = self._folder / tile_path(level, number, width)
            if width < WIDTH:
                _write(path, b"".join(self._last[level]))
            _fsync(path)
            folders.add(path.parent)
        for folder in folders:
            _fsync(folder)
        self._synced = self.size

    def tidy(self, before: int) -> None:
        """Remove the narrow tiles of a tree of `before` leaves that wider ones have replaced."""
        for level in range(_LEVELS):
            count = before >> level * _HEIGHT
            number, width = divmod(count, WIDTH)
            if width and self.size >> level * _HEIGHT > count:
                path = self._folder / tile_path(level, number, width)
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # a wider one is in it
                    path.parent.rmdir()

    def _whole(self) -> None:
        """The lowest tile is full; so are perhaps others above it."""
        for level in range(_LEVELS):
            hashes = self._last[level]
            if len(hashes) < WIDTH:
                return
            number = (self.size >> level * _HEIGHT) // WIDTH - 1
            _write(self._folder / tile_path(level, number), b"".join(hashes))
            self._last[level] = []
            if level + 1 < _LEVELS:
                self._last[level + 1].append(subtree(hashes))


def _write(path: Path, data: bytes) -> None:
    """Write a file whole, or find that it is there already."""
    try:
        there = path.read_bytes()
    except OSError:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(data)
        part.rename(path)
        return
    if there != data:
        raise VerificationError(f"{path}: another tile is there already")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
