"""Proofs as files (C2SP tlog-proof)."""

import pytest

from tidegate_evidence import tree
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer
from tidegate_evidence.proof import Proof
from tidegate_evidence.trust import Trust
from tidegate_schemas.errors import VerificationError

RECORDS = [b'{"seq":%d}' % seq for seq in range(1, 12)]
LEAVES = [tree.leaf_hash(record) for record in RECORDS]
LOG = Signer.generate("hello/0")
TRUST = Trust.of_key(str(LOG.verifier))


def node(level: int, index: int) -> bytes:
    """The hash of a perfect subtree over LEAVES."""
    return tree.subtree(LEAVES[index << level : (index + 1) << level])


def proof(index: int, size: int = len(RECORDS)) -> Proof:
    """That a record is in the log."""
    text = Checkpoint("hello/0", size, tree.tree_hash(size, node)).text()
    note = Note(text).signed(LOG.sign(text, 0))
    return Proof(index, tuple(tree.inclusion(index, size, node)), note)


def test_a_proof_is_read_as_it_is_written() -> None:
    """Each record of each log is proven by a file, and no other record by the same one."""
    for size in range(1, len(RECORDS) + 1):
        for index in range(size):
            again = Proof.parse(proof(index, size).encode())
            assert again == proof(index, size)
            assert again.check(RECORDS[index], TRUST).size == size
            with pytest.raises(VerificationError):
                again.check(RECORDS[index] + b" ", TRUST)


def test_the_file_is_that_of_the_specification() -> None:
    """Line by line (C2SP tlog-proof, Format)."""
    lines = proof(2, 3).encode().decode().split("\n")
    assert lines[:2] == ["c2sp.org/tlog-proof@v1", "index 2"]
    assert (lines[3], lines[4], lines[5]) == ("", "hello/0", "3")


def test_extra_data_says_nothing() -> None:
    """It may be there; nobody has signed it."""
    data = proof(3).encode().replace(b"index", b"extra YWdl\nindex", 1)
    assert Proof.parse(data) == proof(3)


def test_another_log_does_not_prove_it() -> None:
    """Nor one that nobody trusts."""
    with pytest.raises(VerificationError):
        proof(3).check(RECORDS[3], Trust.of_key(str(Signer.generate("hello/0").verifier)))


def test_every_changed_byte_of_a_proof_is_found() -> None:
    """No byte can be another one, be missing or be there twice."""
    data = proof(5).encode()
    for at in range(len(data)):
        bit = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        for wrong in (bit, data[:at] + data[at + 1 :], data[: at + 1] + data[at:]):
            with pytest.raises(VerificationError):
                Proof.parse(wrong).check(RECORDS[5], TRUST)
