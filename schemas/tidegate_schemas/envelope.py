"""The envelope: what a sender publishes. CloudEvents 1.0, structured JSON.

Attribute names are those of the CloudEvents specification (§3.1, §3.2) and of its registered
extensions, so any CloudEvents source can publish as it is. Who sent an envelope is never a
field of it: the broker lets a principal publish on its own subject only.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import uuid
from itertools import accumulate
from operator import attrgetter
from types import NoneType
from typing import Annotated, Any, Literal, cast

import msgspec

from .clock import parse_rfc3339, rfc3339
from .errors import InvalidEnvelope, InvalidName
from .subjects import Kind, check_destination

MAX_ENVELOPE_BYTES = 256 * 1024
"""Default limit. Larger data goes to the object store; the envelope holds its digest."""

MAX_DEPTH = 100
"""Deepest nesting of an envelope, its own braces counted.

Readers give up at different depths, some of them at one that depends on who calls them. What is
in the ledger must be readable for all, so the bus names a depth that none of them fears.
"""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # not in a CloudEvents string (its section 2)
_ATTRIBUTE = (str, int, NoneType)
_AT = re.compile(r" field `(.{1,256})`$| at `\$\.(\w+)[^`]*`$", re.DOTALL)  # as msgspec says it
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_COST = r"[a-z_]{1,32}:\d{1,15}(\.\d{1,9})?"
_COSTS = re.compile(rf"{_COST}(,{_COST})*", re.ASCII)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""What each bracket does to the depth, as a signed byte."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Place = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,15}$")]
Opaque = Annotated[msgspec.Raw, msgspec.Meta(description="any JSON value, kept byte for byte")]


class Envelope(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A message on its way to the gateway.

    Make one with `Envelope.new`; read one with `decode`. `data` is kept as the bytes that the
    sender wrote: the bus neither reads nor reorders it.

    `kind` and `to` say where it goes. Without `kind` it is an event whose destination is `type`.

    `causationid` names what it follows from, with `causationsource` if that is an event, see `key`.

    A result says in `answers` what it answers: the `seq` of that message's record, in digits. A
    text, because CloudEvents knows whole numbers up to 2,147,483,647 only.

    `dataclassification` `personal` is for data about people: `datasubject` says whom, several with
    commas. On its way it is sealed, which `dataenc` says, see `personal`.
    """

    specversion: Literal["1.0"]
    id: Identifier
    source: Text
    type: Text
    time: Text | None = None
    subject: Text | None = None
    datacontenttype: Text | None = None
    dataschema: Text | None = None

    kind: Literal["task", "event", "result", "control"] | None = None
    to: Text | None = None

    correlationid: Identifier | None = None
    causationid: Identifier | None = None
    causationsource: Text | None = None
    answers: Place | None = None
    runid: Identifier | None = None
    stepid: Identifier | None = None
    blueprint: Identifier | None = None
    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    traceparent: Text | None = None
    tracestate: Text | None = None
    dataclassification: Text | None = None
    datasubject: Text | None = None
    dataenc: Literal["v1"] | None = None
    expirytime: Text | None = None
    onbehalfof: Text | None = None
    costs: Text | None = None

    data: Opaque | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None

    @classmethod
    def new(
        cls,
        type: str,
        data: Any = None,
        *,
        source: str = "tidegate",
        id: str | None = None,
        now: int | None = None,
        **attributes: Any,
    ) -> Envelope:
        """An envelope with the required attributes filled in.

        Args:
            type: what happened or what is asked, in reverse order of generality
                (`repo.commit`); also the destination of a plain event.
            data: JSON values, and whatever msgspec writes as such (structs, dataclasses, times);
                or `msgspec.Raw` that holds JSON.
            source: where it comes from, a URI reference.
            id: unique for this sender; a random one by default. Repeating an id repeats
                the message: the bus answers with the first verdict.
            now: nanoseconds since 1970, becomes `time`; none by default.
            attributes: any other attribute of the envelope; with `data_base64` there is no `data`.

        Raises:
            InvalidEnvelope: code `data`, it has no JSON form; otherwise `malformed`, an attribute
                has the wrong type or is outside its bounds.
        """
        values: dict[str, Any] = {
            "specversion": "1.0",
            "id": uuid.uuid4().hex if id is None else id,
            "source": source,
            "type": type,
            "time": None if now is None else _time(now),
        }
        if data is not None or attributes.get("data_base64") is None:
            values |= {"datacontenttype": "application/json", "data": _json(data)}
        values |= attributes
        envelope = cls(**values)
        _check_types(values)
        return decode(encode(envelope), limit=None)

    def destination(self) -> tuple[Kind, str]:
        """Kind and destination, with the defaults of a plain CloudEvent.

        Raises:
            InvalidEnvelope: code `malformed`; a task, result or control without `to`, or a
                destination outside the grammar.
        """
        kind = Kind(self.kind or Kind.EVENT)
        to = self.to
        if to is None:
            if kind is not Kind.EVENT:
                raise InvalidEnvelope("malformed", f"a {kind} needs `to`", "to")
            to = self.type
        try:
            return kind, check_destination(to)
        except InvalidName as error:
            field = "type" if self.to is None else "to"
            raise InvalidEnvelope("malformed", f"`{field}`: {error}", field) from None

    @property
    def key(self) -> str:
        """What a sender's repetition of it is known by.

        Of an event `source` and `id` (CloudEvents §3.1.1): several systems may send through one
        principal, each counting from 1. Of all else the id alone, because answers name it by that.
        """
        return f"{self.source}\n{self.id}" if self.kind in (None, Kind.EVENT) else self.id

    @property
    def body(self) -> bytes:
        """The JSON text of `data` as the sender wrote it; empty when there is none."""
        return b"" if isinstance(self.data, msgspec.UnsetType) else bytes(self.data)

    def payload(self, into: Any = Any) -> Any:
        """`data` read as JSON into a type: a struct, dataclass, TypedDict, dict, list or scalar.

        Data sent as `data_base64` comes as bytes when `into` is bytes.

        Raises:
            InvalidEnvelope: code `data`; it does not fit the type, or is sealed.
        """
        if self.dataenc is not None:
            raise InvalidEnvelope("data", "it is sealed personal data")
        try:
            if into is bytes and self.data_base64 is not None:
                return base64.b64decode(self.data_base64, validate=True)
            return msgspec.json.decode(self.body or b"null", type=into)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidEnvelope("data", describe(error)) from error

    @property
    def chain(self) -> tuple[str, ...]:
        """On whose behalf it is sent, as `onbehalfof` names them; nobody checked who they are."""
        return tuple(self.onbehalfof.split(",")) if self.onbehalfof else ()

    def expires(self) -> int | None:
        """Nanoseconds since 1970 after which nobody wants it, or None."""
        return None if self.expirytime is None else parse_rfc3339(self.expirytime)


