"""Taking fields out of a message before it is recorded (JSON pointers, RFC 6901).

Everything else stays byte for byte as it was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tidegate_schemas.envelope import Envelope

REDACTED = msgspec.Raw(b'"[redacted]"')

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])


def redact(envelope: Envelope, pointers: Iterable[str]) -> Envelope:
    """The envelope without what the pointers name in its data; itself, if there is nothing."""
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
            # Of a key given twice only the last is left, so nothing hides in the first.
            parts = _object.decode(value)
            key: Any = first
            found = first in parts
        case b"[" if first.isdecimal() and first.isascii():
            parts = _array.decode(value)
            key = int(first)
            found = key < len(parts)
        case _:
            return value
    if not found:
        return value
    changed = _without(parts[key], rest)
    if changed is parts[key]:
        return value
    parts[key] = changed
    return msgspec.Raw(msgspec.json.encode(parts))
