"""The record: one form of bytes, read strictly, with the envelope in it byte for byte."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import MAX_DEPTH, Envelope, decode, encode
from tidegate_schemas.errors import InvalidEnvelope, InvalidRecord
from tidegate_schemas.record import (
    VERSION,
    Ingress,
    Reason,
    Receipt,
    Record,
    Why,
    decode_growth,
    decode_receipts,
    decode_record,
    encode_growth,
    encode_receipts,
    encode_record,
)
from tidegate_schemas.subjects import Kind, Verdict

DEEP = 100_000
ENVELOPE = '{"specversion":"1.0","id":"1","source":"s","type":"t"%s}'

words = st.text(st.characters(codec="utf-8"), max_size=20)
whole = st.integers(0, 2**63 - 1)
times = st.integers(0, 2**62).map(rfc3339)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=8,
)


def spelled(data: Any, indent: int | None, ascii: bool) -> bytes:
    """An envelope in the spelling of some other program."""
    text = json.dumps(data, indent=indent, ensure_ascii=ascii)
    return (ENVELOPE % f', "data" : {text}\n').encode()


messages = st.builds(spelled, json_values, st.sampled_from([None, 0, 2]), st.booleans())
records = st.builds(
    Record,
    v=st.just(VERSION),
    log=words,
    seq=st.integers(1, 2**63 - 1),
    time=times,
    epoch=whole,
    ingress=st.builds(Ingress, whole, whole, times),
    by=words,
    kind=st.sampled_from(Kind),
    to=words,
    verdict=st.sampled_from(Verdict),
    why=st.builds(
        Why,
        st.lists(words, max_size=3).map(tuple),
        words,
        words,
        st.lists(words, max_size=3).map(tuple),
        st.dictionaries(words, json_values, max_size=3),
    ),
    first=st.none() | whole,
    envelope=st.just(msgspec.UNSET) | messages.map(msgspec.Raw),
    raw=st.none() | words,
)
receipts = st.builds(
    Receipt,
    id=words,
    verdict=st.sampled_from(Verdict),
    seq=whole,
    reason=words,
    ingress=whole,
    detail=words,
    policies=st.lists(words, max_size=3).map(tuple),
    was=st.none() | st.sampled_from(Verdict),
)


def record(message: bytes | None = None) -> Record:
    """A record as the gateway makes it."""
    return Record(
        v=VERSION,
        log="tidegate/0",
        seq=7,
        time="2026-01-31T12:00:00.000000000Z",
        epoch=1,
        ingress=Ingress(9, 0, "2026-01-31T11:59:59.000000000Z"),
        by="research.ada",
        kind=Kind.TASK,
        to="repo.read",
        verdict=Verdict.ALLOW,
        why=Why(("p1",), Reason.PERMITTED, "sha256:0"),
        envelope=msgspec.UNSET if message is None else msgspec.Raw(message),
    )


LEAF = encode_record(record())


def changed(**fields: str) -> bytes:
    """The leaf with some fields replaced by other JSON text, in the same form and order."""
    texts = {
        name: json.dumps(value, separators=(",", ":")) for name, value in json.loads(LEAF).items()
    }
    return ("{" + ",".join(f'"{k}":{v}' for k, v in (texts | fields).items()) + "}").encode()


@given(records)
def test_a_record_comes_back_from_its_bytes(written: Record) -> None:
    """Every field survives, and the bytes of a read record are the bytes that were read."""
    leaf = encode_record(written)

    assert decode_record(leaf) == written
    assert encode_record(decode_record(leaf)) == leaf


@given(messages)
def test_the_envelope_stands_in_the_record_byte_for_byte(message: bytes) -> None:
    """Blanks, escapes and key order of the sender's bytes survive two rounds through the ledger."""
    once = decode_record(encode_record(record(message)))
    twice = decode_record(encode_record(once))

    assert message in encode_record(twice)
    assert bytes(msgspec.convert(twice.envelope, msgspec.Raw)) == message
    assert twice.message() == decode(message, limit=None)


