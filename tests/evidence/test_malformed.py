"""Whatever bytes come: what was written, or a VerificationError."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.kit import NOTARY, WRITER, Log, record
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signature, Signer, Verifier
from tidegate_evidence.proof import Proof
from tidegate_evidence.tiles import TileReader
from tidegate_schemas.errors import VerificationError

CHECKPOINT = Checkpoint("hello/0", 7, b"\1" * 32)
TEXT = CHECKPOINT.text()
NOTE = Note(TEXT).signed(WRITER.sign(TEXT, 0), NOTARY.sign(TEXT, 9))
PROOF = Proof(3, (b"\2" * 32, b"\3" * 32), NOTE)


def read(data: bytes) -> str:
    """The text that bytes are."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise VerificationError("not UTF-8") from None


PARSERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    (NOTE.encode().decode(), lambda data: Note.parse(data).encode()),
    (PROOF.encode().decode(), lambda data: Proof.parse(data).encode()),
    (TEXT, lambda data: Checkpoint.parse(read(data)).text().encode()),
    (str(WRITER.verifier), lambda data: str(Verifier.parse(read(data))).encode()),
    (WRITER.secret(), lambda data: Signer.parse(read(data)).secret().encode()),
]


@st.composite
def changed(draw: st.DrawFn, text: str) -> bytes:
    """Something that looks like a text, with some of it replaced."""
    pieces = ["\n", "\n\n", " ", "+", "\u2014 ", "=", "\x00", "\ud800", "é", "\u00a0", "0", "index"]
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(begin + 9, len(text))))
        text = text[:begin] + draw(st.sampled_from(pieces) | st.text(max_size=3)) + text[end:]
    return text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(("text", "again"), PARSERS)
@given(st.data())
@settings(deadline=None)
def test_what_is_taken_has_one_form(
    text: str, again: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    """Bytes that are read are written again just so; all others are refused."""
    given = data.draw(changed(text) | st.binary())
    with contextlib.suppress(VerificationError):
        kept = again(given)
        assert kept == (given.strip() if text == WRITER.secret() else given)


def test_a_text_is_never_half_read() -> None:
    """These mean something to lenient readers, and nothing to ours."""
    line = NOTE.signatures[0].line()
    for wrong in (
        f"{TEXT}\n{line.rstrip()}",  # no line end
        f"{TEXT}\n{line}\n",  # something behind it
        f"{TEXT}\n{line.replace(' ', '  ')}",
        f"{TEXT}\n-{line[1:]}",
        f"{TEXT}{line}",
        f"{TEXT}\r\n\r\n{line}",
        f"{TEXT}\n",
        "",
    ):
        with pytest.raises(VerificationError):
            Note.parse(wrong.encode())


def test_signatures_of_others_are_skipped() -> None:
    """Of any kind, with the name or the id of a known key, at least 15 besides (signed-note)."""
    blob = base64.b64encode(WRITER.verifier.key_id + b"other").decode()
    quantum = base64.b64encode(b"\6" * 2428).decode()
    others = [f"\u2014 {WRITER.name} {quantum}\n"] * 14
    others.append(f"\u2014 someone.else {blob}\n")
    text = f"{TEXT}\n{''.join(others)}{NOTE.signatures[0].line()}"
    assert WRITER.verifier.check(Note.parse(text.encode())) == 0


@pytest.mark.parametrize("signer", [WRITER, NOTARY])
def test_a_known_key_signs_once_and_rightly(signer: Signer) -> None:
    """Two lines of one key, or one that is cut short or ends otherwise, reject the note."""
    whole = signer.sign(TEXT, 9)
    with pytest.raises(VerificationError, match="two"):
        signer.verifier.check(Note(TEXT, (whole, whole)))
    blob = whole.blob
    for wrong in (
        b"",
        blob[:1],
        blob[:8],
        blob[:63],
        blob[:-1] + bytes([blob[-1] ^ 1]),
        blob + b"\0",
    ):
        other = Signature(whole.name, whole.key_id, wrong)
        with pytest.raises(VerificationError, match="verify"):
            signer.verifier.check(Note(TEXT, (other,)))


def test_a_time_has_a_bound() -> None:
    """A cosignature is of a time before 2^63 s (tlog-cosignature)."""
    assert NOTARY.verifier.check(Note(TEXT).signed(NOTARY.sign(TEXT, (1 << 63) - 1)))
    with pytest.raises(VerificationError):
        NOTARY.verifier.check(Note(TEXT).signed(NOTARY.sign(TEXT, 1 << 63)))


def test_notes_have_a_size() -> None:
    """What is too large is not read, and neither are too many signatures."""
    line = NOTE.signatures[0].line()
    for wrong in (f"{'a' * 1_000_000}\n\n{line}", f"{TEXT}\n{line * 101}"):
        with pytest.raises(VerificationError):
            Note.parse(wrong.encode())


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\u00a0b", "a\u2003b", "a\nb", "a\x7fb", "\ud800", "a" * 256]
)
def test_a_key_has_a_name(name: str) -> None:
    """No Unicode space, no plus sign (signed-note), and nothing that cannot be written."""
    with pytest.raises(VerificationError):
        Signer.generate(name)


def test_keys_of_other_kinds_are_refused() -> None:
    """ECDSA and ML-DSA are not known here; nor is a key of another length."""
    for key in (b"\2" + bytes(91), b"\6" + bytes(1312), b"\1" + bytes(31), b"\xff" + bytes(32)):
        with pytest.raises(VerificationError):
            Verifier.parse(f"a+00000000+{base64.b64encode(key).decode()}")
    assert {kind.value for kind in Algorithm} == {1, 4}


@given(st.binary(max_size=70) | st.integers(0, 400).map(lambda count: bytes(32 * count)))
@settings(deadline=None, max_examples=60)
def test_any_bytes_are_a_tile_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """A tile has as many hashes as its name says, up to 256."""
    folder = tmp_path_factory.getbasetemp() / "tile"
    path = folder / "tile/0/000.p/9"
    if not path.exists():
        Log.make(folder, [record(seq) for seq in range(1, 10)])
    Path(path).write_bytes(data)
    reader = TileReader(folder, 9)
    try:
        assert len(reader.tile(0, 0)) == 9
    except VerificationError:
        return
    assert len(data) % 32 == 0
    assert 9 <= len(data) // 32 <= 256
