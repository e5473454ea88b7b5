"""The sealed form of personal data."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_schemas.envelope import Envelope, decode, encode
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.personal import (
    KEY_BYTES,
    MAX_SUBJECTS,
    NONCE_BYTES,
    SALT_BYTES,
    is_personal,
    key_id,
    key_ids,
    message_key,
    month,
    seal,
    sealed,
    subjects_of,
    unseal,
)

BY = "outside.website"
ONE = "0123456789abcdef" * 2 + ".2026-01"
TWO = "fedcba9876543210" * 2 + ".2026-02"
SALT, NONCE = b"s" * SALT_BYTES, b"n" * NONCE_BYTES
KEY = message_key([b"k" * KEY_BYTES], SALT)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def personal(data: Any = None, datasubject: str | None = "customer-42", **more: Any) -> Envelope:
    """An envelope about somebody, as a sender makes it."""
    more |= {"dataclassification": "personal", "datasubject": datasubject}
    return Envelope.new("order.created", data, id="1", **more)


def closed(envelope: Envelope, *, ids: str = ONE, by: str = BY, key: bytes = KEY) -> Envelope:
    """It sealed, and read from its bytes."""
    return decode(encode(seal(envelope, by, ids, salt=SALT, key=key, nonce=NONCE)))


@given(json_values)
def test_json_comes_back_and_is_not_in_what_is_sent(data: Any) -> None:
    """All that `data` may be survives; on the way there is no `data`, and no name."""
    envelope = personal(data)
    on_its_way = closed(envelope)

    assert on_its_way.body == b""
    assert on_its_way.dataenc == "v1"
    assert b"customer-42" not in encode(on_its_way)
    opened = unseal(on_its_way, BY, KEY)
    assert opened.body == envelope.body
    assert (opened.datasubject, opened.dataenc) == (ONE, None)
    assert is_personal(opened)


@given(st.binary(max_size=200))
def test_bytes_come_back(data: bytes) -> None:
    """What was sent as `data_base64` is so again."""
    envelope = personal(data_base64=base64.b64encode(data).decode())

    assert unseal(closed(envelope), BY, KEY).payload(bytes) == data


@given(st.integers(min_value=0), st.integers(1, 255))
def test_no_byte_of_it_can_be_changed(where: int, by: int) -> None:
    """Whatever byte is another, it does not open."""
    envelope = closed(personal({"card": "4111"}))
    blob = bytearray(base64.b64decode(envelope.data_base64 or ""))
    at = where % len(blob)
    blob[at] ^= by
    changed = msgspec.structs.replace(envelope, data_base64=base64.b64encode(blob).decode())

    with pytest.raises(InvalidEnvelope) as caught:
        # The salt is not read here: whoever opens derives the key from it.
        key = message_key([b"k" * KEY_BYTES], sealed(changed).salt)
        unseal(changed, BY, key)
    assert caught.value.code == "unsealed"


@pytest.mark.parametrize(
    "changed", [{"id": "2"}, {"type": "order.deleted"}, {"datasubject": TWO}], ids=str
)
def test_it_is_no_other_message(changed: dict[str, str]) -> None:
    """Under another id, type or key it does not open."""
    other = msgspec.structs.replace(closed(personal(1)), **changed)

    with pytest.raises(InvalidEnvelope, match="sealed as another message"):
        unseal(other, BY, KEY)


def test_nobody_can_pass_it_off_as_their_own() -> None:
    """Sent by somebody else it does not open."""
    with pytest.raises(InvalidEnvelope, match="sealed as another message"):
        unseal(closed(personal(1)), "outside.thief", KEY)


@given(st.binary(max_size=120))
def test_what_is_no_sealed_blob_is_told(blob: bytes) -> None:
    """Whatever bytes stand there, it is one error."""
    envelope = personal(data_base64=base64.b64encode(blob).decode(), datasubject=ONE, dataenc="v1")
    with pytest.raises(InvalidEnvelope) as caught:
        unseal(envelope, BY, KEY)
    assert caught.value.code == "unsealed"


def test_a_sealed_envelope_is_read_as_no_data() -> None:
    """Whoever forgets to open it gets an error, not null."""
    with pytest.raises(InvalidEnvelope, match="sealed personal data"):
        closed(personal({"a": 1})).payload()


def test_what_was_sealed_by_hand_is_like_any_other_data() -> None:
    """Data that no envelope may have is no data when it is opened either."""
    deep = msgspec.Raw(b"[" * 200 + b"]" * 200)
    envelope = msgspec.structs.replace(personal(1), data=deep)
    with pytest.raises(InvalidEnvelope, match="no data of an envelope"):
        unseal(closed(envelope), BY, KEY)


@pytest.mark.parametrize("envelope", [personal(1), closed(personal(1), ids=f"{ONE},x")])
def test_key_ids_are_of_sealed_envelopes_only(envelope: Envelope) -> None:
    """Plain ones have none, nor has one that names something else beside a key."""
    with pytest.raises(InvalidEnvelope) as caught:
        key_ids(envelope)
    assert caught.value.code == "unsealed"


def test_the_key_of_a_message_needs_all_keys_in_order() -> None:
    """RFC 5869: another salt, another key or another order gives another one."""
    one, two = b"1" * KEY_BYTES, b"2" * KEY_BYTES
    keys = {
        message_key(keys, salt)
        for keys in ([one], [two], [one, two], [two, one])
        for salt in (SALT, NONCE)
    }
    assert len(keys) == 8
    assert {len(key) for key in keys} == {32}


def test_a_key_id_is_a_pseudonym_and_a_month() -> None:
    """And nothing else is one."""
    found = key_id(ONE)
    assert found
    assert str(found) == ONE
    assert found.month == "2026-01" == month(1_767_225_600_000_000_000)
    for text in ("customer-42", ONE.upper(), ONE + "1", ONE[:-2] + "13", ""):
        assert key_id(text) is None


@pytest.mark.parametrize(
    ("given_", "found"),
    [("customer-42", ("customer-42",)), (f"{ONE},b", (ONE, "b")), ("Zoë 1", ("Zoë 1",))],
)
def test_data_subjects_stand_between_commas(given_: str, found: tuple[str, ...]) -> None:
    """Names or key ids, one or several."""
    assert subjects_of(personal(1, datasubject=given_)) == found


@pytest.mark.parametrize(
    "given_",
    [None, ",", "a,", "a,a", " a", "a,\u202eb", "x" * 257, ",".join(map(str, range(17)))],
)
def test_personal_data_says_whom_it_is_about(given_: str | None) -> None:
    """Else it is no envelope to be sent; the error quotes no name."""
    with pytest.raises(InvalidEnvelope) as caught:
        subjects_of(personal(1, datasubject=given_))
    assert caught.value.code == "malformed"
    assert not given_ or len(given_) < 2 or given_ not in caught.value.detail
    assert MAX_SUBJECTS == 16
