"""The subject grammar: what is built is taken apart again, and nothing else is."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidName
from tidegate_schemas.subjects import (
    AckAddress,
    Kind,
    LedgerAddress,
    Principal,
    Verdict,
    check_destination,
)

names = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)
principals = st.builds(Principal, names, names)
destinations = st.from_regex(r"[A-Za-z0-9_-]{1,20}(\.[A-Za-z0-9_-]{1,20}){0,4}", fullmatch=True)
partitions = st.integers(0, 2**31)
verdicts = st.sampled_from(Verdict)
kinds = st.sampled_from(Kind)
texts = st.text() | st.text(st.sampled_from("abz09-_.*>$ \0\nA\u0430\u0663/"), max_size=20)

BAD_NAMES = {
    "empty": "",
    "too long": "a" * 64,
    "capital": "Dev",
    "underscore": "dev_ops",
    "dot": "dev.ops",
    "star": "*",
    "all": ">",
    "blank": "dev ops",
    "line feed at the end": "dev\n",
    "NUL": "dev\0",
    "Cyrillic look-alike": "d\u0435v",
    "full-width look-alike": "\uff44ev",
    "Arabic digit": "dev\u0663",
    "dotless i": "\u0131dev",
    "half a surrogate pair": "\ud800",
    "zero-width joiner": "de\u200dv",
}


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject falls under a pattern, by the rules of NATS."""
    expected, found = pattern.split("."), subject.split(".")
    for index, token in enumerate(expected):
        if token == ">":
            return len(found) > index
        if index >= len(found) or token not in {"*", found[index]}:
            return False
    return len(found) == len(expected)


@given(principals)
def test_a_principal_comes_back_from_its_text(principal: Principal) -> None:
    """`team.name` reads back as the same principal."""
    assert Principal.parse(str(principal)) == principal


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_bad_name_makes_no_principal(name: str) -> None:
    """Wildcards, dots, capitals and look-alikes are refused, as team and as name."""
    with pytest.raises(InvalidName, match=r"^team "):
        Principal(name, "agent")
    with pytest.raises(InvalidName, match=r"^name "):
        Principal("team", name)


@given(texts)
def test_any_text_is_a_principal_or_an_invalid_name(text: str) -> None:
    """Parsing ends in a principal with that very text, or in InvalidName."""
    try:
        principal = Principal.parse(text)
    except InvalidName:
        return
    assert str(principal) == text


def test_a_principal_without_a_dot_is_told_how_to_write_it() -> None:
    """The refusal shows the form."""
    with pytest.raises(InvalidName, match=r"principal 'dev': write it as team\.name"):
        Principal.parse("dev")


def test_principals_sort_by_team_and_name() -> None:
    """The order is that of the team first."""
    assert sorted([Principal("b", "a"), Principal("a", "z")])[0] == Principal("a", "z")


@given(principals)
def test_a_submission_names_its_sender(principal: Principal) -> None:
    """Who submits can be read off the subject."""
    assert subjects.submitter(subjects.submission(principal)) == str(principal)


@given(texts)
def test_any_subject_has_a_submitter_or_is_refused(text: str) -> None:
    """A sender is read off `in.<team>.<name>` and nothing else."""
    try:
        sender = subjects.submitter(text)
    except InvalidName:
        return
    assert f"in.{sender}" == text


@given(principals, principals)
def test_no_two_principals_share_a_consumer_or_an_inbox(one: Principal, other: Principal) -> None:
    """Consumer, inbox, receipt and submission are unique to a principal."""
    builders: list[Callable[[Principal], str]] = [
        subjects.consumer,
        subjects.inbox,
        subjects.receipt,
        subjects.submission,
    ]
    for build in builders:
        assert (build(one) == build(other)) == (one == other)


def test_a_dash_at_the_seam_does_not_merge_two_principals() -> None:
    """`a-b` of `c` and `a` of `b-c` have different consumers, for all that names hold dashes."""
    one, other = Principal("a-b", "c"), Principal("a", "b-c")
    assert subjects.consumer(one) != subjects.consumer(other)
    assert subjects.inbox(one) != subjects.inbox(other)


