"""What others publish for implementations to be tried with; see `vectors/README.md`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tidegate_evidence.note import Note, Signer, Verifier
from tidegate_evidence.tree import check_consistency, check_inclusion
from tidegate_schemas.errors import VerificationError

VECTORS = Path(__file__).parent / "vectors"


def vectors(kind: str) -> list[Any]:
    """Each with its name."""
    lines = (VECTORS / f"{kind}.jsonl").read_text("utf-8").splitlines()
    return [pytest.param(case, id=case["name"]) for case in map(json.loads, lines)]


def hashes(case: dict[str, Any], *names: str) -> list[bytes]:
    """Some of its hashes."""
    return [base64.b64decode(case[name] or "") for name in names]


def proof(case: dict[str, Any]) -> list[bytes]:
    """Its proof."""
    return [base64.b64decode(part) for part in case["proof"] or ()]


@pytest.mark.parametrize("case", vectors("inclusion"))
def test_inclusion_proofs_of_others(case: dict[str, Any]) -> None:
    """transparency-dev/merkle: taken and refused as it says."""
    leaf, root = hashes(case, "leafHash", "root")
    check = leaf, case["leafIdx"], case["treeSize"], root, proof(case)
    if case["wantErr"]:
        with pytest.raises(VerificationError):
            check_inclusion(*check)
    else:
        check_inclusion(*check)


SHORT = "additional/sizes-are-equal-one-and-proof-is-empty"
"""Its roots are 12 bytes of text. Ours are 32 bytes, always; whatever else is no root."""


@pytest.mark.parametrize("case", vectors("consistency"))
def test_consistency_proofs_of_others(case: dict[str, Any]) -> None:
    """transparency-dev/merkle: taken and refused as it says, but for one that has short roots."""
    old, new = hashes(case, "root1", "root2")
    check = case["size1"], old, case["size2"], new, proof(case)
    if case["wantErr"] or case["name"] == SHORT:
        with pytest.raises(VerificationError):
            check_consistency(*check)
    else:
        check_consistency(*check)


def test_all_vectors_are_there() -> None:
    """98 of each kind; one that is taken elsewhere is refused."""
    assert [len(vectors(kind)) for kind in ("inclusion", "consistency")] == [98, 98]


NOTE = """\
This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""  # noqa: E501
KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"


def test_the_note_of_the_specification() -> None:
    """C2SP signed-note, the example under Verifier keys."""
    key, note = Verifier.parse(KEY), Note.parse(NOTE.encode())
    assert key.check(note) == 0
    assert note.text == "This is an example message.\n"
    assert (str(key), note.encode()) == (KEY, NOTE.encode())


GO_NOTE = """\
If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""  # noqa: E501
GO_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


def test_a_note_of_go() -> None:
    """golang.org/x/mod/sumdb/note, its example: from the secret key comes the same note."""
    note, signer = Note.parse(GO_NOTE.encode()), Signer.parse(GO_SECRET)
    assert str(signer.verifier) == GO_KEY
    assert Verifier.parse(GO_KEY).check(note) == 0
    assert Note(note.text).signed(signer.sign(note.text, 0)).encode() == GO_NOTE.encode()