_TEXTS = [n for n in Envelope.__struct_fields__ if n not in {"attempt", "data", "data_base64"}]
_texts = attrgetter(*_TEXTS)
_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


def encode(envelope: Envelope) -> bytes:
    """The bytes of an envelope: compact JSON, attributes in the order of the class."""
    return _encoder.encode(envelope)


def _check_types(given: dict[str, Any]) -> None:
    """Refuse what the encoder writes as something else: bytes as base64, NaN as null."""
    for name, value in given.items():
        if name != "data" and not isinstance(value, _ATTRIBUTE):
            raise InvalidEnvelope("malformed", f"`{name}` cannot be of type {type(value).__name__}")
        if isinstance(value, int) and value.bit_length() > 64:
            raise InvalidEnvelope("malformed", f"`{name}` is over 64 bits")
        if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
            raise InvalidEnvelope("malformed", f"`{name}` holds half of a surrogate pair")


def _time(now: int) -> str:
    try:
        return rfc3339(now)
    except (OverflowError, TypeError, ValueError):
        raise InvalidEnvelope(
            "malformed", "`now` is not nanoseconds between the years 1 and 9999"
        ) from None


def _json(data: Any) -> msgspec.Raw:
    try:
        if isinstance(data, msgspec.Raw):
            text = bytes(data)
        else:
            text = _encoder.encode(data)
            _check_values(data)
        return msgspec.json.decode(text, type=msgspec.Raw)  # one value: Raw can hold any bytes
    except RecursionError:
        raise InvalidEnvelope("data", "nested too deeply, or inside itself") from None
    except (msgspec.MsgspecError, OverflowError, TypeError, ValueError) as error:
        raise InvalidEnvelope("data", describe(error)) from None


def _check_values(data: Any) -> None:
    """Refuse what the encoder writes as something else, so that it would come out changed."""
    todo: list[object] = [data]
    while todo:
        value = todo.pop()
        match value:
            case None | str() | msgspec.Raw():
                pass
            case int() if not -(2**63) <= value < 2**64:
                raise InvalidEnvelope("data", "an integer is over 64 bits; send it as text")
            case float() if not math.isfinite(value):
                raise InvalidEnvelope("data", f"{value} has no JSON form")
            case int() | float():
                pass
            case bytes() | bytearray() | memoryview():
                raise InvalidEnvelope("data", "bytes have no JSON form; there is `data_base64`")
            case set() | frozenset():
                raise InvalidEnvelope("data", "a set has no JSON form; send a list")
            case dict():
                items = cast("dict[object, object]", value)
                todo += items
                todo += items.values()
            case list() | tuple():
                todo += cast("list[object]", value)
            case _:
                todo.append(msgspec.to_builtins(value, enc_hook=_nothing))


