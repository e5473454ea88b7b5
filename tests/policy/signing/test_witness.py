"""What a witness answers, as C2SP tlog-witness says; and what it never cosigns."""

from __future__ import annotations

import base64
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.kit import EXAMPLES
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signature, Signer
from tidegate_evidence.tree import Frontier, consistency, leaf_hash, node_hash
from tidegate_policy.signing.witness import Answer, Seen, Submission, Witness
from tidegate_schemas.errors import VerificationError

WRITER = Signer.generate("test/0")
NEWER = Signer.generate("test/0")
OTHER = Signer.generate("test/0")
SIGNER = Signer.generate("w.example", Algorithm.COSIGNATURE)
LEAVES = [leaf_hash(b"%d" % number) for number in range(40)]
TIME = 1_800_000_000


@pytest.fixture
def seen(tmp_path: Path) -> Generator[Seen]:
    """A witness's memory."""
    with Seen(tmp_path / "witness.db") as made:
        yield made


@pytest.fixture
def witness(seen: Seen) -> Witness:
    """A witness that has seen nothing, and knows two keys of the log."""
    return Witness(SIGNER, [WRITER.verifier, NEWER.verifier], seen, lambda: TIME)


def node(level: int, index: int) -> bytes:
    """A node of the tree of all leaves."""
    if level == 0:
        return LEAVES[index]
    return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))


def head(size: int, *, forged: bool = False, by: Signer = WRITER, origin: str = "test/0") -> Note:
    """A signed head of the first leaves, or of others."""
    made = Frontier()
    made.extend([leaf_hash(b"x"), *LEAVES[1:size]] if forged and size else LEAVES[:size])
    text = Checkpoint(origin, size, made.root()).text()
    return Note(text).signed(by.sign(text, 0))


def body(old: int, note: Note, proof: list[bytes] | None = None) -> bytes:
    """A request; with the proof that is right, if the sizes are."""
    if proof is None:
        size = int(note.text.split("\n")[1])
        proof = consistency(old, size, node) if old <= size else []
    lines = [f"old {old}", *(base64.b64encode(one).decode() for one in proof), "", ""]
    return "\n".join(lines).encode() + note.encode()


def cosigned(answer: Answer, note: Note) -> int | None:
    """When the witness signed, if it did."""
    lines = Note.parse(note.text.encode() + b"\n" + answer.body.encode())
    return SIGNER.verifier.check(lines)


def test_it_cosigns_a_log_that_grows(witness: Witness, seen: Seen) -> None:
    """From any size to any larger one, and the same again; what it has seen is kept."""
    for old, new in [(0, 0), (0, 1), (1, 1), (1, 7), (7, 8), (8, 40), (40, 40)]:
        answer = witness.add_checkpoint(body(old, head(new)))
        assert (answer.status, answer.body.count("\n")) == (200, 1), answer
        assert cosigned(answer, head(new)) == TIME
        assert seen.newest("test/0")[0] == new


def test_who_does_not_know_where_it_is_is_told(witness: Witness) -> None:
    """409, and the size, in the type that the specification demands."""
    witness.add_checkpoint(body(0, head(7)))

    for old in (0, 3, 9):
        answer = witness.add_checkpoint(body(old, head(12)))
        assert answer == Answer(409, "7\n", "text/x.tlog.size")


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        (body(7, head(7, forged=True), []), 409),
        (body(7, head(12, forged=True)), 422),
        (body(7, head(12), []), 422),
        (body(7, head(12), [bytes(32)] * 3), 422),
        (body(7, head(12), [b"short"]), 422),
        (body(7, head(7), [bytes(32)]), 422),
        (body(5, head(5)), 409),
        (body(7, head(5)), 400),
        (body(7, head(12, by=OTHER)), 403),
        (body(7, head(12, origin="other/0")), 404),
        (body(7, Note(head(12).text, (Signature("nobody", bytes(4), bytes(64)),))), 403),
    ],
)
def test_what_does_not_go_on_from_what_it_saw_is_refused(
    witness: Witness, seen: Seen, request_body: bytes, status: int
) -> None:
    """Forks, rollbacks, wrong proofs, unknown keys; what it has seen stays."""
    witness.add_checkpoint(body(0, head(7)))
    before = seen.newest("test/0")

    answer = witness.add_checkpoint(request_body)

    assert answer.status == status
    assert "\u2014" not in answer.body
    assert seen.newest("test/0") == before