def test_the_order_of_the_fields_is_frozen() -> None:
    """The leaf is compact JSON in this very order; stored trees depend on it."""
    full = msgspec.structs.replace(record(b"{}"), first=3, raw="aGk=")
    message = '"first":3,"envelope":{},"raw":"aGk="}'

    assert encode_record(full).decode() == (
        '{"v":1,"log":"tidegate/0","seq":7,"time":"2026-01-31T12:00:00.000000000Z","epoch":1,'
        '"in":{"seq":9,"n":0,"time":"2026-01-31T11:59:59.000000000Z"},"by":"research.ada",'
        '"kind":"task","to":"repo.read","verdict":"allow","why":{"policies":["p1"],'
        '"reason":"permitted","bundle":"sha256:0","obligations":[],"facts":{}},' + message
    )


def test_what_a_record_does_not_have_is_not_written() -> None:
    """`first`, `envelope` and `raw` are absent where there are none, not null."""
    assert {"first", "envelope", "raw"}.isdisjoint(json.loads(LEAF))
    assert decode_record(LEAF).message() is None


def test_the_deepest_envelope_can_be_read_back_from_the_ledger() -> None:
    """What the gateway takes in, everybody can read in the ledger, json.loads as well."""
    depth = MAX_DEPTH - 1
    message = (ENVELOPE % f',"data":{"[" * depth}{"]" * depth}').encode()
    leaf = encode_record(record(message))

    assert decode_record(leaf).message() == decode(message)
    assert json.loads(leaf)["envelope"] == json.loads(message)


OTHER_FORMS: dict[str, bytes] = {
    "blank before": b" " + LEAF,
    "line feed after": LEAF + b"\n",
    "blank inside": LEAF.replace(b":", b": ", 1),
    "fields in another order": json.dumps(
        dict(reversed(json.loads(LEAF).items())), separators=(",", ":")
    ).encode(),
    "field given twice": LEAF[:-1] + b',"seq":7}',
    "field given twice, once escaped": LEAF[:-1] + rb',"\u0073eq":7}',
    "inner field given twice": LEAF.replace(b'"n":0', b'"n":0,"n":0'),
    "envelope given twice": LEAF[:-1] + b',"envelope":{},"envelope":{}}',
    "escaped letter": LEAF.replace(b"research", rb"rese\u0061rch"),
    "null written out": LEAF[:-1] + b',"first":null}',
    "default written out": LEAF[:-1] + b',"raw":null}',
    "blanks around the envelope": LEAF[:-1] + b',"envelope": {} }',
    "zero written as minus zero": LEAF.replace(b'"n":0', b'"n":-0'),
}


@pytest.mark.parametrize("leaf", OTHER_FORMS.values(), ids=OTHER_FORMS.keys())
def test_a_record_has_one_form_only(leaf: bytes) -> None:
    """The same values in other bytes are no record: the leaf is what is proven."""
    with pytest.raises(InvalidRecord, match="not a ledger record"):
        decode_record(leaf)


@pytest.mark.parametrize("version", [0, 2, -1, 2**62])
def test_another_version_is_named(version: int) -> None:
    """A program that is too old says so."""
    with pytest.raises(InvalidRecord, match=rf"^record version {version}; .* reads version 1$"):
        decode_record(changed(v=str(version)))


