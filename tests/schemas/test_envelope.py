"""The envelope: what goes in comes out, and hostile bytes end in InvalidEnvelope."""

import base64
import dataclasses
import datetime
import json
import math
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import MAX_DEPTH, MAX_ENVELOPE_BYTES, Envelope, decode, encode
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.subjects import Kind

HEAD = '{"specversion":"1.0","id":"1","source":"s","type":"t"'
TEXTS = (
    *("id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "kind", "to"),
    *(
        "correlationid",
        "causationid",
        "causationsource",
        "answers",
        "runid",
        "stepid",
        "blueprint",
        "traceparent",
        "tracestate",
    ),
    *("dataclassification", "datasubject", "dataenc", "expirytime", "onbehalfof", "costs"),
)

characters = st.characters(codec="utf-8")
words = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
destinations = st.from_regex(r"[A-Za-z0-9_-]{1,12}(\.[A-Za-z0-9_-]{1,12}){0,3}", fullmatch=True)
times = st.integers(0, 2**62).map(rfc3339)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
attributes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "id": words,
        "source": words,
        "now": st.integers(0, 2**62),
        "subject": words,
        "datacontenttype": words,
        "dataschema": words,
        "correlationid": words,
        "causationid": words,
        "causationsource": words,
        "answers": st.integers(1, 10**16 - 1).map(str),
        "runid": words,
        "stepid": words,
        "blueprint": words,
        "attempt": st.integers(1, 2**31 - 1),
        "traceparent": words,
        "tracestate": words,
        "dataclassification": words,
        "datasubject": words,
        "expirytime": times,
        "onbehalfof": words,
        "costs": st.sampled_from(["usd:0.02", "usd:0.02,tokens:431"]),
    },
)
routes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"kind": st.sampled_from(["task", "event", "result", "control"]), "to": destinations}
)


def made(type: str, data: Any, route: dict[str, Any], more: dict[str, Any]) -> Envelope:
    """An envelope as a sender makes it."""
    return Envelope.new(type, data, **route, **more)


envelopes = st.builds(
    made, destinations, json_values, routes | st.builds(dict[str, Any]), attributes
)


def envelope(**fields: str) -> bytes:
    """A valid envelope with further fields, each given as JSON text."""
    return (HEAD + "".join(f',"{name}":{text}' for name, text in fields.items()) + "}").encode()


def test_fields_holds_every_attribute() -> None:
    """The tables of this file are complete: a new attribute must be added to them."""
    others = {"specversion", "attempt", "data", "data_base64"}
    assert {*TEXTS, *others} == set(Envelope.__struct_fields__)


# The way there and back


@given(envelopes)
def test_an_envelope_comes_back_from_its_bytes(written: Envelope) -> None:
    """Every attribute survives, and the bytes of a read envelope are the bytes that were read."""
    payload = encode(written)

    assert decode(payload) == written
    assert encode(decode(payload)) == payload


@given(destinations, json_values)
def test_data_comes_back_as_the_values_that_were_sent(type: str, data: Any) -> None:
    """JSON values survive the way through `data` unchanged."""
    assert decode(encode(Envelope.new(type, data))).payload() == data


@given(json_values, st.sampled_from([None, 0, 1, "\t"]), st.booleans())
def test_data_is_kept_byte_for_byte(data: Any, indent: int | str | None, ascii: bool) -> None:
    """The bus neither reads nor reorders `data`: blanks, escapes and key order stay."""
    text = json.dumps(data, indent=indent, ensure_ascii=ascii)
    read = decode(envelope(data=text), limit=None)

    assert read.body == text.encode()
    assert decode(encode(read), limit=None) == read


def test_any_cloudevents_source_can_publish_as_it_is() -> None:
    """A plain CloudEvent in any order and spacing is an event whose destination is its type."""
    event = decode(
        b"""
        {
            "type" : "com.example.order",
            "data" : { "b": 1, "a": [ ] },
            "id" : "A234-1234-1234",
            "source" : "/mycontext",
            "specversion" : "1.0",
            "time" : "2018-04-05T17:31:00Z",
            "subject" : null,
            "datacontenttype" : "application/json"
        }
        """
    )

    assert event.destination() == (Kind.EVENT, "com.example.order")
    assert event.body == b'{ "b": 1, "a": [ ] }'
    assert event.subject is None


