"""Declared facts: what policy sees is what the data says, or the message is denied."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES, MEMBERS, PERMIT
from tidegate_policy.bundle import Bundle, Facts, Question
from tidegate_policy.bundle.values import READERS, written
from tidegate_policy.roster import Roster
from tidegate_schemas.envelope import Envelope, decode
from tidegate_schemas.errors import InvalidDocument, InvalidEnvelope, InvalidPolicy
from tidegate_schemas.subjects import Kind

TEXT = """\
task:
  work.do:
    flag: Bool
    count: Long
    price: Decimal
    word: String
    words: Set<String>
    note?: String
    deep: { type: Long, at: /a~1b/1/n~0m }
"""
FACTS = Facts.of_text(TEXT)
GOOD: dict[str, Any] = {
    "flag": True,
    "count": 7,
    "price": 1.5,
    "word": "é",
    "words": ["b", "a", "b"],
    "a/b": [0, {"n~m": -1}],
}
SEEN = {
    "flag": True,
    "count": 7,
    "price": {"__extn": {"fn": "decimal", "arg": "1.5000"}},
    "word": "é",
    "words": ["a", "b"],
    "deep": -1,
}


def task(text: str | bytes) -> Envelope:
    """A task whose data is this JSON text, byte for byte."""
    head = b'{"specversion":"1.0","id":"1","source":"s","type":"t","kind":"task","to":"work.do"'
    data = text.encode() if isinstance(text, str) else text
    return decode(head + b',"data":' + data + b"}")


def seen(text: str | bytes) -> Any:
    """The facts of such a task."""
    return FACTS.of(Kind.TASK, "work.do", task(text))


def refusal(text: str) -> str:
    """Why a task has no facts."""
    with pytest.raises(InvalidEnvelope) as caught:
        seen(text)
    assert caught.value.code == "invalid_facts"
    return caught.value.detail


def changed(**values: Any) -> str:
    """The data with other values, as JSON text."""
    return json.dumps({**GOOD, **values})


def with_number(name: str, number: str) -> str:
    """The data with a number written like this."""
    return changed(**{name: "NUMBER"}).replace('"NUMBER"', number)


def test_facts_are_what_the_data_says() -> None:
    """Each with its type, sets sorted and without repetition, from wherever it is declared."""
    assert seen(json.dumps(GOOD)) == SEEN
    assert seen(json.dumps(GOOD, indent=3).replace("{", "{ \t\r\n")) == SEEN
    assert seen(changed(note="x")) == {**SEEN, "note": "x"}
    assert seen(changed(note=None)) == SEEN
    assert seen(changed(more={"flag": 0})) == SEEN


@pytest.mark.parametrize(
    ("type_", "text", "expected"),
    [
        ("Decimal", b"2000", "2000.0000"),
        ("Long", b"7", "7"),
        ("String", b'"{x}"', "{x}"),
        ("Set<String>", b'["b", "a"]', "['a', 'b']"),
    ],
)
def test_a_fact_is_shown_as_people_write_it(type_: str, text: bytes, expected: str) -> None:
    """Not as the object that Cedar's JSON makes of a decimal."""
    assert written(READERS[type_](text)) == expected