HUGE = {
    "5,000 digits": "9" * 5000,
    "minus 5,000 digits": "-" + "9" * 5000,
    "a huge exponent": "1e999999",
}
NO_RECORD: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "array": b"[]",
    "array of records": b"[" + LEAF + b"]",
    "text": b'"x"',
    "number": b"1",
    "NUL": b"\0",
    "NaN": b"NaN",
    "object without fields": b"{}",
    "cut off": LEAF[:-1],
    "trailing brace": LEAF + b"}",
    "two records": LEAF * 2,
    "byte order mark": b"\xef\xbb\xbf" + LEAF,
    "UTF-16": LEAF.decode().encode("utf-16"),
    "invalid UTF-8": LEAF.replace(b"research", b"rese\xffrch"),
    "invalid UTF-8 in the envelope": encode_record(record(b'{"a":"\xff"}')),
    "half a surrogate pair": LEAF.replace(b"research", rb"\ud800"),
    "half a surrogate pair in the envelope": LEAF[:-1] + rb',"envelope":{"a":"\ud800"}}',
    "broken envelope": LEAF[:-1] + b',"envelope":{bad}}',
    "unknown field": LEAF[:-1] + b',"x":1}',
    "field in capitals": LEAF.replace(b'"seq"', b'"SEQ"', 1),
    "look-alike field": LEAF.replace(b'"seq"', '"s\u0435q"'.encode(), 1),
    "internal name of a field": LEAF.replace(b'"in":', b'"ingress":'),
    "text of 1 MiB as number": changed(seq=f'"{"a" * 2**20}"'),
    "unknown field of 1 MiB": LEAF[:-1] + b',"' + b"a" * 2**20 + b'":1}',
    "deep arrays": b"[" * DEEP,
    "deep objects": b'{"v":' * DEEP,
    "deep facts": changed(why='{"policies":[],"reason":"","bundle":"","facts":{"a":' + "[" * DEEP),
    "deep envelope": LEAF[:-1] + b',"envelope":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep unknown field": LEAF[:-1] + b',"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "sequence 0": changed(seq="0"),
    **{f"just {name}": text.encode() for name, text in HUGE.items()},
    **{f"version of {name}": changed(v=text) for name, text in HUGE.items()},
    **{f"sequence of {name}": changed(seq=text) for name, text in HUGE.items()},
    **{f"unknown field of {name}": changed(x=text) for name, text in HUGE.items()},
    **{
        f"fact of {name}": LEAF.replace(b'"facts":{}', f'"facts":{{"a":{text}}}'.encode())
        for name, text in HUGE.items()
    },
}


@pytest.mark.parametrize("payload", NO_RECORD.values(), ids=NO_RECORD.keys())
def test_hostile_bytes_are_no_record(payload: bytes) -> None:
    """Each of them is InvalidRecord, by a message that fits on a line."""
    with pytest.raises(InvalidRecord, match=r"^not a ledger record: ") as caught:
        decode_record(payload)

    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("field", json.loads(LEAF).keys())
def test_a_wrong_type_is_blamed_on_its_field(field: str) -> None:
    """Fields of another type are refused by name; nothing is coerced."""
    values = ["null", "1.5", "true", "[]", "{}", "[[]]"]
    values += [] if field in {"log", "time", "by", "to"} else ['"x"']
    values += [] if field == "epoch" else ["-1"]
    for value in values:
        with pytest.raises(InvalidRecord, match=rf"\$\.{field}|`{field}`|version -1"):
            decode_record(changed(**{field: value}))


@given(st.binary(max_size=200))
def test_random_bytes_never_leak_another_error(payload: bytes) -> None:
    """Noise is refused as record and as receipts, never by another exception."""
    with pytest.raises(InvalidRecord):
        decode_record(payload)
    with contextlib.suppress(InvalidRecord):
        assert decode_receipts(payload) == []


@given(json_values)
def test_random_json_never_leaks_another_error(value: Any) -> None:
    """JSON of any shape is refused, except that an empty list holds no receipts."""
    payload = json.dumps(value).encode()
    with pytest.raises(InvalidRecord):
        decode_record(payload)
    if value == []:
        assert decode_receipts(payload) == []
    else:
        with pytest.raises(InvalidRecord):
            decode_receipts(payload)


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
        *(b"9" * 5000, b"1e999999", b"\\ud800", b"\xed\xa0\x80", b'"seq":7,', b"0"),
    ]
) | st.binary(max_size=3)
damages = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), pieces), max_size=3)


@settings(max_examples=150)
@given(records.map(encode_record) | st.lists(receipts, max_size=3).map(encode_receipts), damages)
def test_damaged_bytes_never_leak_another_error(
    payload: bytes, damage: list[tuple[float, float, bytes]]
) -> None:
    """A record with pieces cut out and put in is refused, or is read and has those very bytes."""
    for at, length, piece in damage:
        start = int(at * len(payload))
        payload = payload[:start] + piece + payload[start + int(length * length * 20) :]
    try:
        read = decode_record(payload)
        assert encode_record(read) == payload
        read.message()
    except (InvalidRecord, InvalidEnvelope):
        pass
    try:
        some = decode_receipts(payload)
    except InvalidRecord:
        return
    assert decode_receipts(encode_receipts(some)) == some