@given(partitions, verdicts, kinds, destinations)
def test_a_ledger_subject_comes_apart_as_it_was_built(
    partition: int, verdict: Verdict, kind: Kind, to: str
) -> None:
    """Partition, verdict, kind and destination survive, dots in the destination as well."""
    subject = subjects.ledger(partition, verdict, kind, to)

    assert subjects.parse_ledger(subject) == LedgerAddress(partition, verdict, kind, to)
    assert matches(subjects.ledger_subjects(partition), subject)


@given(
    texts
    | st.builds(
        "ledger.{}.{}.{}.{}".format,
        st.text(max_size=5) | st.just("9" * 5000),
        st.text(max_size=5) | verdicts,
        st.text(max_size=5) | kinds,
        texts,
    )
)
def test_any_subject_is_a_ledger_address_or_refused(text: str) -> None:
    """Taking apart ends in an address of known words, or in InvalidName."""
    try:
        address = subjects.parse_ledger(text)
    except InvalidName:
        return
    assert address.verdict in Verdict
    assert address.kind in Kind
    assert text.endswith(f".{address.verdict}.{address.kind}.{address.to}")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "ledger",
        "ledger.0.allow.task",
        "ledger.x.allow.task.a",
        "ledger.-1.allow.task.a",
        "ledger..allow.task.a",
        "ledger.0.ALLOW.task.a",
        "ledger.0.allow.chat.a",
        "ledger." + "9" * 5000 + ".allow.task.a",
        "in.a.b",
        "receipt.a.b",
        "xledger.0.allow.task.a",
    ],
)
def test_what_is_no_ledger_subject_is_refused(subject: str) -> None:
    """Unknown verdicts and kinds, partitions that are no number and other subjects are refused."""
    with pytest.raises(InvalidName):
        subjects.parse_ledger(subject)


@given(partitions, kinds, destinations)
def test_delivery_is_the_subject_of_allowed_records(partition: int, kind: Kind, to: str) -> None:
    """What a worker is fed from is exactly where records of admitted messages stand."""
    expected = LedgerAddress(partition, Verdict.ALLOW, kind, to)
    assert subjects.parse_ledger(subjects.delivery(partition, kind, to)) == expected


@given(principals, partitions, verdicts, kinds, destinations)
def test_the_families_of_subjects_do_not_overlap(
    principal: Principal, partition: int, verdict: Verdict, kind: Kind, to: str
) -> None:
    """Each subject falls under the pattern of its own family and under no other."""
    families = {
        subjects.INGRESS_SUBJECTS: subjects.submission(principal),
        subjects.RECEIPT_SUBJECTS: subjects.receipt(principal),
        subjects.TAIL_SUBJECTS: subjects.tail(partition),
        subjects.ledger_subjects(partition): subjects.ledger(partition, verdict, kind, to),
    }
    for pattern, own in families.items():
        assert [subject for subject in families.values() if matches(pattern, subject)] == [own]


@given(destinations)
def test_a_destination_is_returned_as_it_is(to: str) -> None:
    """A destination within the grammar passes unchanged."""
    assert check_destination(to) == to


@pytest.mark.parametrize(
    "to",
    [
        *("", ".", "a.", ".a", "a..b", "*", "a.>", "a b", "a\n", "a\0", "a/b", "a:b", "$JS"),
        *("\u0430", "\xe9", "\ud800", "a" * 256, ".".join("a" * 129), "a" * 1_000_000),
    ],
)
def test_what_is_no_destination_is_refused_in_few_words(to: str) -> None:
    """Wildcards, empty tokens, look-alikes and long texts are refused by a short message."""
    with pytest.raises(InvalidName) as caught:
        check_destination(to)

    assert len(str(caught.value)) < 700


