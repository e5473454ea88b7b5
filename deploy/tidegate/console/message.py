"""A message as text, for people: its attributes, and its data laid out. Pure.

Others wrote it: what could reorder or hide what is around it is shown by its number.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import msgspec

from tidegate.timeline_picture import printable
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.record import Record

_MOST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """What is shown of it.

    Attributes:
        attributes: name and value, in the order of the format.
        data: laid out; empty where there is none.
        note: what is to be said of the data; empty if nothing.
        cut: so many characters of it are left out.
    """

    attributes: tuple[tuple[str, str], ...]
    data: str
    note: str = ""
    cut: int = 0


def shown(record: Record) -> Message:
    """The message of a record."""
    try:
        message = record.message()
    except InvalidEnvelope as error:
        return Message((), "", f"It is of another version of the format: {error}")
    if message is None:
        return _unread(record.raw)
    return of_envelope(message)


def of_envelope(message: Envelope) -> Message:
    """An envelope."""
    names = [n for n in Envelope.__struct_fields__ if n not in ("data", "data_base64")]
    values = ((name, getattr(message, name)) for name in names)
    attributes = tuple((name, printable(str(value))) for name, value in values if value is not None)
    if message.data_base64 is not None:
        size = len(base64.b64decode(message.data_base64))
        return _cut(attributes, message.data_base64, f"{size:,} bytes, as base64")
    note = ""
    if message.dataenc is not None:
        note = "It is personal data, and sealed: the ledger holds no more than this of it."
    return _cut(attributes, laid_out(message.body), note)


def laid_out(body: bytes) -> str:
    """JSON over several lines; nothing for nothing."""
    if not body:
        return ""
    try:
        text = msgspec.json.format(body, indent=2).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="backslashreplace")
    return "\n".join(printable(line) for line in text.split("\n"))


def value_text(value: object) -> str:
    """A JSON value over several lines."""
    return laid_out(msgspec.json.encode(value))


def _unread(raw: str | None) -> Message:
    if raw is None:
        return Message((), "", "It was larger than the bus takes, and is not kept.")
    data = base64.b64decode(raw).decode(errors="backslashreplace")
    return _cut((), printable(data), "It could not be read as an envelope. These are its bytes.")


def _cut(attributes: tuple[tuple[str, str], ...], text: str, note: str) -> Message:
    return Message(attributes, text[:_MOST], note, max(len(text) - _MOST, 0))