def test_what_is_not_declared_is_not_seen() -> None:
    """Facts are of one kind and one destination; others have none, whatever their data is."""
    envelope = task("[1]")

    assert FACTS.of(Kind.TASK, "work.other", envelope) is None
    assert FACTS.of(Kind.EVENT, "work.do", envelope) is None
    assert FACTS.action(Kind.TASK, "work.do") == "task:work.do"
    assert FACTS.action(Kind.TASK, "work.other") == "task:other"
    assert FACTS.action(Kind.EVENT, "work.do") == "event:other"


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (changed(flag=1), "/flag is not of type Bool: true or false"),
        (changed(flag="true"), "/flag is not of type Bool: true or false"),
        (changed(flag=None), "/flag is not of type Bool: true or false"),
        (changed(count=True), "/count is not of type Long: a whole number"),
        (changed(count="7"), "/count is not of type Long: a whole number"),
        (with_number("count", "7.0"), "/count is not of type Long: a whole number"),
        (with_number("count", "7e0"), "/count is not of type Long: a whole number"),
        (with_number("count", "9223372036854775808"), "/count is not of type Long: a number of"),
        (with_number("count", "-9223372036854775809"), "/count is not of type Long: a number of"),
        (with_number("count", "9" * 5000), "/count is not of type Long: a number of"),
        (changed(price="1.5"), "/price is not of type Decimal: a number"),
        (changed(price=True), "/price is not of type Decimal: a number"),
        (with_number("price", "0.00001"), "/price is not of type Decimal: at most 4 digits"),
        (with_number("price", "1e-5"), "/price is not of type Decimal: at most 4 digits"),
        (with_number("price", "1e-999"), "/price is not of type Decimal: at most 4 digits"),
        (with_number("price", "1e-9999"), "/price is not of type Decimal: a number of at most 40"),
        (with_number("price", "1e999"), "/price is not of type Decimal: between -9223372"),
        (with_number("price", "922337203685477.5808"), "/price is not of type Decimal: between"),
        (with_number("price", "0." + "0" * 50), "/price is not of type Decimal: a number of at"),
        (changed(word=1), "/word is not of type String: text"),
        (changed(word=["a"]), "/word is not of type String: text"),
        (changed(words="a"), "/words is not of type Set<String>: a list of texts"),
        (changed(words=["a", 1]), "/words is not of type Set<String>: a list of texts"),
        (changed(words=[None]), "/words is not of type Set<String>: a list of texts"),
        (changed(note=1), "/note is not of type String: text"),
        (changed(**{"a/b": [0]}), "/a~1b/1/n~0m is missing; it must be Long"),
        (changed(**{"a/b": {"1": {}}}), "/a~1b/1/n~0m is missing; it must be Long"),
        (changed(**{"a/b": "x"}), "/a~1b/1/n~0m is missing; it must be Long"),
        ('{"flag": true}', "/count is missing; it must be Long"),
        ("[]", "/flag is missing; it must be Bool"),
        ("null", "/flag is missing; it must be Bool"),
        (changed()[:-1] + ', "count": 1}', "/count is given twice"),
        (changed()[:-1] + ', "\\u0063ount": 1}', "/count is given twice"),
        (changed()[:-1] + ', "x~y": 1, "x~y": 1}', "/x~0y is given twice"),
        (changed(**{"a/b": [0, "X"]}).replace('"X"', '{"n~m": 1, "n~m": 2}'), "/a~1b/1/n~0m is"),
    ],
)
def test_nothing_is_coerced(text: str, detail: str) -> None:
    """A fact that is missing, of another type or given twice is told by its pointer."""
    assert refusal(text).startswith(detail)


def test_a_refusal_does_not_quote_the_data() -> None:
    """What is denied is recorded with its reason, which must not tell what may be redacted."""
    secret = "4111 1111 1111 1111"

    for name in GOOD:
        for value in (secret, [secret], {secret: secret}):
            with pytest.raises(InvalidEnvelope) as caught:
                seen(changed(**{"count": "x", name: value}))
            assert secret not in str(caught.value)


def test_without_data_required_facts_are_missing() -> None:
    """Also where there are bytes instead: policy does not look into them."""
    none = Envelope.new("t", kind="task", to="work.do", data_base64="e30=")

    with pytest.raises(InvalidEnvelope, match="/flag is missing"):
        FACTS.of(Kind.TASK, "work.do", none)


numbers = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,8})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)


@EXAMPLES
@given(numbers)
def test_a_decimal_is_exactly_the_number(number: str) -> None:
    """What Cedar compares is the number that was sent, to its last digit, or there is none."""
    scaled = Fraction(number) * 10_000
    fits = scaled.denominator == 1 and -(2**63) <= scaled < 2**63 and len(number) <= 40

    if fits:
        price = seen(with_number("price", number))["price"]["__extn"]["arg"]
        assert Fraction(price) * 10_000 == scaled
        assert len(price.partition(".")[2]) == 4
    else:
        assert refusal(with_number("price", number)).startswith("/price is not of type Decimal")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
likely: dict[str, st.SearchStrategy[Any]] = {
    "flag": st.booleans(),
    "count": st.integers(-(2**63), 2**63 - 1),
    "price": st.integers(-(10**18), 10**18).map(lambda n: n / 10_000),
    "word": st.text(),
    "words": st.lists(st.text(), max_size=5),
    "a/b": st.tuples(st.none(), st.fixed_dictionaries({"n~m": st.integers(-5, 5)})),
    "note": st.text() | st.none(),
}
data = st.fixed_dictionaries({name: value | json_values for name, value in likely.items()})
BUNDLE = Bundle.of_files(
    {
        "a.cedar": PERMIT
        + '@id("all") forbid (principal, action == Action::"task:work.do", resource) when {'
        " context.data.flag && context.data.count == 1 && context.data.price == decimal("
        '"1.5") && context.data.word like "*" && context.data.words.contains("x")'
        ' && context.data has note && context.data.note == "y" && context.data.deep > 3 };',
        "facts.yaml": TEXT,
    }
).snapshot(Roster.of(MEMBERS))