def test_the_longest_destination_has_255_characters() -> None:
    """255 characters pass, 256 do not."""
    assert check_destination("a" * 255) == "a" * 255
    with pytest.raises(InvalidName):
        check_destination("a" * 256)


def test_the_destination_of_unreadable_messages_is_a_destination() -> None:
    """NOWHERE fits the grammar, so that records of unreadable messages have a subject."""
    assert check_destination(subjects.NOWHERE) == subjects.NOWHERE


whole = st.integers(0, 2**63 - 1)
tokens = st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True)


@given(tokens, tokens, whole, whole, whole, whole, whole)
def test_an_ack_subject_says_which_delivery_it_is_of(
    stream: str, consumer: str, delivered: int, stream_seq: int, seq: int, time: int, left: int
) -> None:
    """All numbers of an ack subject are read, and the subject is one of its consumer's."""
    subject = f"$JS.ACK.{stream}.{consumer}.{delivered}.{stream_seq}.{seq}.{time}.{left}"

    expected = AckAddress(stream, consumer, delivered, stream_seq, seq, time)
    assert subjects.parse_ack(subject) == expected
    assert matches(subjects.acks(stream, consumer), subject)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "$JS.ACK.S.C.1.2.3.4",
        "$JS.ACK.S.C.x.2.3.4.5",
        "$JS.ACK.S.C.1.2.3." + "9" * 5000 + ".5",
        "$JS.NAK.S.C.1.2.3.4.5",
        "$JS.ACK._.hash.S.C.1.2.3.4.5.token",
    ],
)
def test_what_is_no_ack_subject_is_refused(subject: str) -> None:
    """Missing parts, numbers that are none and the form with a domain are refused."""
    with pytest.raises(InvalidName):
        subjects.parse_ack(subject)


@given(texts.map("$JS.ACK.{}".format) | texts)
def test_any_text_is_an_ack_subject_or_an_invalid_name(text: str) -> None:
    """Taking apart raises nothing but InvalidName."""
    try:
        subjects.parse_ack(text)
    except InvalidName:
        return


ADA = Principal("research", "ada")


@pytest.mark.parametrize(
    ("subject", "built"),
    [
        ("in.research.ada", subjects.submission(ADA)),
        ("receipt.research.ada", subjects.receipt(ADA)),
        ("research_ada", subjects.consumer(ADA)),
        ("_INBOX_research_ada", subjects.inbox(ADA)),
        ("ledger.0.deny.event.a.b", subjects.ledger(0, Verdict.DENY, Kind.EVENT, "a.b")),
        ("ledger.0.allow.task.a.b", subjects.delivery(0, Kind.TASK, "a.b")),
        ("ledger.7.>", subjects.ledger_subjects(7)),
        ("tail.7", subjects.tail(7)),
        ("INGRESS_7", subjects.ingress_stream(7)),
        ("LEDGER_7", subjects.ledger_stream(7)),
        ("$JS.API.CONSUMER.MSG.NEXT.S.C", subjects.pull("S", "C")),
        ("$JS.ACK.S.C.>", subjects.acks("S", "C")),
        ("$JS.API.DIRECT.GET.S", subjects.direct_get("S")),
        ("$JS.API.STREAM.INFO.S", subjects.stream_info("S")),
        ("$JS.API.STREAM.PURGE.S", subjects.stream_purge("S")),
        ("$JS.API.CONSUMER.CREATE.S", subjects.consumer_create("S")),
        ("$JS.API.CONSUMER.INFO.S.C", subjects.consumer_info("S", "C")),
    ],
)
def test_the_grammar_is_frozen(subject: str, built: str) -> None:
    """Permissions of running brokers and stored ledgers hold these very subjects."""
    assert built == subject


def test_the_words_of_the_ledger_are_frozen() -> None:
    """Kinds and verdicts are part of the format: add, never change."""
    assert {"task", "event", "result", "control", "unknown"} <= set(Kind)
    assert {"allow", "deny", "hold", "reject", "duplicate"} <= set(Verdict)
