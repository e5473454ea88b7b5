"""The tree of RFC 9162: its hashes, its proofs, its frontier."""

import functools
import hashlib
from itertools import pairwise

import pytest

from tidegate_evidence import tree
from tidegate_schemas.errors import VerificationError

LEAVES = [tree.leaf_hash(b"%d" % number) for number in range(256)]


def root(leaves: list[bytes]) -> bytes:
    """The definition of RFC 9162 §2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + root(leaves[:k]) + root(leaves[k:])).digest()


@functools.cache
def node(level: int, index: int) -> bytes:
    """The hash of a perfect subtree over LEAVES."""
    return tree.subtree(LEAVES[index << level : (index + 1) << level])


ROOTS = [root(LEAVES[:size]) for size in range(256)]


def test_a_leaf_is_hashed_with_a_zero_before_it() -> None:
    """A leaf cannot pass for a node."""
    assert tree.leaf_hash(b"abc") == hashlib.sha256(b"\x00abc").digest()


def test_a_frontier_has_the_roots_of_the_definition() -> None:
    """Growing leaf by leaf gives the root of each size, and it goes on from what it saves."""
    frontier = tree.Frontier()
    for size in range(255):
        assert frontier.root() == ROOTS[size] == tree.tree_hash(size, node)
        frontier = tree.Frontier(frontier.size, frontier.hashes)
        frontier.append(LEAVES[size])


def test_each_leaf_of_each_tree_is_proven_and_nothing_else() -> None:
    """All inclusion proofs of sizes up to 255 hold; of the next leaf, root or size they do not."""
    for size in range(1, 256):
        for index in range(size):
            proof = tree.inclusion(index, size, node)
            tree.check_inclusion(LEAVES[index], index, size, ROOTS[size], proof)
            if size % 16 == 0:
                for wrong in (
                    (LEAVES[(index + 1) % size], index, size, ROOTS[size], proof),
                    (LEAVES[index], (index + 1) % size, size, ROOTS[size], proof),
                    (LEAVES[index], index, size, ROOTS[size - 1], proof),
                    (LEAVES[index], index, size, ROOTS[size], proof[:-1]),
                    (LEAVES[index], index, size, ROOTS[size], [*proof, LEAVES[0]]),
                ):
                    with pytest.raises(VerificationError):
                        tree.check_inclusion(*wrong)


def test_each_tree_is_shown_to_begin_with_each_smaller_one() -> None:
    """All consistency proofs of sizes up to 255 hold; with another root they do not."""
    for new in range(256):
        for old in range(new + 1):
            proof = tree.consistency(old, new, node)
            tree.check_consistency(old, ROOTS[old], new, ROOTS[new], proof)
            if new % 32 == 0 and 0 < old < new:
                for wrong in (
                    (old, ROOTS[old - 1], new, ROOTS[new], proof),
                    (old, ROOTS[old], new, ROOTS[new - 1], proof),
                    (old, ROOTS[old], new, ROOTS[new], proof[1:]),
                    (old, ROOTS[old], new, ROOTS[new], [*proof, LEAVES[0]]),
                ):
                    with pytest.raises(VerificationError):
                        tree.check_consistency(*wrong)


def test_no_frontier_is_made_of_what_is_none() -> None:
    """Hashes that are too few, too many or too short are refused."""
    for size, hashes in ((3, LEAVES[:1]), (2, LEAVES[:2]), (1, [b"short"]), (-1, [])):
        with pytest.raises(VerificationError):
            tree.Frontier(size, hashes)


def test_the_roots_differ() -> None:
    """No tree has the root of the one before it."""
    assert all(a != b for a, b in pairwise(ROOTS))
