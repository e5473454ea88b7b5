"""Signed notes and checkpoints."""

import contextlib

import pytest

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signer, Verifier
from tidegate_schemas.errors import VerificationError


def test_both_kinds_of_signature_verify_and_say_when() -> None:
    """A signature verifies by its key alone; a cosignature tells its time too."""
    text = Checkpoint("hello/0", 7, b"\1" * 32).text()
    writer = Signer.generate("hello/0")
    notary = Signer.generate("notary", Algorithm.COSIGNATURE)
    note = Note(text).signed(writer.sign(text, 5), notary.sign(text, 6))
    again = Note.parse(note.encode())
    assert again == note
    assert writer.verifier.check(again) == 0
    assert notary.verifier.check(again) == 6
    assert Signer.generate("hello/0").verifier.check(again) is None


def test_keys_are_read_as_they_are_written() -> None:
    """Both texts of a key give the key again; a changed digit is found."""
    signer = Signer.generate("witness.example", Algorithm.COSIGNATURE)
    assert Signer.parse(signer.secret()) == signer
    assert Verifier.parse(str(signer.verifier)) == signer.verifier
    name, digits, key = str(signer.verifier).split("+", 2)
    with pytest.raises(VerificationError):
        Verifier.parse(f"{name}+{int(digits, 16) ^ 1:08x}+{key}")


def test_every_changed_byte_of_a_note_is_found() -> None:
    """No byte can be another one, and none be left out."""
    text = Checkpoint("hello/0", 7, b"\1" * 32).text()
    signer = Signer.generate("hello/0")
    data = Note(text).signed(signer.sign(text, 0)).encode()
    for at in range(len(data)):
        for changed in (
            data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
            data[:at] + data[at + 1 :],
        ):
            with contextlib.suppress(VerificationError):
                assert signer.verifier.check(Note.parse(changed)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        "a\n01\n" + "A" * 43 + "=\n",
        "a\n1\n" + "A" * 43 + "=",
        "a\n1\n" + "A" * 43 + "=\nmore\n",
        "a\n-1\n" + "A" * 43 + "=\n",
        "a\n9223372036854775808\n" + "A" * 43 + "=\n",
        "a\n1\n" + "A" * 42 + "B=\n",
        "\n1\n" + "A" * 43 + "=\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """Each checkpoint has one text."""
    with pytest.raises(VerificationError):
        Checkpoint.parse(text)