def test_one_good_signature_is_enough(witness: Witness) -> None:
    """Of either key of the log; those of unknown keys, and false ones beside it, do not matter."""
    good = head(3, by=NEWER)
    false = Signature(WRITER.name, WRITER.verifier.key_id, bytes(64))
    strange = Signature("x", b"abcd", bytes(9))

    answer = witness.add_checkpoint(body(0, Note(good.text, (false, strange, *good.signatures))))

    assert answer.status == 200


def test_an_empty_log_has_one_root(witness: Witness, seen: Seen) -> None:
    """Whoever signs another one gets nothing, and does no harm."""
    text = Checkpoint("test/0", 0, bytes(32)).text()
    answer = witness.add_checkpoint(body(0, Note(text).signed(WRITER.sign(text, 0)), []))

    assert answer.status in (409, 422)
    assert witness.add_checkpoint(body(0, head(3))).status == 200


GOOD = body(7, head(12))
MALFORMED = [
    b"",
    b"\n\n",
    b"old 7",
    b"old 7\n\n",
    GOOD.replace(b"old 7", b"old 07"),
    GOOD.replace(b"old 7", b"old -1"),
    GOOD.replace(b"old 7", b"old  7"),
    GOOD.replace(b"old 7", b"Old 7"),
    GOOD.replace(b"old 7", b"old 9999999999999999999"),
    GOOD.replace(b"old 7\n", b"old 7\n\xff\n"),
    GOOD.replace(b"old 7\n", b"old 7\nAAA\n"),
    GOOD.replace(b"old 7\n", b"old 7\n" + b"AAAA\n" * 61),
    GOOD.replace(b"\n12\n", b"\n012\n"),
    GOOD.replace(b"\n12\n", b"\n9999999999999999999\n"),
    GOOD[:-1],
    GOOD.replace(b"\n", b"\r\n"),
]


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_no_request_is_400(witness: Witness, data: bytes) -> None:
    """Nothing is looked up for it."""
    with pytest.raises(VerificationError):
        Submission.parse(data)
    assert witness.add_checkpoint(data).status == 400


@settings(EXAMPLES, max_examples=300)
@given(data=st.data())
def test_no_body_makes_it_crash_or_sign_what_is_not_so(data: st.DataObject) -> None:
    """Whatever bytes come, in place of or inside of a good request."""
    good = bytearray(GOOD)
    edit = data.draw(st.sampled_from(["random", "flip", "cut", "insert"]))
    place = data.draw(st.integers(0, len(good) - 1))
    piece = data.draw(st.binary(max_size=80))
    match edit:
        case "random":
            good = bytearray(piece)
        case "flip":
            good[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del good[place : place + len(piece) + 1]
        case _:
            good[place:place] = piece
    with Seen(Path(":memory:")) as seen:
        witness = Witness(SIGNER, [WRITER.verifier], seen, lambda: TIME)
        witness.add_checkpoint(body(0, head(7)))

        answer = witness.add_checkpoint(bytes(good))

        assert answer.status in (200, 400, 403, 404, 409, 422)
        if answer.status == 200:  # only what stands after the text was changed
            assert cosigned(answer, head(12)) == TIME


def test_two_witnesses_with_one_memory_never_sign_two_histories(tmp_path: Path) -> None:
    """What one has seen between the look and the answer of the other is not overwritten."""
    with Seen(tmp_path / "db") as one, Seen(tmp_path / "db") as other:
        first = Witness(SIGNER, [WRITER.verifier], one)
        first.add_checkpoint(body(0, head(7)))
        stale = one.newest("test/0")
        second = Witness(SIGNER, [WRITER.verifier], other)
        assert second.add_checkpoint(body(7, head(12))).status == 200

        assert not one.replace(stale, Checkpoint("test/0", 8, bytes(32)))

        assert one.newest("test/0")[0] == 12
        assert not one.replace((0, stale[1]), Checkpoint("test/0", 8, bytes(32)))
