"""CloudEvents over HTTP: what the parts of a request say, as envelopes, and back.

HTTP protocol binding 1.0.2. Three modes, told apart by the content type (§3):

    binary       attributes are headers `ce-…`, the body is the data, whatever its type
    structured   application/cloudevents+json: the body is the event
    batched      application/cloudevents-batch+json: the body is an array of events

JSON data is kept byte for byte; data of any other type becomes `data_base64`. What is at fault is
named in `InvalidEnvelope.at`: a header's name, or a JSON pointer (RFC 6901) into the body.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec

from tidegate_schemas.envelope import MAX_ENVELOPE_BYTES, Envelope, decode, describe, encode
from tidegate_schemas.errors import InvalidEnvelope

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

MEDIA_TYPE = "media_type"
"""Code of the fault that a body is of a type that is not read here."""

_CLOUDEVENTS = "application/cloudevents"
_FORM = "application/x-www-form-urlencoded"
_CONTENT_TYPE = "Content-Type"
_PREFIX = b"ce-"
_NAMES = tuple(
    name
    for name in Envelope.__struct_fields__
    if name not in ("datacontenttype", "data", "data_base64")
)
"""Attributes that are headers, in the order in which an envelope is written."""
_ATTRIBUTES = {f"ce-{name}".encode(): name for name in _NAMES}
_EXTENSIONS = _NAMES[_NAMES.index("dataschema") + 1 :]
"""Attributes that are not of the core of CloudEvents."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,9}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PLAIN = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_IN_HEADER = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)


class Mode(StrEnum):
    """How a request holds events."""

    BINARY = "binary"
    STRUCTURED = "structured"
    BATCHED = "batched"


@dataclass(frozen=True, slots=True)
class Message:
    """Headers and body of a request or response that holds an event."""

    headers: tuple[tuple[str, str], ...]
    body: bytes


def mode_of(content_type: str | None, headers: Iterable[tuple[bytes, bytes]]) -> Mode:
    """How a request holds events.

    Args:
        content_type: its header, if it has one.
        headers: all of them, names in lower case.

    Raises:
        InvalidEnvelope: code `media_type`; it holds none, or in a format that is not read here.
    """
    if content_type == STRUCTURED:  # as most say it
        return Mode.STRUCTURED
    media, _, parameters = (content_type or "").partition(";")
    media = media.strip().lower()
    if media.startswith(_CLOUDEVENTS):
        if media not in (STRUCTURED, BATCH):
            fault = f"{media[:80]} is not read here; send {STRUCTURED} or {BATCH}"
            raise InvalidEnvelope(MEDIA_TYPE, fault, _CONTENT_TYPE)
        charset = re.search(r'charset\s*=\s*"?([^\s";]*)', parameters, re.IGNORECASE)
        if charset and charset[1].lower() not in ("utf-8", "utf8"):
            raise InvalidEnvelope(MEDIA_TYPE, "JSON is UTF-8", _CONTENT_TYPE)
        return Mode.STRUCTURED if media == STRUCTURED else Mode.BATCHED
    if any(name.startswith(_PREFIX) for name, _ in headers):
        return Mode.BINARY
    raise InvalidEnvelope(
        MEDIA_TYPE,
        f"this holds no event: send one as JSON with `Content-Type: {STRUCTURED}`, several as an "
        f"array with `{BATCH}`, or the data alone with its attributes as headers `ce-id`, "
        "`ce-source`, `ce-type` and `ce-specversion: 1.0`",
        _CONTENT_TYPE,
    )


def read_binary(
    content_type: str | None,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    *,
    defaults: Mapping[str, Any] = {},
    limit: int = MAX_ENVELOPE_BYTES,
) -> Envelope:
    """The event of a request in binary mode (§3.1).

    Args:
        content_type: its header, if it has one; without it the data is JSON, as in the JSON format.
        headers: all of them, names in lower case.
        body: the data.
        defaults: attributes that the request need not name.
        limit: most bytes of the envelope.

    Raises:
        InvalidEnvelope: a header or the body is not as it should be.
    """
    values: dict[str, Any] = dict(defaults)
    seen: set[str] = set()
    for header, value in headers:
        if not header.startswith(_PREFIX):
            continue
        name = _ATTRIBUTES.get(header)
        at = header.decode("latin-1")
        if name is None:
            raise InvalidEnvelope("malformed", _unknown(at), at)
        if name in seen:
            raise InvalidEnvelope("malformed", f"{at} is given twice", at)
        seen.add(name)
        values[name] = _value(at, name, value)
    attributes: dict[str, Any] = {name: values[name] for name in _NAMES if name in values}
    if content_type is not None:
        if not content_type.isascii():
            raise InvalidEnvelope("malformed", "Content-Type is not ASCII", _CONTENT_TYPE)
        attributes["datacontenttype"] = content_type
    if body:
        attributes |= _data(content_type, body)
    try:
        return decode(msgspec.json.encode(attributes), limit=limit)
    except InvalidEnvelope as error:
        raise InvalidEnvelope(error.code, error.detail, _header(error.at)) from None


def read_structured(body: bytes, *, limit: int = MAX_ENVELOPE_BYTES) -> Envelope:
    """The event of a request in structured mode (§3.2).

    Raises:
        InvalidEnvelope: the body is no event.
    """
    return _decode(body, "", limit)