def test_a_new_envelope_fills_in_what_is_required() -> None:
    """A type is enough: id and source are filled in, and no time unless one is given."""
    one, other = Envelope.new("repo.commit"), Envelope.new("repo.commit")

    assert one.id != other.id
    assert (one.specversion, one.source, one.time) == ("1.0", "tidegate", None)
    assert one.payload() is None
    assert Envelope.new("a", now=0).time == "1970-01-01T00:00:00.000000000Z"


def test_every_attribute_can_be_given_to_a_new_envelope() -> None:
    """Attributes with a default can be given as well, `time` and `datacontenttype` among them."""
    made = Envelope.new("a", [1], time="2026-01-31T12:00:00Z", datacontenttype="text/json")

    assert made.time == "2026-01-31T12:00:00Z"
    assert made.datacontenttype == "text/json"


@pytest.mark.parametrize("kind", ["task", "result", "control"])
def test_what_is_no_event_needs_a_destination(kind: str) -> None:
    """Only an event may go without `to`."""
    with pytest.raises(InvalidEnvelope, match=f"a {kind} needs `to`"):
        decode(envelope(kind=f'"{kind}"'))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"to": '"a b"'}, "to"),
        ({"type": '"a b"'}, "type"),
        ({"to": '"a.>"', "kind": '"task"'}, "to"),
    ],
)
def test_a_bad_destination_is_blamed_on_its_attribute(fields: dict[str, str], field: str) -> None:
    """The message names `to`, or `type` where that stands in for it."""
    base = {"specversion": '"1.0"', "id": '"1"', "source": '"s"', "type": '"t"'}
    text = ",".join(f'"{name}":{value}' for name, value in (base | fields).items())
    with pytest.raises(InvalidEnvelope, match=f"malformed: `{field}`: destination"):
        decode(f"{{{text}}}".encode())


def test_a_type_outside_the_grammar_is_no_fault_where_there_is_a_destination() -> None:
    """`type` is a destination only where `to` is missing."""
    assert Envelope.new("any text at all", to="a.b").destination() == (Kind.EVENT, "a.b")


def test_expiry_is_read_to_the_nanosecond() -> None:
    """`expires` is the number of `expirytime`, or None."""
    assert Envelope.new("a", expirytime=rfc3339(5)).expires() == 5
    assert Envelope.new("a").expires() is None


# Hostile bytes

