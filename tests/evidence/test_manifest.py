"""Signed manifests: DSSE and in-toto."""

import base64
import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_evidence.manifest import Statement, key_id, sign, verify
from tidegate_evidence.note import Signer
from tidegate_schemas.errors import VerificationError

KEY = Signer.generate("hello/export")
STATEMENT = Statement({"records.jsonl": "ab" * 32}, "https://example.com/x", {"first": 1, "é": [2]})


def test_a_statement_is_read_as_it_was_signed() -> None:
    """By the key that signed it, among others."""
    keys = [Signer.generate("hello/export").verifier, KEY.verifier]
    assert verify(sign(STATEMENT, KEY), keys) == STATEMENT
    with pytest.raises(VerificationError, match="no signature"):
        verify(sign(STATEMENT, KEY), keys[:1])


def test_the_envelope_is_dsse() -> None:
    """What is signed is the pre-authentication encoding of the protocol (DSSE v1, protocol.md)."""
    envelope = json.loads(sign(STATEMENT, KEY))
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    (signature,) = envelope["signatures"]
    public = Ed25519PrivateKey.from_private_bytes(KEY.seed).public_key()
    public.verify(base64.b64decode(signature["sig"]), message)
    assert signature["keyid"] == key_id(KEY.verifier)
    assert str(KEY.verifier).startswith(signature["keyid"] + "+")


def test_what_an_envelope_may_hold_besides_changes_nothing() -> None:
    """Fields that are not known, signatures of others, no key id, the other alphabet of base64."""
    envelope: dict[str, Any] = json.loads(sign(STATEMENT, KEY))
    payload = base64.b64decode(envelope["payload"])
    envelope["payload"] = base64.urlsafe_b64encode(payload).decode()
    del envelope["signatures"][0]["keyid"]
    envelope["signatures"].insert(0, {"keyid": "other", "sig": "AAAA", "cert": "…"})
    envelope["more"] = 1
    assert verify(json.dumps(envelope).encode(), [KEY.verifier]) == STATEMENT


def test_every_changed_byte_of_a_manifest_is_found() -> None:
    """Whatever else a manifest becomes, it says the same or is refused."""
    data = sign(STATEMENT, KEY)
    for at in range(len(data)):
        bit = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        for changed in (bit, data[:at] + data[at + 1 :]):
            with contextlib.suppress(VerificationError):
                assert verify(changed, [KEY.verifier]) == STATEMENT


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"subject": {}},
        {"subject": [1]},
        {"subject": [{"name": "a", "digest": {"sha1": "ab"}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "AB" * 32}}]},
        {"subject": [{"name": "a", "digest": {"sha256": "ab" * 32}}] * 2},
        {"predicateType": None},
        {"predicate": []},
    ],
)
def test_what_is_no_statement_is_refused(change: dict[str, Any]) -> None:
    """Each field that is read has its form."""
    body = json.loads(STATEMENT.encode())
    with pytest.raises(VerificationError):
        Statement.parse(json.dumps(body | change).encode())


def test_a_name_stands_once() -> None:
    """No two readers can read different things out of one manifest."""
    with pytest.raises(VerificationError, match="twice"):
        Statement.parse(STATEMENT.encode().replace(b'{"_type"', b'{"_type":1,"_type"', 1))


JSON = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["application/vnd.in-toto+json"]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["payload", "payloadType", "signatures", "sig", "keyid"]), inner
        )
    ),
)


@settings(deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_error(data: bytes) -> None:
    """Nothing is accepted that nobody signed, and reading it fails in no other way."""
    with pytest.raises(VerificationError):
        verify(data, [KEY.verifier])


def test_deep_nesting_is_an_error() -> None:
    """A reader's stack is not at the writer's mercy."""
    with pytest.raises(VerificationError):
        verify(b"[" * 1_000_000, [KEY.verifier])
