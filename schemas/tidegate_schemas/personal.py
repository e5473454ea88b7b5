"""Personal data: how the data of an envelope is sealed under the keys of those it is about.

    dataclassification   personal
    datasubject          whom it is about, with commas; once sealed: the ids of their keys
    dataenc              v1, once sealed
    data_base64          0x01 ‖ salt (16) ‖ nonce (12) ‖ AES-256-GCM ciphertext and tag

A key id is `<pseudonym>.<month>`: 32 random hex digits that stand for a data subject, and the month
of the key. Which data subject that is, only the vault knows, and forgets with the key. The key of a
message is derived (HKDF-SHA256, RFC 5869) from the keys of all its data subjects and the salt, so
it is lost with any of them, and whoever has it has no other. What is sealed is one byte, `j` or
`b`, and `data` as JSON or `data_base64` as bytes; sender, id, type and key ids are authenticated
with it, so nobody can pass it off as another message or as their own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from .clock import rfc3339
from .envelope import Envelope, decode, encode
from .errors import InvalidEnvelope

PERSONAL: Final = "personal"
"""The `dataclassification` of data about people."""
VERSION: Final = "v1"
MAX_SUBJECTS = 16
SALT_BYTES = 16
NONCE_BYTES = 12
KEY_BYTES = 32

_FIRST = b"\x01"
_TAG_BYTES = 16
_HEAD = 1 + SALT_BYTES + NONCE_BYTES
_INFO = b"tidegate personal v1"
_KEY_ID = re.compile(r"([0-9a-f]{32})\.([0-9]{4}-(?:0[1-9]|1[0-2]))")
_MAX_NAME = 256


class KeyId(NamedTuple):
    """The key of a data subject for the messages of a month."""

    pseudonym: str
    month: str

    def __str__(self) -> str:
        return f"{self.pseudonym}.{self.month}"


class Sealed(NamedTuple):
    """What a sealed envelope says of its key."""

    keys: tuple[KeyId, ...]
    salt: bytes


def month(now: int) -> str:
    """The month of a moment (ns since 1970), like `2026-01`, in UTC."""
    return rfc3339(now)[:7]


def key_id(text: str) -> KeyId | None:
    """A key id, if a text is one."""
    found = _KEY_ID.fullmatch(text)
    return KeyId(found[1], found[2]) if found else None


def is_personal(envelope: Envelope) -> bool:
    """Whether the data is about people."""
    return envelope.dataclassification == PERSONAL


def subjects_of(envelope: Envelope) -> tuple[str, ...]:
    """Whom the data is about: names, or the ids of keys where it was sealed before.

    Raises:
        InvalidEnvelope: code `malformed`; personal data must say it. Never quotes a name.
    """
    names = tuple(envelope.datasubject.split(",")) if envelope.datasubject else ()
    if not names:
        raise InvalidEnvelope("malformed", "personal data needs `datasubject`: whom it is about")
    if len(names) > MAX_SUBJECTS or len(set(names)) != len(names):
        raise InvalidEnvelope("malformed", f"`datasubject`: at most {MAX_SUBJECTS}, each once")
    if not all(0 < len(n) <= _MAX_NAME and n == n.strip() and n.isprintable() for n in names):
        raise InvalidEnvelope(
            "malformed", f"`datasubject`: 1 to {_MAX_NAME} printable characters between commas"
        )
    return names


def key_ids(envelope: Envelope) -> tuple[KeyId, ...]:
    """The keys with which a message is sealed, by what it says itself.

    Raises:
        InvalidEnvelope: code `unsealed`; it names none.
    """
    names = (envelope.datasubject or "").split(",")
    keys = tuple(found for name in names if (found := key_id(name)))
    if envelope.dataenc != VERSION or not 0 < len(keys) == len(names) <= MAX_SUBJECTS:
        raise InvalidEnvelope("unsealed", "it names no keys")
    return keys


def sealed(envelope: Envelope) -> Sealed:
    """What a sealed envelope says of its key.

    Raises:
        InvalidEnvelope: code `unsealed`; it is not sealed.
    """
    return Sealed(key_ids(envelope), _blob(envelope)[1 : 1 + SALT_BYTES])


def message_key(keys: Sequence[bytes], salt: bytes) -> bytes:
    """The key of a message, from those of its data subjects in the order in which it names them."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), KEY_BYTES, salt, _INFO).derive(b"".join(keys))


def seal(
    envelope: Envelope, by: str, key_ids: str, *, salt: bytes, key: bytes, nonce: bytes
) -> Envelope:
    """The envelope with its data sealed.

    Args:
        envelope: with its data.
        by: `team.name` of who sends it.
        key_ids: for `datasubject`.
        salt: of this message.
        key: so too, see `message_key`.
        nonce: never used before with this key.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if envelope.data_base64 is None:
        text = b"j" + envelope.body
    else:
        text = b"b" + base64.b64decode(envelope.data_base64)
    bound = _bound(envelope, by, key_ids)
    blob = _FIRST + salt + nonce + AESGCM(key).encrypt(nonce, text, bound)
    return msgspec.structs.replace(
        envelope,
        data=msgspec.UNSET,
        data_base64=base64.b64encode(blob).decode(),
        datasubject=key_ids,
        dataenc=VERSION,
    )


def unseal(envelope: Envelope, by: str, key: bytes) -> Envelope:
    """The envelope with its data; `datasubject` still names keys.

    Raises:
        InvalidEnvelope: code `unsealed`; it was not sealed with this key, or as another message.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    blob = _blob(envelope)
    bound = _bound(envelope, by, envelope.datasubject or "")
    try:
        text = AESGCM(key).decrypt(blob[1 + SALT_BYTES : _HEAD], blob[_HEAD:], bound)
    except InvalidTag:
        raise InvalidEnvelope("unsealed", "it was sealed as another message") from None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    binary: str | None = None
    match text[:1]:
        case b"j" if len(text) > 1:
            data = _json(text[1:])
        case b"b":
            binary = base64.b64encode(text[1:]).decode()
        case b"j":
            pass
        case _:
            raise InvalidEnvelope("unsealed", "what is sealed is neither JSON nor bytes")
    opened = msgspec.structs.replace(envelope, data=data, data_base64=binary, dataenc=None)
    try:
        return decode(encode(opened), limit=None)  # whoever sealed it, it is like any other
    except InvalidEnvelope:
        raise InvalidEnvelope("unsealed", "what is sealed is no data of an envelope") from None


def _json(text: bytes) -> msgspec.Raw:
    try:
        text.decode()
        return msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidEnvelope("unsealed", "what is sealed is no JSON") from None


def _blob(envelope: Envelope) -> bytes:
    blob = base64.b64decode(envelope.data_base64 or "")
    if not blob.startswith(_FIRST) or len(blob) < _HEAD + _TAG_BYTES:
        raise InvalidEnvelope("unsealed", "it holds nothing that is sealed")
    return blob


def _bound(envelope: Envelope, by: str, key_ids: str) -> bytes:
    return msgspec.json.encode((VERSION, by, envelope.id, envelope.type, key_ids))