DEEP = 100_000
NUMBERS = {
    "5,000 digits": "9" * 5000,
    "minus 5,000 digits": "-" + "9" * 5000,
    "5,000 digits and a fraction": "9" * 5000 + ".5",
    "a huge exponent": "1e999999",
    "a huge negative": "-1e999999",
}
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "null": b"null",
    "true": b"true",
    "array": b"[]",
    "array of envelopes": b"[" + envelope() + b"]",
    "text": b'"x"',
    "NUL": b"\0",
    "object without fields": b"{}",
    "cut off": envelope()[:-1],
    "trailing brace": envelope() + b"}",
    "trailing NUL": envelope() + b"\0",
    "two envelopes": envelope() * 2,
    "byte order mark": b"\xef\xbb\xbf" + envelope(),
    "UTF-16": envelope().decode().encode("utf-16"),
    "UTF-32": envelope().decode().encode("utf-32"),
    "Latin-1": envelope(subject='"\xe9"').decode().encode("latin-1"),
    "invalid UTF-8 in data": envelope(data='"?"').replace(b"?", b"\xff"),
    "overlong UTF-8 in data": envelope(data='"?"').replace(b"?", b"\xc0\xaf"),
    "encoded surrogate in data": envelope(data='"?"').replace(b"?", b"\xed\xa0\x80"),
    "half a pair in text": envelope(subject=r'"\ud800"'),
    "half a pair in data": envelope(data=r'"\ud800"'),
    "the other half in data": envelope(data=r'"\udc00 and more"'),
    "NaN": envelope(data="NaN"),
    "Infinity": envelope(data="-Infinity"),
    "NaN as attempt": envelope(attempt="NaN"),
    "single quotes": envelope().replace(b'"', b"'"),
    "comment": envelope() + b"// no",
    "trailing comma": envelope()[:-1] + b",}",
    "trailing comma in data": envelope(data="[1,]"),
    "leading zero in data": envelope(data="01"),
    "bad escape in data": envelope(data=r'"\q"'),
    "control character in data": envelope(data='"\x01"'),
    "mismatched brackets in data": envelope(data="[}"),
    "unknown attribute": envelope(sender='"ada"'),
    "attribute in capitals": envelope(ID='"2"'),
    "attribute in mixed case": envelope(dataContentType='"a/b"'),
    "attribute with a NUL": envelope(**{r"id\u0000": '"2"'}),
    "attribute with a look-alike": envelope(**{"typ\u0435": '"2"'}),
    "specversion 0.3": envelope().replace(b"1.0", b"0.3"),
    "specversion as number": envelope().replace(b'"1.0"', b"1.0"),
    "unknown kind": envelope(kind='"unknown"'),
    "kind in capitals": envelope(kind='"TASK"', to='"a"'),
    "attempt 0": envelope(attempt="0"),
    "attempt over 31 bits": envelope(attempt="2147483648"),
    "id given twice": envelope(id='"2"'),
    "id given twice, once escaped": envelope(**{r"\u0069d": '"1"'}),
    "data given twice": envelope(data="1")[:-1] + b',"data":1}',
    "null and a value": envelope(to="null")[:-1] + b',"to":"a"}',
    "empty id": HEAD.replace('"id":"1"', '"id":""').encode() + b"}",
    "id of 1 MiB": HEAD.replace('"id":"1"', f'"id":"{"a" * 2**20}"').encode() + b"}",
    "subject of 1 MiB": envelope(subject=f'"{"a" * 2**20}"'),
    "unknown attribute of 1 MiB": envelope(**{"a" * 2**20: "1"}),
    "time without offset": envelope(time='"2026-01-31T12:00:00"'),
    "time with an absurd year": envelope(time='"99999-01-31T12:00:00Z"'),
    "time with an absurd offset": envelope(time='"2026-01-31T12:00:00+99:99"'),
    "time before the calendar": envelope(expirytime='"0001-01-01T00:00:00+23:59"'),
    "time in other digits": envelope(time='"\uff12026-01-31T12:00:00Z"'),
    "costs in other digits": envelope(costs='"usd:\u0663"'),
    "costs without a number": envelope(costs='"usd:"'),
    "costs that never end": envelope(costs=f'"usd:{"9" * 1000}"'),
    "destination with a wildcard": envelope(to='"a.>"'),
    "destination with a look-alike": envelope(to='"r\u0435po"'),
    "data and data_base64": envelope(data="1", data_base64='"aGk="'),
    "null data and data_base64": envelope(data="null", data_base64='"aGk="'),
    "data_base64 that is none": envelope(data_base64='"a"'),
    "data_base64 with blanks": envelope(data_base64='"aG k="'),
    "data_base64 beyond ASCII": envelope(data_base64='"\xe9\xe9\xe9\xe9"'),
    "deep arrays in data": envelope(data="[" * DEEP + "]" * DEEP),
    "deep objects in data": envelope(data='{"a":' * DEEP + "1" + "}" * DEEP),
    "deep data, not closed": envelope(data="[" * DEEP),
    "deep data with blanks": envelope(data=" [" * DEEP + "]" * DEEP),
    "deep attempt": envelope(attempt="[" * DEEP + "]" * DEEP),
    "deep unknown attribute": envelope(x="[" * DEEP + "]" * DEEP),
    "deep arrays": b"[" * DEEP,
    "deep objects": b'{"id":' * DEEP,
    **{f"attempt of {name}": envelope(attempt=text) for name, text in NUMBERS.items()},
    **{
        f"attempt of {name}, blanks": envelope(attempt=f" {text}") for name, text in NUMBERS.items()
    },
    **{f"unknown attribute of {name}": envelope(x=text) for name, text in NUMBERS.items()},
    **{
        f"id of {name}": HEAD.replace('"1"', text).encode() + b"}" for name, text in NUMBERS.items()
    },
    **{f"just {name}": text.encode() for name, text in NUMBERS.items()},
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_hostile_bytes_are_malformed(payload: bytes) -> None:
    """Each of them is refused as malformed, by a message that fits on a line."""
    with pytest.raises(InvalidEnvelope) as caught:
        decode(payload, limit=None)

    assert caught.value.code == "malformed"
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("field", TEXTS)
def test_a_wrong_type_is_blamed_on_its_attribute(field: str) -> None:
    """Text attributes hold 1 to 1,024 characters; anything else is refused by name."""
    required = {"id": '"1"', "source": '"s"', "type": '"t"'}
    long = f'"{"a" * 1025}"'
    for value in ("5", "1.5", "true", "[]", "{}", '""', long, '["a"]', "1e999999"):
        text = ",".join(f'"{name}":{value}' for name, value in (required | {field: value}).items())
        with pytest.raises(InvalidEnvelope, match=rf"^malformed: .*[`.]{field}`"):
            decode(f'{{"specversion":"1.0",{text}}}'.encode())


