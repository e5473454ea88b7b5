"""Trust policies (C2SP tlog-policy)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signer
from tidegate_evidence.trust import Trust
from tidegate_schemas.errors import VerificationError

LOG = Signer.generate("hello/0")
NEXT = Signer.generate("hello/0")
WITNESSES = {name: Signer.generate(f"{name}.example", Algorithm.COSIGNATURE) for name in "abcdef"}
LINES = "".join(f"witness {name} {key.verifier}\n" for name, key in WITNESSES.items())
CHECKPOINT = Checkpoint("hello/0", 7, b"\1" * 32)


def note(*signers: Signer, checkpoint: Checkpoint = CHECKPOINT) -> Note:
    """A checkpoint signed by some."""
    text = checkpoint.text()
    return Note(text).signed(*(signer.sign(text, 1) for signer in signers))


def accepts(policy: str, cosigned: str) -> bool:
    """Whether a checkpoint with these cosignatures will do."""
    trust = Trust.parse(f"log {LOG.verifier}\n{LINES}{policy}".encode())
    try:
        return trust.check(note(LOG, *(WITNESSES[name] for name in cosigned))) == CHECKPOINT
    except VerificationError:
        return False


@pytest.mark.parametrize(
    ("policy", "enough", "short"),
    [
        ("quorum none", ["", "a"], []),
        ("quorum b", ["b", "abc"], ["", "ac"]),
        ("group g any a b\nquorum g", ["a", "b", "ab"], ["", "c"]),
        ("group g all a b\nquorum g", ["ab"], ["", "a", "b"]),
        ("group g 2 a b c\nquorum g", ["ab", "ac", "abc"], ["a", "bd"]),
        (
            "# two organizations\n\n\tgroup X 2 a b c \ngroup Y any d e f\ngroup XY all X Y\n"
            "quorum XY",
            ["abd", "acf", "abcdef"],
            ["abc", "ad", "def"],
        ),
    ],
)
def test_the_quorum_is_counted_as_it_is_written(
    policy: str, enough: list[str], short: list[str]
) -> None:
    """Groups of witnesses and of groups count as the example of the specification says."""
    assert all(accepts(policy, cosigned) for cosigned in enough)
    assert not any(accepts(policy, cosigned) for cosigned in short)


def test_a_key_alone_is_trust_enough() -> None:
    """With one key of the log its checkpoints are taken, nobody else's, and nothing unsigned."""
    trust = Trust.of_key(str(LOG.verifier))
    assert trust.check(note(LOG, WITNESSES["a"])) == CHECKPOINT
    other = Checkpoint("hello/1", 7, b"\1" * 32)
    for wrong in (note(NEXT), note(WITNESSES["a"]), note(LOG, checkpoint=other)):
        with pytest.raises(VerificationError):
            trust.check(wrong)


def test_during_a_rotation_either_key_will_do() -> None:
    """Two keys of one log: a signature of one is enough, a false one of either is an error."""
    policy = f"log {LOG.verifier}\nlog {NEXT.verifier} https://hello.example\nquorum none\n"
    trust = Trust.parse(policy.encode())
    for signers in ([LOG], [NEXT], [LOG, NEXT]):
        assert trust.check(note(*signers)) == CHECKPOINT
    false = NEXT.sign("something else\n", 0)
    with pytest.raises(VerificationError, match="does not verify"):
        trust.check(note(LOG).signed(false))


def test_the_times_of_cosignatures_are_told() -> None:
    """By the names of the policy; whoever has not cosigned is not there."""
    trust = Trust.parse(f"log {LOG.verifier}\n{LINES}quorum none".encode())
    assert trust.cosigned(note(LOG, WITNESSES["c"])) == {"c": 1}


A = WITNESSES["a"].verifier


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("", "no quorum"),
        ("quorum none", "no log"),
        (f"log {LOG.verifier}", "no quorum"),
        (f"log {LOG.verifier}\nquorum none\nquorum none", "line 3"),
        (f"log {LOG.verifier}\nquorum a", "line 2"),
        (f"log {LOG.verifier}\nquorum", "line 2"),
        (f"log {LOG.verifier}\nlog {LOG.verifier}", "line 2"),
        ("log", "line 1"),
        ("log a b c", "line 1"),
        (f"log {A}", "line 1"),
        (f"\nwitness a {LOG.verifier}", "line 2"),
        (f"witness none {A}", "line 1"),
        (f"witness a {A}\nwitness b {A}", "line 2"),
        (f"witness a {A}\nwitness a {WITNESSES['b'].verifier}", "line 2"),
        (f"witness a {A}\ngroup a any a", "line 2"),
        (f"witness a {A}\ngroup g any", "line 2"),
        (f"witness a {A}\ngroup g 2 a", "line 2"),
        (f"witness a {A}\ngroup g 0 a", "line 2"),
        (f"witness a {A}\ngroup g 01 a", "line 2"),
        (f"witness a {A}\ngroup g most a", "line 2"),
        (f"witness a {A}\ngroup g any a a", "line 2"),
        (f"witness a {A}\ngroup g any a\ngroup h any a", "line 3"),
        (f"witness a {A}\ngroup g any none", "line 2"),
        ("group g any g", "line 1"),
        ("Quorum none", "line 1"),
        ("# a\x7f", "line 1"),
        ("quorum none\r\n", "line 1"),
    ],
)
def test_a_fault_is_named_by_its_line(policy: str, message: str) -> None:
    """Whatever is not as the specification says is refused, and the line told."""
    with pytest.raises(VerificationError, match=message):
        Trust.parse(policy.encode())


WORDS = [
    *("log", "witness", "group", "quorum", "none", "any", "all", "1", "a", "g", "é", "\udcff"),
    *("#", "\n", "\t", str(A), str(LOG.verifier)),
]
POLICIES = st.lists(st.sampled_from(WORDS)).map(lambda words: " ".join(words))


@settings(deadline=None)
@given(st.binary(max_size=200) | POLICIES.map(lambda text: text.encode(errors="surrogateescape")))
def test_any_bytes_are_a_policy_or_an_error(data: bytes) -> None:
    """Reading a policy never fails in another way."""
    try:
        trust = Trust.parse(data)
    except VerificationError:
        return
    assert trust.logs