def read_batch(body: bytes, *, limit: int = MAX_ENVELOPE_BYTES) -> list[Envelope]:
    """The events of a request in batched mode (§3.3); there may be none.

    Args:
        body: a JSON array.
        limit: most bytes of an envelope.

    Raises:
        InvalidEnvelope: the body is no array of events. The first fault is named.
    """
    try:
        body.decode()
        events = _ARRAY.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidEnvelope("malformed", f"not UTF-8 at byte {error.start}", "") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidEnvelope("malformed", describe(error), "") from None
    try:
        return [_decode(bytes(event), f"/{index}", limit) for index, event in enumerate(events)]
    except InvalidEnvelope as error:
        detail = f"{error.detail}; nothing of the batch is taken"
        raise InvalidEnvelope(error.code, detail, error.at) from None


def write(envelope: Envelope) -> Message:
    """An event as a response: binary, or structured where binary mode cannot say it.

    That is so where the data is an event itself, and where its type is no text of a header.
    """
    kind = envelope.datacontenttype
    if kind and (kind.lower().startswith(_CLOUDEVENTS) or not _IN_HEADER.fullmatch(kind)):
        return Message((("content-type", STRUCTURED),), encode(envelope))
    headers = [("content-type", kind)] if kind else []
    for name in _NAMES:
        value = getattr(envelope, name)
        if value is not None:
            headers.append((f"ce-{name}", quote(str(value), safe=_PLAIN)))
    return Message(tuple(headers), content(envelope))


def content(envelope: Envelope) -> bytes:
    """The data of an event as it is on the wire, in its own type (§3.1.2)."""
    if envelope.data_base64 is not None:
        return base64.b64decode(envelope.data_base64)
    if envelope.body and not is_json(envelope.datacontenttype):
        data = envelope.payload()  # JSON format §3.1: text of another type is a JSON string
        if isinstance(data, str):
            return data.encode()
    return envelope.body


def is_json(content_type: str | None) -> bool:
    """Whether data of this type is JSON; so it is where none is named (JSON format §3.1.1)."""
    if content_type is None:
        return True
    subtype = content_type.partition(";")[0].strip().lower().rpartition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _data(content_type: str | None, body: bytes) -> dict[str, Any]:
    if not is_json(content_type):
        if (content_type or "").lower().startswith(_FORM) and body[:1] in b"{[":
            # No form looks like that: it is what curl says of all that it is not told about.
            fault = "the body is no form; if it is JSON, send `Content-Type: application/json`"
            raise InvalidEnvelope(MEDIA_TYPE, fault, _CONTENT_TYPE)
        return {"data_base64": base64.b64encode(body).decode()}
    try:
        body.decode()
        return {"data": _RAW.decode(body)}
    except UnicodeDecodeError as error:
        raise InvalidEnvelope("malformed", f"not UTF-8 at byte {error.start}", "") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidEnvelope("malformed", f"the data: {describe(error)}", "") from None


def _value(at: str, name: str, value: bytes) -> str | int:
    """An attribute out of a header (§3.1.3.2)."""
    try:
        text = value.decode("ascii")
        if text.startswith('"'):
            quoted = _QUOTED.fullmatch(text)
            if not quoted:
                raise InvalidEnvelope("malformed", f"{at} is quoted, but not to its end", at)
            text = _ESCAPE.sub(r"\1", quoted[1])
        if "%" in text:
            if _PERCENT.search(text.encode()):
                raise InvalidEnvelope("malformed", f"{at}: write a % as %25", at)
            text = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        fault = f"{at}: write what is not ASCII as the %xx of its UTF-8"
        raise InvalidEnvelope("malformed", fault, at) from None
    if name == "attempt":
        if not _INTEGER.fullmatch(text):
            raise InvalidEnvelope("malformed", f"{at} is no integer", at)
        return int(text)
    return text


def _header(attribute: str | None) -> str | None:
    """Where an attribute is in binary mode."""
    match attribute:
        case "data" | "data_base64" | "" | None:
            return attribute and ""
        case "datacontenttype":
            return _CONTENT_TYPE
        case _:
            return f"ce-{attribute}"


def _decode(payload: bytes, pointer: str, limit: int) -> Envelope:
    try:
        envelope = decode(payload, limit=None)
        # Blanks do not count: they are not in the envelope that is published.
        if len(payload) > limit and (size := len(encode(envelope))) > limit:
            raise InvalidEnvelope("oversized", f"{size} bytes, at most {limit} are taken", "")
    except InvalidEnvelope as error:
        at = error.at and "/" + error.at.replace("~", "~0").replace("/", "~1")
        known = not error.at or error.at in Envelope.__struct_fields__
        detail = error.detail if known else _unknown(error.at or "")
        raise InvalidEnvelope(error.code, detail, f"{pointer}{at or ''}") from None
    return envelope


def _unknown(name: str) -> str:
    """Nobody could rely on an extension that the bus neither checks nor keeps."""
    known = ", ".join(_EXTENSIONS)
    return f"the bus does not know the attribute `{name[:80]}`; it knows the extensions {known}"