@pytest.mark.parametrize("value", ['"1"', "1.5", "1.0", "true", "[]", "{}", "-1"])
def test_a_wrong_attempt_is_blamed_on_it(value: str) -> None:
    """`attempt` is an integer from 1 up, written as one."""
    with pytest.raises(InvalidEnvelope, match=r"^malformed: .*`\$\.attempt`"):
        decode(envelope(attempt=value))


@pytest.mark.parametrize(
    "value", ["0", "01", "-1", "1.0", "\u0661", "1\n", " 1", "1" * 17, "record 1"]
)
def test_a_wrong_sequence_is_blamed_on_its_attribute(value: str) -> None:
    """What a result `answers` is the sequence of a record, written in one way."""
    with pytest.raises(InvalidEnvelope, match=r"^malformed: .*[`.]answers`"):
        Envelope.new("t", answers=value)


@pytest.mark.parametrize("field", ["specversion", "id", "source", "type"])
def test_a_missing_attribute_is_named(field: str) -> None:
    """Each required attribute is missed by name, and null does not stand in for it."""
    given = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    del given[field]
    with pytest.raises(InvalidEnvelope, match=f"`{field}`"):
        decode(json.dumps(given).encode())
    with pytest.raises(InvalidEnvelope, match=f"{field}`"):
        decode(json.dumps(given | {field: None}).encode())


@pytest.mark.parametrize(
    "field",
    sorted(set(TEXTS) - {"time", "kind", "to", "answers", "dataenc", "expirytime", "costs"}),
)
def test_control_characters_are_refused_in_every_attribute(field: str) -> None:
    """A CloudEvents string holds none (its section 2): logs and terminals would obey them."""
    required = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "to": "a"}
    for character in "\0\n\x1b\x7f\x85\x9f":
        with pytest.raises(InvalidEnvelope, match=f"`{field}` holds a control character"):
            decode(json.dumps(required | {field: f"a{character}b"}).encode())


def test_what_an_attribute_is_called_cannot_write_to_a_terminal() -> None:
    """A message quotes an unknown attribute without its control characters."""
    with pytest.raises(InvalidEnvelope) as caught:
        decode(envelope(**{r"\u001b[31mred\u000a\u009b": "1"}))

    assert "[31mred" in caught.value.detail
    assert caught.value.detail.isprintable()


@pytest.mark.parametrize("data", ['{"a":1,"a":2}', r'{"a":1,"\u0061":2}', '[{"id":1,"id":1}]'])
@pytest.mark.parametrize("blank", ["", " "])
def test_keys_given_twice_inside_data_are_left_alone(data: str, blank: str) -> None:
    """`data` is opaque: what its keys mean is between sender and receiver."""
    assert decode(envelope(data=blank + data)).body == data.encode()


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS.keys())
@pytest.mark.parametrize("form", ["{}", "[{}]", '{{"n":{}}}', " {} ", ' {{ "n" : {} }}'])
def test_huge_numbers_inside_data_are_kept_and_refused_on_reading(number: str, form: str) -> None:
    """The bus passes them on byte for byte; the receiver gets InvalidEnvelope, code `data`."""
    data = form.format(number)
    read = decode(envelope(data=data))

    assert read.body == data.strip().encode()
    assert decode(encode(read)) == read
    with pytest.raises(InvalidEnvelope, match=r"^data: "):
        read.payload()


