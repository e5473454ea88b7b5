"""The Merkle tree of RFC 9162 §2.1 (that of RFC 6962), over SHA-256. Pure.

Leaves are numbered from 0. Hashes are 32 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from tidegate_schemas.errors import VerificationError

HASH_BYTES = 32

_sha256 = hashlib.sha256
_LEAF = hashlib.sha256(b"\x00")
_NODE = b"\x01"

NodeOf = Callable[[int, int], bytes]
"""The hash of a perfect subtree: `(level, index)` covers the leaves from `index << level` to
`(index + 1) << level`, the latter excluded."""


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    hashing = _LEAF.copy()  # without a copy of the data
    hashing.update(data)
    return hashing.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return _sha256(_NODE + left + right).digest()


def subtree(hashes: Sequence[bytes]) -> bytes:
    """The root over some hashes, a power of two of them: leaves, or subtrees of one size."""
    level = list(hashes)
    while len(level) > 1:
        pairs = iter(level)
        level = [_sha256(_NODE + a + b).digest() for a, b in zip(pairs, pairs, strict=True)]
    return level[0]


class Frontier:
    """A tree that only grows: the perfect subtrees at its right edge, one for each 1 in `size`.

    Args:
        size: how many leaves it has.
        hashes: of its perfect subtrees, the largest first.

    Raises:
        VerificationError: these are not the hashes of a tree of that size.
    """

    __slots__ = ("_edge", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self._edge = list(hashes)
        if size < 0 or len(self._edge) != size.bit_count():
            raise VerificationError(f"{len(self._edge)} hashes are no frontier of {size} leaves")
        if any(len(edge) != HASH_BYTES for edge in self._edge):
            raise VerificationError("a hash of the frontier is not 32 bytes")

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Of its perfect subtrees, the largest first."""
        return tuple(self._edge)

    def append(self, leaf: bytes, level: int = 0) -> None:
        """Add a leaf, by its hash; or a perfect subtree, of `1 << level` leaves, by its root.

        The size must be a multiple of these.
        """
        edge, size = self._edge, self.size >> level
        self.size += 1 << level
        while size & 1:
            leaf = _sha256(_NODE + edge.pop() + leaf).digest()
            size >>= 1
        edge.append(leaf)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves, by their hashes."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The hash of the tree."""
        if not self._edge:
            return _sha256().digest()
        *rest, root = self._edge
        for left in reversed(rest):
            root = node_hash(left, root)
        return root

    def copy(self) -> Frontier:
        """Another one that starts here."""
        return Frontier(self.size, self._edge)


def tree_hash(size: int, node: NodeOf) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return _range_hash(0, size, node) if size else _sha256().digest()


def inclusion(index: int, size: int, node: NodeOf) -> list[bytes]:
    """The proof that a leaf is in the tree of the first `size` ones (RFC 9162 §2.1.3.1).

    Raises:
        VerificationError: that tree has no such leaf.
    """
    if not 0 <= index < size:
        raise VerificationError(f"a tree of {size} leaves has no leaf {index}")
    first, last, proof = 0, size, list[bytes]()
    while last - first > 1:
        middle = first + _split(last - first)
        if index < middle:
            proof.append(_range_hash(middle, last, node))
            last = middle
        else:
            proof.append(_range_hash(first, middle, node))
            first = middle
    return proof[::-1]


def consistency(old: int, new: int, node: NodeOf) -> list[bytes]:
    """The proof that the tree of `new` leaves begins with that of `old` ones (RFC 9162 §2.1.4.1).

    Empty where the old one is, or where both are one.

    Raises:
        VerificationError: the old one is larger than the new one.
    """
    if not 0 <= old <= new:
        raise VerificationError(f"a tree of {new} leaves does not begin with one of {old}")
    if old in (0, new):
        return []
    first, last, proof = 0, new, list[bytes]()
    whole = True  # the old tree is the part from `first` to `old`, and was so from the start
    while old != last:
        middle = first + _split(last - first)
        if old <= middle:
            proof.append(_range_hash(middle, last, node))
            last = middle
        else:
            proof.append(_range_hash(first, middle, node))
            first, whole = middle, False
    if not whole:
        proof.append(_range_hash(first, last, node))
    return proof[::-1]


def check_inclusion(
    leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Pass if a leaf, by its hash, is in a tree (RFC 9162 §2.1.3.2).

    Raises:
        VerificationError: the proof does not show that.
    """
    if not 0 <= index < size:
        raise VerificationError(f"a tree of {size} leaves has no leaf {index}")
    _check_hashes(leaf, root, *proof)
    fn, sn, found = index, size - 1, leaf
    for part in proof:
        if sn == 0:
            raise VerificationError("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            found = node_hash(part, found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node_hash(found, part)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise VerificationError("the inclusion proof is too short")
    if found != root:
        raise VerificationError(f"leaf {index} is not in the tree of {size} leaves with that root")


def check_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Pass if one tree begins with another (RFC 9162 §2.1.4.2).

    Raises:
        VerificationError: the proof does not show that.
    """
    if not 0 <= old <= new:
        raise VerificationError(f"a tree of {new} leaves does not begin with one of {old}")
    _check_hashes(old_root, new_root, *proof)
    if old in (0, new):
        if proof:
            raise VerificationError("the consistency proof is too long")
        if old_root != (new_root if old else _sha256().digest()):
            raise VerificationError(f"two trees of {old} leaves have other roots")
        return
    parts = list(proof)
    if not parts:
        raise VerificationError("the consistency proof is too short")
    if not old & (old - 1):
        parts.insert(0, old_root)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    before = after = parts[0]
    for part in parts[1:]:
        if sn == 0:
            raise VerificationError("the consistency proof is too long")
        if fn & 1 or fn == sn:
            before, after = node_hash(part, before), node_hash(part, after)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            after = node_hash(after, part)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise VerificationError("the consistency proof is too short")
    if (before, after) != (old_root, new_root):
        raise VerificationError(f"the tree of {new} leaves does not begin with that of {old}")


def _range_hash(first: int, last: int, node: NodeOf) -> bytes:
    """The root over leaves that are a subtree: perfect, or at the right edge."""
    count = last - first
    if not count & (count - 1):
        level = count.bit_length() - 1
        return node(level, first >> level)
    middle = first + _split(count)
    return node_hash(_range_hash(first, middle, node), _range_hash(middle, last, node))


def _split(count: int) -> int:
    """The largest power of two below a number."""
    return 1 << (count - 1).bit_length() - 1


def _check_hashes(*hashes: bytes) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise VerificationError("a hash of the proof is not 32 bytes")
