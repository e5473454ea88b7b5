"""Taking fields out of a message before it is recorded (JSON pointers, RFC 6901).

Everything else stays byte for byte as it was written. Of a key that is given twice on the way only
the last stays, which is the one that every reader sees.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from tidegate_schemas.envelope import Envelope

REDACTED = msgspec.Raw(b'"[redacted]"')
_OPAQUE = base64.b64encode(b"[redacted]").decode()

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])


def redact(envelope: Envelope, pointers: Iterable[str]) -> Envelope:
    """The envelope without what the pointers name in its data; itself, if there is nothing.

    Of `data_base64`, whose fields nobody knows, nothing stays.
    """
    if envelope.data_base64 is not None:
        return msgspec.structs.replace(envelope, data_base64=_OPAQUE)
    if not envelope.body:
        return envelope
    data = before = msgspec.Raw(envelope.body)
    for pointer in pointers:
        tokens = [t.replace("~1", "/").replace("~0", "~") for t in pointer.split("/")[1:]]
        data = _without(data, tokens)
    return envelope if data is before else msgspec.structs.replace(envelope, data=data)


def _without(value: msgspec.Raw, tokens: list[str]) -> msgspec.Raw:
    if not tokens:
        return REDACTED
    first, rest = tokens[0], tokens[1:]
    parts: Any
    match bytes(value)[:1]:
        case b"{":
            parts = _object.decode(value)
            key: Any = first
            found = first in parts
            repeats = found and _repeats(bytes(value), parts)
        case b"[" if first.isdecimal() and first.isascii() and len(first) < 10:
            parts = _array.decode(value)
            key = int(first)
            found, repeats = key < len(parts), False
        case _:
            return value
    if not found:
        return value
    changed = _without(parts[key], rest)
    if changed is parts[key] and not repeats:
        return value
    parts[key] = changed
    return msgspec.Raw(msgspec.json.encode(parts))


def _repeats(text: bytes, parts: dict[str, msgspec.Raw]) -> bool:
    """Whether an object gives a key twice: what a pointer names could hide in the first."""
    if msgspec.json.encode(parts) == text:  # as we would write it
        return False
    members: list[int] = []  # of each object inside, and of this one at the end

    def count(found: list[tuple[str, Any]]) -> None:
        members.append(len(found))

    json.loads(text, object_pairs_hook=count, parse_int=len, parse_float=len)
    return members[-1] > len(parts)