@given(
    st.integers(MAX_DEPTH - 3, MAX_DEPTH + 3),
    st.randoms(use_true_random=False),
    st.sampled_from(["", " ", "\n"]),
    st.sampled_from(['"]]}"', r'"\"]]"', r'"\\"', '"[[["', "1", "[]", "{}"]),
)
def test_the_depth_of_an_envelope_has_one_limit(
    depth: int, random: Any, blank: str, leaf: str
) -> None:
    """Brackets count wherever they are, those inside strings never do, spacing changes nothing."""
    opening, closing = "", ""
    for _ in range(depth):
        if random.random() < 0.5:
            opening, closing = f'{opening}[{blank}{leaf},"[{{",', f"]{closing}"
        else:
            opening, closing = f'{opening}{{{blank}"}}":{leaf},"a":', f"}}{closing}"
    payload = envelope(data=f"{opening}{leaf}{closing}")
    if 1 + depth + (leaf in {"[]", "{}"}) <= MAX_DEPTH:
        assert decode(encode(decode(payload))).payload() is not None
    else:
        with pytest.raises(InvalidEnvelope, match=f"nested more than {MAX_DEPTH} deep"):
            decode(payload)


def test_the_size_limit_counts_bytes() -> None:
    """At the limit an envelope passes, one byte over it is oversized; None lifts the limit."""
    payload = envelope(data=f'"{"a" * 2**20}"')

    assert decode(payload, limit=len(payload)) == decode(payload, limit=None)
    with pytest.raises(InvalidEnvelope) as caught:
        decode(payload, limit=len(payload) - 1)
    assert caught.value.code == "oversized"
    with pytest.raises(InvalidEnvelope, match=f"^oversized: .* at most {MAX_ENVELOPE_BYTES} "):
        decode(payload)


def survives(payload: bytes) -> None:
    """Decoding ends in InvalidEnvelope or in an envelope that comes back from its own bytes."""
    try:
        read = decode(payload)
    except InvalidEnvelope as error:
        assert error.code in {"malformed", "oversized"}
        return
    assert decode(encode(read)) == read
    assert read.destination()[1]
    read.expires()
    try:
        read.payload()
    except InvalidEnvelope as error:
        assert error.code == "data"


@given(st.binary(max_size=200))
def test_random_bytes_never_leak_another_error(payload: bytes) -> None:
    """Noise is refused as an envelope, never by another exception."""
    survives(payload)


@given(json_values | st.dictionaries(st.sampled_from([*TEXTS, "data", "attempt"]), json_values))
def test_random_json_never_leaks_another_error(value: Any) -> None:
    """JSON of any shape is refused as an envelope, never by another exception."""
    survives(json.dumps(value).encode())
    if isinstance(value, dict):
        survives(
            json.dumps(
                {"specversion": "1.0", "id": "1", "source": "s", "type": "t", **value}
            ).encode()
        )


pieces = st.sampled_from(
    [
        *(
            b'"',
            b"\\",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b" ",
            b"\0",
            b"\xff",
            b"null",
            b"[" * 2000,
        ),
        *(b"9" * 5000, b"1e999999", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
        *(b'"id":"1",', b'"to":"a",'),
    ]
) | st.binary(max_size=3)


@settings(max_examples=150)
@given(
    envelopes.map(encode), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), pieces), max_size=4)
)
def test_damaged_envelopes_never_leak_another_error(
    payload: bytes, damage: list[tuple[float, float, bytes]]
) -> None:
    """An envelope with pieces cut out and put in is refused or read, nothing else."""
    for at, length, piece in damage:
        start = int(at * len(payload))
        payload = payload[:start] + piece + payload[start + int(length * length * 20) :]
    survives(payload)


# What cannot be sent


class Colour(StrEnum):
    """An enumeration of texts, which JSON can hold."""

    RED = "red"


class Point(msgspec.Struct):
    """A struct as senders use it."""

    x: float
    when: datetime.datetime | None = None
    raw: msgspec.Raw | None = None


@dataclasses.dataclass
class Plain:
    """A dataclass as senders use it."""

    tags: list[str]


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def circular() -> list[Any]:
    """A list that holds itself."""
    circle: list[Any] = []
    circle.append({"a": (circle,)})
    return circle