def test_an_envelope_that_no_gateway_admits_is_not_given_out() -> None:
    """`message` reads the envelope as strictly as the gateway does."""
    read = decode_record(encode_record(record(b'{"a":1}')))
    with pytest.raises(InvalidEnvelope):
        read.message()


def test_the_message_of_a_record_is_the_envelope() -> None:
    """What the sender wrote can be read off the record."""
    sent = Envelope.new("repo.commit", {"sha": "1"})
    assert decode_record(encode_record(record(encode(sent)))).message() == sent


def test_the_words_of_reason_are_frozen() -> None:
    """The words are part of the format: add, never change."""
    frozen = {
        *("permitted", "forbidden", "not_permitted", "policy_error", "unknown_sender"),
        *("unknown_destination", "expired", "repeated", "malformed", "oversized"),
    }
    words = [value for name, value in vars(Reason).items() if name.isupper()]

    assert frozen <= set(words)
    assert len(words) == len(set(words))


# Receipts


@given(st.lists(receipts, max_size=5))
def test_receipts_come_back_from_their_bytes(written: list[Receipt]) -> None:
    """Every field of every receipt survives, in order."""
    assert decode_receipts(encode_receipts(written)) == written


def receipt(more: str = "", seq: str = "1") -> str:
    """One receipt as JSON, with further fields."""
    return f'{{"id":"1","verdict":"allow","seq":{seq},"reason":"permitted","ingress":1{more}}}'


NO_RECEIPTS: dict[str, str] = {
    "empty": "",
    "null": "null",
    "object": "{}",
    "one receipt without a list": receipt(),
    "list of numbers": "[1]",
    "list of null": "[null]",
    "list of lists": "[[]]",
    "missing fields": "[{}]",
    "unknown field": "[" + receipt(',"x":1') + "]",
    "unknown verdict": "[" + receipt(',"was":"maybe"') + "]",
    "policies as text": "[" + receipt(',"policies":"p"') + "]",
    "trailing comma": "[" + receipt() + ",]",
    "trailing garbage": "[" + receipt() + "]x",
    "byte order mark": "\ufeff[]",
    "half a surrogate pair": "[" + receipt(r',"detail":"\ud800"') + "]",
    "deep": "[" * DEEP,
    "deep unknown field": "[" + receipt(',"x":' + "[" * DEEP + "]" * DEEP) + "]",
    **{f"sequence of {name}": "[" + receipt(seq=text) + "]" for name, text in HUGE.items()},
    **{f"just {name}": text for name, text in HUGE.items()},
}


@pytest.mark.parametrize("text", NO_RECEIPTS.values(), ids=NO_RECEIPTS.keys())
def test_hostile_bytes_are_no_receipts(text: str) -> None:
    """Each of them is InvalidRecord, by a message that fits on a line."""
    with pytest.raises(InvalidRecord, match=r"^not receipts: ") as caught:
        decode_receipts(text.encode())

    assert len(str(caught.value)) < 500


def test_a_receipt_says_no_more_than_there_is() -> None:
    """Empty grounds are not written: most receipts are short."""
    short = Receipt("1", Verdict.ALLOW, 1, Reason.PERMITTED, 1)
    assert encode_receipts([short]).decode() == f"[{receipt()}]"


@given(
    st.integers(1, 2**60),
    st.lists(
        st.sampled_from([f"ledger.0.allow.event.{n}" for n in range(50)]), min_size=1, max_size=80
    ),
)
def test_a_hint_says_what_the_ledger_grew_by(first: int, subjects: list[str]) -> None:
    """First and last, and each subject once, unless there are many."""
    growth = decode_growth(encode_growth(first, subjects))

    assert growth
    assert (growth.first, growth.last) == (first, first + len(subjects) - 1)
    if len(set(subjects)) <= 32:
        assert growth.subjects
        assert sorted(growth.subjects) == sorted(set(subjects))
    else:
        assert growth.subjects is None


@pytest.mark.parametrize("payload", [b"", b"17", b"{}", b'{"first":1}', b"\xff", b"[" * 5000])
def test_anything_else_is_no_hint(payload: bytes) -> None:
    """None; no error comes out of it."""
    assert decode_growth(payload) is None
