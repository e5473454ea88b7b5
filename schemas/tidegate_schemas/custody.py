"""What principals ask the key service, and what it answers.

Who asks is the subject that the broker let them ask on, never a field.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .errors import InvalidEnvelope
from .personal import MAX_SUBJECTS

MAX_RECORDS = 256

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask", tag="seal"):
    """A key for a message about these: names, or ids of keys that an earlier message bears."""

    subjects: Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1, max_length=MAX_SUBJECTS)]


class Open(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask", tag="open"):
    """The keys of the messages in these records; the gateway looks up what they hold."""

    records: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1)], ...],
        msgspec.Meta(min_length=1, max_length=MAX_RECORDS),
    ]


class Find(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask", tag="find"):
    """The pseudonym of a data subject; for operators."""

    subject: _Name


Ask = Seal | Open | Find


class SealKey(msgspec.Struct, frozen=True):
    """What to seal with: key ids for `datasubject`, and salt and key of the message."""

    keyids: str
    salt: bytes
    key: bytes


class OpenKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key of a record's message; or why there is none, a word of `Unopened`."""

    seq: int
    key: bytes = b""
    why: str = ""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the key service says.

    Attributes:
        seal, opened, pseudonym: what was asked for.
        why, detail: a word of `Unopened` and a sentence, where it cannot be had; `why` is
            `unavailable` where the same question may be answered later.
    """

    seal: SealKey | None = None
    opened: tuple[OpenKey, ...] = ()
    pseudonym: str | None = None
    why: str = ""
    detail: str = ""


_ask = msgspec.json.Decoder(Ask)
_answer = msgspec.json.Decoder(Answer)


def decode_ask(payload: bytes) -> Ask:
    """A question.

    Raises:
        InvalidEnvelope: code `malformed`. Never quotes a name.
    """
    try:
        found: Ask = _ask.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidEnvelope("malformed", "not a question to the key service") from None
    return found


def decode_answer(payload: bytes) -> Answer:
    """An answer.

    Raises:
        InvalidEnvelope: code `malformed`.
    """
    try:
        return _answer.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidEnvelope("malformed", "not an answer of the key service") from None