NO_JSON: dict[str, Any] = {
    "object": object(),
    "type": int,
    "function": nested,
    "complex": 1j,
    "unset": msgspec.UNSET,
    "NaN": math.nan,
    "infinity": [{"a": (math.inf,)}],
    "NaN in a struct": Point(math.nan),
    "bytes": b"a",
    "bytearray": [bytearray(b"a")],
    "memoryview": memoryview(b"a"),
    "set": {1},
    "frozenset": {"a": frozenset({1})},
    "2**70": 2**70,
    "2**64": [2**64],
    "-2**63-1": -(2**63) - 1,
    "5,001 digits": 10**5000,
    "half a surrogate pair": "\ud800",
    "half a surrogate pair as key": {"\udc00": 1},
    "bytes as key": {b"a": 1},
    "tuple as key": {(1,): 1},
    "None as key": {None: 1},
    "itself": circular(),
    "depth 5,000": nested(5000),
    "empty Raw": msgspec.Raw(b""),
    "bad Raw": msgspec.Raw(b"{bad"),
    "two values in Raw": msgspec.Raw(b"1 2"),
    "Raw with another attribute": msgspec.Raw(b'1,"kind":"control","to":"run.start"'),
    "bad Raw in a list": [msgspec.Raw(b"{bad")],
    "Raw that breaks out of a struct": Point(1, raw=msgspec.Raw(b'1},"kind":"control","x":{')),
}


@pytest.mark.parametrize("data", NO_JSON.values(), ids=NO_JSON.keys())
def test_data_without_a_json_form_is_refused(data: Any) -> None:
    """What JSON cannot hold, or would hold as something else, is InvalidEnvelope, code `data`."""
    with pytest.raises(InvalidEnvelope) as caught:
        Envelope.new("a", data)

    assert caught.value.code == "data"
    assert str(caught.value).isprintable()


def test_data_that_is_too_deep_for_the_bus_is_refused() -> None:
    """The sender hears of the depth limit before anything is sent."""
    assert Envelope.new("a", nested(MAX_DEPTH - 2)).payload() == nested(MAX_DEPTH - 2)
    with pytest.raises(InvalidEnvelope, match="nested more than"):
        Envelope.new("a", nested(MAX_DEPTH - 1))


def test_invalid_utf_8_in_raw_data_is_refused() -> None:
    """Raw is not trusted to be text."""
    with pytest.raises(InvalidEnvelope, match="UTF-8"):
        Envelope.new("a", msgspec.Raw(b'"\xff"'))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (Colour.RED, "red"),
        (Point(1), {"x": 1.0, "when": None, "raw": None}),
        (Point(1, raw=msgspec.Raw(b" [ ]")), {"x": 1.0, "when": None, "raw": []}),
        (Plain(["a"]), {"tags": ["a"]}),
        ([Plain(["a"]), (1, 2)], [{"tags": ["a"]}, [1, 2]]),
        ({1: "a", Colour.RED: 2}, {"1": "a", "red": 2}),
        (datetime.date(2026, 1, 31), "2026-01-31"),
        (Decimal("0.1"), "0.1"),
        (UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (msgspec.Raw(b' {"a": 1} '), {"a": 1}),
        ([2**64 - 1, -(2**63), None, True, 1.5], [2**64 - 1, -(2**63), None, True, 1.5]),
    ],
)
def test_what_msgspec_writes_as_json_can_be_sent(data: Any, value: Any) -> None:
    """Structs, dataclasses, enumerations, times and Raw are written as JSON."""
    assert Envelope.new("a", data).payload() == value


NO_TEXT: list[Any] = [5, b"a", 1.5, math.nan, object(), ["a"], {}, msgspec.Raw(b'"a"')]
BAD_ATTRIBUTES: list[tuple[str, Any]] = [
    *[
        (name, value)
        for name in ("id", "to", "subject")
        for value in ("", "a\0", "\ud800", "a" * 1025)
    ],
    *[("attempt", value) for value in ("1", 0, -1, True, 1.0, 2**31, 2**70, 10**5000, math.nan)],
    *[("now", value) for value in (10**30, -(10**30), 1.5, "now", math.nan, math.inf)],
    *[(name, value) for name in ("time", "expirytime") for value in ("soon", "2026-01-31")],
    *[("expirytime", datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)), ("id", UUID(int=0))],
    *[("kind", "unknown"), ("kind", "Task"), ("costs", "usd"), ("specversion", "0.3")],
    *[("data_base64", "a"), ("data_base64", b"aGk="), ("data_base64", "\ud800")],
]


