"""CloudEvents over HTTP: every envelope goes there and back, and a fault says where it is."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_bus import binding
from tidegate_bus.binding import Mode
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import InvalidEnvelope

HEAD: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}

words = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
json_types = st.sampled_from([None, "application/json", "text/json; x=1", "application/a.b+json"])
byte_types = st.sampled_from(["application/octet-stream", "text/plain; charset=utf-8", "a/b"])
contents = st.one_of(
    st.tuples(json_types, values).map(lambda t: {"datacontenttype": t[0], "data": t[1]}),
    st.tuples(byte_types, st.binary(min_size=1, max_size=60)).map(
        lambda t: {"datacontenttype": t[0], "data_base64": base64.b64encode(t[1]).decode()}
    ),
)
attributes = st.fixed_dictionaries(
    {},
    optional={
        "id": words,
        "source": words,
        "subject": words,
        "dataschema": words,
        "correlationid": words,
        "tracestate": words,
        "attempt": st.integers(1, 2**31 - 1),
        "kind": st.sampled_from(["task", "event", "result", "control"]),
        "to": st.just("somebody.somewhere"),
        "dataclassification": words,
    },
).filter(lambda found: found.get("kind", "event") == "event" or "to" in found)


def _envelope(found: dict[str, Any], held: dict[str, Any]) -> Envelope:
    return Envelope.new("a.b", **found, **held)


envelopes = st.builds(_envelope, attributes, contents)


def _lower(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("ascii")) for name, value in headers]


@given(envelopes)
def test_binary_mode_brings_every_envelope_back(envelope: Envelope) -> None:
    """Whatever characters the attributes hold, headers carry them in ASCII."""
    message = binding.write(envelope)
    headers = _lower(message.headers)
    content_type = dict(message.headers).get("content-type")

    assert Mode.BINARY is binding.mode_of(content_type, headers)
    assert envelope == binding.read_binary(content_type, headers, message.body)


@given(envelopes)
def test_structured_mode_brings_every_envelope_back(envelope: Envelope) -> None:
    """An event as JSON is the envelope."""
    content_type = "Application/CloudEvents+json; charset=UTF-8"

    assert Mode.STRUCTURED is binding.mode_of(content_type, [])
    assert envelope == binding.read_structured(b" " + encode(envelope) + b"\n")


@given(st.lists(envelopes, max_size=4))
def test_batched_mode_brings_all_envelopes_back_in_order(batch: list[Envelope]) -> None:
    """An array of events is the envelopes."""
    body = b"[" + b" ,\n".join(map(encode, batch)) + b"]"

    assert Mode.BATCHED is binding.mode_of(binding.BATCH, [])
    assert batch == binding.read_batch(body)


def test_json_data_is_kept_byte_for_byte() -> None:
    """Neither numbers nor blanks inside are written anew."""
    body = b'{"n": 1.50, "big": 123456789012345678901234567890,\n "a":[ ]}'

    envelope = binding.read_binary("application/json", _ce(), body)

    assert body == envelope.body


def test_data_cannot_become_an_attribute() -> None:
    """A body that would close the JSON around it is no JSON value."""
    with pytest.raises(InvalidEnvelope) as error:
        binding.read_binary("application/json", _ce(), b'1,"onbehalfof":"somebody"')

    assert (error.value.code, error.value.at) == ("malformed", "")


def test_an_event_inside_an_event_goes_structured() -> None:
    """In binary mode its type would make the data the event."""
    inner = Envelope.new("inner", datacontenttype=binding.STRUCTURED)

    message = binding.write(inner)

    assert message.headers == (("content-type", binding.STRUCTURED),)
    assert inner == binding.read_structured(message.body)


def test_text_in_an_envelope_is_the_text_on_the_wire() -> None:
    """JSON format §3.1: data of another type than JSON is a JSON string."""
    assert (
        binding.content(Envelope.new("t", "café", datacontenttype="text/plain")) == b"caf\xc3\xa9"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € \N{GRINNING FACE}"),
        (b"%45uro", "Euro"),
        (b"%e2%82%ac", "€"),
        (b'"a \\"b\\" \\\\ c%20d"', 'a "b" \\ c d'),
        (b"100%25", "100%"),
    ],
)
def test_header_values_are_read_as_the_binding_says(value: bytes, expected: str) -> None:
    """§3.1.3.2: unquote, then one round of percent-decoding."""
    envelope = binding.read_binary(None, [*_ce(), (b"ce-subject", value)], b"")

    assert expected == envelope.subject


@pytest.mark.parametrize(
    "value",
    [b"%C0%A0", b"100%", b"%zz", b'"open', "€".encode(), b"%E2%82", b"a%0Ab"],
)
def test_header_values_outside_of_it_are_refused_by_name(value: bytes) -> None:
    """What two readers could read differently is not read."""
    with pytest.raises(InvalidEnvelope) as error:
        binding.read_binary(None, [*_ce(), (b"ce-subject", value)], b"")

    assert error.value.at == "ce-subject"


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"id": None}, "/id"),
        ({"id": 1}, "/id"),
        ({"time": "yesterday"}, "/time"),
        ({"attempt": 0}, "/attempt"),
        ({"kind": "task"}, "/to"),
        ({"kind": "other"}, "/kind"),
        ({"type": "no destination"}, "/type"),
        ({"color/~": "x"}, "/color~1~0"),
        ({"specversion": "0.3"}, "/specversion"),
        ({"data_base64": "!"}, "/data_base64"),
    ],
)
def test_a_fault_of_a_structured_event_is_pointed_at(change: dict[str, Any], at: str) -> None:
    """The pointer (RFC 6901) is that of the attribute; in a batch the index comes first."""
    event = {name: value for name, value in (HEAD | change).items() if value is not None}
    text = json.dumps(event).encode()

    with pytest.raises(InvalidEnvelope) as single:
        binding.read_structured(text)
    with pytest.raises(InvalidEnvelope) as batched:
        binding.read_batch(b"[" + json.dumps(HEAD).encode() + b"," + text + b"]")

    assert (at, f"/1{at}") == (single.value.at, batched.value.at)


@pytest.mark.parametrize(
    ("headers", "at"),
    [
        ([(b"ce-id", b"")], "ce-id"),
        ([(b"ce-id", b"1"), (b"ce-id", b"2")], "ce-id"),
        ([(b"ce-datacontenttype", b"text/plain")], "ce-datacontenttype"),
        ([(b"ce-data", b"1")], "ce-data"),
        ([(b"ce-attempt", b"1.0")], "ce-attempt"),
        ([(b"ce-time", b"now")], "ce-time"),
    ],
)
def test_a_fault_of_a_binary_event_is_a_header(headers: list[tuple[bytes, bytes]], at: str) -> None:
    """So the sender knows which one to mend."""
    rest = [(name, value) for name, value in _ce() if name not in dict(headers)]

    with pytest.raises(InvalidEnvelope) as error:
        binding.read_binary("application/json", [*rest, *headers], b"1")

    assert at == error.value.at


@pytest.mark.parametrize(
    ("content_type", "body", "way_out"),
    [
        ("application/json", b"{}", binding.STRUCTURED),
        (None, b"{}", binding.STRUCTURED),
        ("application/cloudevents+avro", b"", binding.STRUCTURED),
        ("application/cloudevents+json; charset=latin-1", b"", "UTF-8"),
    ],
)
def test_what_holds_no_event_is_told_how_to_send_one(
    content_type: str | None, body: bytes, way_out: str
) -> None:
    """Plain JSON might be anything, so it is not guessed at."""
    with pytest.raises(InvalidEnvelope, match=way_out.replace("+", r"\+")) as error:
        binding.mode_of(content_type, [])

    assert error.value.code == binding.MEDIA_TYPE


def test_json_that_curl_calls_a_form_is_not_taken_for_bytes() -> None:
    """Policy could not look into it, and nobody would see why."""
    with pytest.raises(InvalidEnvelope, match="application/json"):
        binding.read_binary("application/x-www-form-urlencoded", _ce(), b'{"a":1}')


def test_the_limit_is_one_of_the_envelope_not_of_its_blanks() -> None:
    """What is published is compact."""
    text = json.dumps(HEAD | {"data": 1}, indent=30).encode()
    compact = len(encode(binding.read_structured(text)))

    assert binding.read_structured(text, limit=compact)
    with pytest.raises(InvalidEnvelope) as error:
        binding.read_structured(text, limit=compact - 1)
    assert error.value.code == "oversized"


@given(st.binary(max_size=60), st.sampled_from([b"ce-id", b"ce-time", b"ce-attempt", b"ce-x"]))
def test_whatever_the_bytes_are_nothing_else_is_raised(found: bytes, name: bytes) -> None:
    """Bodies and headers are from strangers."""
    for read in (
        lambda: binding.read_structured(found),
        lambda: binding.read_batch(found),
        lambda: binding.read_binary("application/json", [*_ce(), (name, found)], found),
        lambda: binding.read_binary(found.decode("latin-1"), _ce(), found),
        lambda: binding.mode_of(found.decode("latin-1"), [(name, found)]),
    ):
        try:
            read()
        except InvalidEnvelope as error:
            assert error.at is not None


def _ce() -> list[tuple[bytes, bytes]]:
    return [(f"ce-{name}".encode(), value.encode()) for name, value in HEAD.items()]


def test_a_fault_in_a_batch_says_that_nothing_of_it_is_taken() -> None:
    """The sender need not guess what became of the events before it."""
    with pytest.raises(InvalidEnvelope) as caught:
        binding.read_batch(json.dumps([HEAD, {}]).encode())

    assert caught.value.at == "/1/specversion"
    assert caught.value.detail.endswith("; nothing of the batch is taken")