def _nothing(_raw: Any) -> None:
    """Stands for Raw inside a struct, the one thing that is JSON only as text."""


def decode(payload: bytes, *, limit: int | None = MAX_ENVELOPE_BYTES) -> Envelope:
    """Read an envelope from bytes that nobody vouches for.

    Args:
        payload: what was published.
        limit: largest accepted size in bytes; None for no limit.

    Raises:
        InvalidEnvelope: code `oversized` over the limit, otherwise `malformed`. Nothing
            else is raised, whatever the bytes are.
    """
    if limit is not None and len(payload) > limit:
        raise InvalidEnvelope("oversized", f"{len(payload)} bytes, at most {limit} are taken")
    try:
        payload.decode()  # data is kept raw, so nothing else looks at its encoding
        envelope = _decoder.decode(payload)
        if _deeper_than(MAX_DEPTH, payload):
            raise InvalidEnvelope("malformed", f"nested more than {MAX_DEPTH} deep", "data")
        if _encoder.encode(envelope) != payload:
            _check_duplicate_attributes(payload)
    except UnicodeDecodeError as error:
        raise InvalidEnvelope("malformed", f"not UTF-8 at byte {error.start}", "") from None
    except msgspec.DecodeError as error:
        found = _AT.search(str(error))
        at = found[1] or found[2] if found else ""
        raise InvalidEnvelope("malformed", describe(error), at) from None
    except RecursionError:
        raise InvalidEnvelope("malformed", "nested too deeply", "data") from None
    # In JSON those below the blank are escaped, and the others are no ASCII, but for one.
    if b"\\" in payload or b"\x7f" in payload or not payload.isascii():
        _check_texts(envelope)
    _check(envelope)
    return envelope


def _check_texts(envelope: Envelope) -> None:
    texts: tuple[str | None, ...] = _texts(envelope)
    if _CONTROL.search("".join(filter(None, texts))):
        name = next(n for n, text in zip(_TEXTS, texts, strict=True) if _CONTROL.search(text or ""))
        raise InvalidEnvelope("malformed", f"`{name}` holds a control character", name)


def _check(envelope: Envelope) -> None:
    for name in ("time", "expirytime"):
        value: str | None = getattr(envelope, name)
        if value is not None:
            try:
                parse_rfc3339(value)
            except (ValueError, OverflowError):
                raise InvalidEnvelope(
                    "malformed", f"`{name}` is not an RFC 3339 time: {value[:40]!r}", name
                ) from None
    if envelope.costs is not None and not _COSTS.fullmatch(envelope.costs):
        raise InvalidEnvelope("malformed", "`costs` is not like `usd:0.02,tokens:431`", "costs")
    if envelope.data_base64 is not None:
        if envelope.body:
            raise InvalidEnvelope("malformed", "both `data` and `data_base64`", "data_base64")
        try:
            base64.b64decode(envelope.data_base64, validate=True)
        except (binascii.Error, ValueError):
            fault = "`data_base64` is not base64"
            raise InvalidEnvelope("malformed", fault, "data_base64") from None
    envelope.destination()


def _check_duplicate_attributes(payload: bytes) -> None:
    """Refuse an attribute that is given twice: two readers could see two different messages.

    Envelopes written by `encode` never get here, so only hand-made JSON pays for a second parse.
    """
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        pairs[:] = found  # objects close from the inside out: the last one is the envelope

    try:
        json.loads(payload, object_pairs_hook=keep, parse_int=len, parse_float=len)
    except ValueError as error:
        raise InvalidEnvelope("malformed", describe(error)) from None
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidEnvelope("malformed", f"`{name[:40]}` is given twice", name)
        seen.add(name)


def _deeper_than(limit: int, payload: bytes) -> bool:
    """Whether JSON that is known to be well formed nests deeper than `limit`.

    Searches and replacements over bytes, and one sum over the brackets that are left. Most
    envelopes have too few of them for that; no shape takes more than one step for each.
    """
    if payload.count(b"[") + payload.count(b"{") <= limit:
        return False
    outside = payload.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    steps = b"".join(outside).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit


def describe(error: BaseException) -> str:
    """The message of a reader's error, fit for logs and receipts: it may quote what was read."""
    text = _CONTROL.sub("?", str(error))
    return text if len(text) <= 300 else f"{text[:200]} … {text[-97:]}"  # the field is at the end