@EXAMPLES
@given(data | st.fixed_dictionaries(likely) | json_values)
def test_what_is_seen_is_what_the_engine_takes(given_: Any) -> None:
    """Any data gives facts over which policies are evaluated without error, or is refused."""
    text = json.dumps(given_)
    try:
        facts = seen(text)
    except InvalidEnvelope as error:
        assert error.code in ("invalid_facts", "malformed")
        return
    except ValueError:
        pytest.fail("leaked")

    answer = BUNDLE.ask(Question("team.sender", Kind.TASK, "work.do", "t", data=facts))

    assert not answer.error
    assert answer.policies in (("everything",), ("all",))
    read = msgspec.json.decode(text.encode())
    assert (facts["flag"], facts["count"], facts["word"]) == (
        read["flag"],
        read["count"],
        read["word"],
    )


def test_a_message_without_its_facts_is_not_allowed() -> None:
    """If somebody forgets to read them, the engine refuses the question: nothing slips through."""
    answer = BUNDLE.ask(Question("team.sender", Kind.TASK, "work.do", "t"))

    assert not answer.allowed
    assert "data" in answer.error


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("task: { a.b: { n: Int } }", "1: task.a.b.n.type: Input should be 'Bool'"),
        ("task:\n  a.b:\n    n: { type: Long, at: n }", "3: task.a.b.n.at: String should match"),
        ("task: { a.b: { n: { type: Long, to: /n } } }", "1: task.a.b.n.to: unknown field"),
        ("task: { a.b: {} }", "1: task.a.b: Dictionary should have at least 1 item"),
        ("tasks: { a.b: { n: Long } }", "1: tasks: unknown field"),
        ("task: { 'a b': { n: Long } }", "1: task.a b: destination 'a b'"),
        ("task: { a.b: { 1n: Long } }", "1: task.a.b.1n: String should match"),
        ("task: { a.b: { in: Long } }", "1: task.a.b.in: a word of Cedar"),
        ("task:\n  other: { n: Long }", "2: task.other: `other` stands for every"),
        ("task:\n  a.b:\n    n: Long\n    n?: Long", "4: task.a.b.n?: n is declared already"),
        (
            "task:\n  a.b:\n    n: Long\n    m: { type: Long, at: /n/m }",
            "4: task.a.b.m: its field is that of n, or inside of it",
        ),
        ("- task", "1: must be a mapping"),
        ("task: [", "facts.yaml:"),
        (
            "event:\n" + "".join(f"  t{n}: {{ n: Long }}\n" for n in range(501)),
            "1: event: facts of more than 500 destinations",
        ),
    ],
)
def test_a_wrong_declaration_is_told_with_its_line(text: str, problem: str) -> None:
    """As in every file that people write; and no bundle comes of it."""
    with pytest.raises(InvalidDocument) as caught:
        Facts.of_text(text)
    with pytest.raises(InvalidPolicy) as refused:
        Bundle.of_files({"a.cedar": PERMIT, "facts.yaml": text})

    assert problem in str(caught.value)
    assert problem in str(refused.value)


def test_rules_read_facts_of_their_destination_only() -> None:
    """A rule for all tasks cannot read what only some of them have, unless it asks first."""
    facts = {"facts.yaml": "task: { a.b: { n: Long }, c.d: { n: String } }"}
    for condition, problem in [
        ("context.data.n == 1", "`data` in context for Action::"),
        ("context has data && context.data.m == 1", "attribute `data.m`"),
    ]:
        scope = '@id("a") permit (principal, action in Action::"task", resource)'
        rule = f"{scope} when {{ {condition} }};"
        with pytest.raises(InvalidPolicy) as caught:
            Bundle.of_files({"a.cedar": rule, **facts})
        assert problem in str(caught.value)
    for rule in (
        '@id("a") permit (principal, action == Action::"task:a.b", resource)'
        " when { context.data.n == 1 };",
        '@id("a") permit (principal, action in Action::"task", resource)'
        " when { context has data && context.data.n == context.data.n };",
    ):
        assert Bundle.of_files({"a.cedar": rule, **facts}).rules