@pytest.mark.parametrize(("name", "value"), BAD_ATTRIBUTES, ids=lambda v: str(type(v).__name__))
def test_a_bad_attribute_of_a_new_envelope_is_named(name: str, value: Any) -> None:
    """Wrong types and bounds are InvalidEnvelope with the attribute's name; nothing is coerced."""
    fields: dict[str, Any] = {"type": "a", name: value}
    with pytest.raises(InvalidEnvelope, match=rf"^malformed: .*[`.]{name}`"):
        Envelope.new(**fields)


@pytest.mark.parametrize("name", TEXTS)
def test_an_attribute_that_is_no_text_is_named(name: str) -> None:
    """What the encoder would write as some text or as null is refused before it does."""
    for value in NO_TEXT:
        fields: dict[str, Any] = {"type": "a", name: value}
        with pytest.raises(InvalidEnvelope, match=rf"^malformed: .*[`.]{name}`"):
            Envelope.new(**fields)


def test_an_unknown_attribute_of_a_new_envelope_is_a_programming_mistake() -> None:
    """A keyword that no envelope has is a TypeError, as everywhere in Python."""
    with pytest.raises(TypeError, match="sender"):
        Envelope.new("a", sender="ada")


def test_an_empty_id_is_not_replaced_by_a_random_one() -> None:
    """Only a missing id is made up: an empty one is a mistake of who computes ids."""
    with pytest.raises(InvalidEnvelope, match=r"\$\.id"):
        Envelope.new("a", id="")


def test_kind_and_enumerations_of_texts_can_be_attributes() -> None:
    """A `Kind` is a text like any other."""
    assert Envelope.new("a", kind=Kind.TASK, to="b").destination() == (Kind.TASK, "b")


# What the receiver reads


@given(st.binary(max_size=64))
def test_bytes_travel_as_data_base64(content: bytes) -> None:
    """`data_base64` takes the place of `data` and comes out as bytes."""
    text = base64.b64encode(content).decode()
    sent = Envelope.new("a", data_base64=text, datacontenttype="image/png")

    read = decode(encode(sent))
    assert read.payload(bytes) == content
    assert read.body == b""
    assert read.datacontenttype == "image/png"


def test_data_and_data_base64_exclude_each_other() -> None:
    """A sender that gives both hears of it."""
    with pytest.raises(InvalidEnvelope, match="both `data` and `data_base64`"):
        Envelope.new("a", 1, data_base64="aGk=")


def test_an_envelope_without_data_reads_as_null() -> None:
    """No data is None, and fits no type that excludes None."""
    read = decode(envelope())

    assert read.payload() is None
    with pytest.raises(InvalidEnvelope, match=r"^data: "):
        read.payload(Point)


def test_data_is_read_into_the_type_that_is_asked_for() -> None:
    """Structs, dataclasses and built-in types are filled, and refused where they do not fit."""
    assert decode(envelope(data='{"x":1}')).payload(Point) == Point(1)
    assert decode(envelope(data='{"tags":["a"]}')).payload(Plain) == Plain(["a"])
    assert decode(envelope(data='{"a":1}')).payload(dict[str, int]) == {"a": 1}
    with pytest.raises(InvalidEnvelope, match=r"^data: Expected `float`, got `str` - at `\$\.x`"):
        decode(envelope(data='{"x":"1"}')).payload(Point)


@pytest.mark.parametrize(
    "into",
    [
        *(None, int, float, bool, str, bytes, list[int], dict[str, int], set[int], Decimal, UUID),
        *(datetime.datetime, datetime.date, datetime.timedelta, Colour, Point, Plain),
    ],
)
@given(
    data=json_values.map(json.dumps)
    | st.sampled_from(
        [*NUMBERS.values(), '"P9999999999999999D"', '"1e999999"', '"9999-99-99"', "1e308"]
    )
)
@settings(max_examples=25)
def test_reading_data_leaks_no_other_error(into: Any, data: str) -> None:
    """Whatever the data and the type, the receiver gets a value or InvalidEnvelope."""
    read = decode(envelope(data=data), limit=None)
    try:
        read.payload(into) if into is not None else read.payload()
    except InvalidEnvelope as error:
        assert error.code == "data"


@pytest.mark.parametrize("costs", ["usd:0.02", "usd:0.02,tokens:431", "a_b:1", "usd:0.123456789"])
def test_costs_are_pairs_of_a_word_and_a_number(costs: str) -> None:
    """A list of `word:number` passes as it is."""
    assert Envelope.new("a", costs=costs).costs == costs
