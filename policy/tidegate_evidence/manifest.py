"""What an export is, signed: a DSSE envelope around an in-toto Statement.

DSSE v1: https://github.com/secure-systems-lab/dsse/blob/v1.0.2/envelope.md, protocol.md
Statement v1: https://github.com/in-toto/attestation/blob/v1.1.0/spec/v1/statement.md
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tidegate_schemas.errors import VerificationError

from .note import Signer, Verifier

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
"""A file of an export takes about 120 bytes; a tile of an export is a file."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of some files.

    Attributes:
        subjects: SHA-256 in hex of each file, by its path.
        predicate_type: a URI: what kind of thing is said.
        predicate: it; JSON.
    """

    subjects: Mapping[str, str]
    predicate_type: str
    predicate: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a statement. Fields that are not known say nothing.

        Raises:
            VerificationError: it is none.
        """
        body = read_object(data)
        if body.get("_type") != STATEMENT_TYPE:
            raise VerificationError(f"the manifest is not a {STATEMENT_TYPE}")
        subjects: dict[str, str] = {}
        for subject in _list(body.get("subject"), "subject"):
            match subject:
                case {"name": str(name), "digest": {"sha256": str(digest)}}:
                    pass
                case _:
                    raise VerificationError("a subject of the manifest has no name and SHA-256")
            if not _SHA256.fullmatch(digest) or name in subjects:
                raise VerificationError(f"the manifest does not say once what {name!r} is")
            subjects[name] = digest
        kind, predicate = body.get("predicateType"), body.get("predicate")
        if not isinstance(kind, str) or not isinstance(predicate, dict):
            raise VerificationError("the manifest says nothing of its subjects")
        return cls(subjects, kind, cast("dict[str, Any]", predicate))

    def encode(self) -> bytes:
        """Its JSON."""
        body = {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": name, "digest": {"sha256": digest}}
                for name, digest in self.subjects.items()
            ],
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        }
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def sign(statement: Statement, signer: Signer) -> bytes:
    """The envelope: JSON."""
    payload = statement.encode()
    signature = Ed25519PrivateKey.from_private_bytes(signer.seed).sign(_encoding(payload))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {"keyid": key_id(signer.verifier), "sig": base64.b64encode(signature).decode()}
        ],
    }
    return json.dumps(envelope).encode() + b"\n"


def verify(envelope: bytes, keys: Iterable[Verifier]) -> Statement:
    """The statement in an envelope that one of the keys has signed.

    Key ids are a hint to whom to ask for a key, no more: each key is tried.

    Raises:
        VerificationError: none has, or it is no such envelope.
    """
    outer = read_object(envelope)
    if outer.get("payloadType") != PAYLOAD_TYPE:
        raise VerificationError(f"the manifest does not hold {PAYLOAD_TYPE}")
    payload = _base64(outer.get("payload"))
    message = _encoding(payload)
    found = [_base64(one.get("sig")) for one in _list(outer.get("signatures"), "signatures")]
    if not any(_signed(key, signature, message) for key in keys for signature in found):
        raise VerificationError("the manifest has no signature of a known key")
    return Statement.parse(payload)


def key_id(key: Verifier) -> str:
    """How an envelope names a key: as its text begins."""
    return f"{key.name}+{key.key_id.hex()}"


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object, in which no name is there twice.

    Raises:
        VerificationError: it is none.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise VerificationError(f"{len(data)} bytes of JSON")
    try:
        value: object = json.loads(data.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"not JSON: {str(error)[:80]}") from None
    if not isinstance(value, dict):
        raise VerificationError("not a JSON object")
    return cast("dict[str, Any]", value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _encoding(payload: bytes) -> bytes:
    """What is signed: PAE of DSSE v1."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _signed(key: Verifier, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _base64(text: object) -> bytes:
    """Of either alphabet, as DSSE asks for."""
    try:
        if isinstance(text, str):
            return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        pass
    raise VerificationError("the manifest holds what is not base64")


def _list(value: object, name: str) -> list[dict[str, Any]]:
    items = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(item, dict) for item in items):
        raise VerificationError(f"the manifest has no {name}")
    return cast("list[dict[str, Any]]", items)
