"""The story of one correlation id, in sentences. Pure: records in, lines out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.record import Reason, Record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import (
    COORDINATOR,
    DEADLETTER,
    RUN_FINISHED,
    RUN_START,
    RUN_TIMEOUT,
)

_MOST = 160
_SHORT = 60


class Line(msgspec.Struct, frozen=True):
    """One record of the story.

    Attributes:
        text: a sentence for people.
        cause: sequence of the record of the story that it follows from, if it does from one: what
            it answers, or what it repeats or lets go.
        step: the step of a run that it asks for or answers.
        gave_up: it is a dead letter.
    """

    seq: int
    time: str
    verdict: str
    kind: str
    by: str
    to: str
    text: str
    cause: int | None = None
    step: str = ""
    gave_up: bool = False


def timeline_of(records: Iterable[Record], correlation: str) -> list[Line]:
    """The records that belong to a correlation id, or to the envelope of that id, in order.

    A message without a correlation id begins a story under its own id.
    """
    lines: list[Line] = []
    steps: dict[str, str] = {}
    sent = _Sent()
    for record in records:
        try:
            message = record.message()
        except InvalidEnvelope:  # of another version of the format
            continue
        if message is None or correlation not in (message.correlationid, message.id):
            continue
        if record.kind is Kind.TASK and message.stepid:
            steps[message.id] = _step(message)
        lines.append(
            Line(
                record.seq,
                record.time,
                record.verdict,
                record.kind,
                record.by,
                record.to,
                _sentence(record, message, steps),
                sent.cause(record, message),
                _step_of(record, message, steps),
                message.type == DEADLETTER,
            )
        )
        sent.add(record, message)
    return lines


class _Sent:
    """Where each message stands, by what names it; what was admitted before what was not."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None, str | None], int] = {}
        """By id, sender and source, of which not all need be named."""

    def add(self, record: Record, message: Envelope) -> None:
        id, by, source = message.id, record.by, message.source
        names: list[tuple[str, str | None, str | None]]
        names = [(id, None, None), (id, None, source), (id, by, source)]
        if record.kind is Kind.TASK:  # the id names it among those of its sender
            names.append((id, by, None))
        for name in names:
            if record.verdict is Verdict.ALLOW or name not in self._known:
                self._known[name] = record.seq

    def cause(self, record: Record, message: Envelope) -> int | None:
        """What a record follows from."""
        if record.first is not None:
            return record.first
        whose = record.to if record.kind is Kind.RESULT else None
        return self._known.get((message.causationid or "", whose, message.causationsource))


def _step_of(record: Record, message: Envelope, steps: dict[str, str]) -> str:
    if record.kind is Kind.TASK:
        return steps.get(message.id, "")
    return steps.get(message.causationid or "", "") if record.kind is Kind.RESULT else ""


def _sentence(record: Record, message: Envelope, steps: dict[str, str]) -> str:
    said = _what(record, message, steps)
    why = record.why
    by = f" by policy {', '.join(why.policies)}" if why.policies else ""
    match record.verdict:
        case Verdict.ALLOW:
            return said if record.first is None else f"{said} ({why.reason}, see {record.first})"
        case Verdict.DUPLICATE:
            return f"{said} (again; counted once, see record {record.first})"
        case Verdict.HOLD:
            return f"{said} (waits: {why.facts.get('detail') or why.reason})"
        case _:
            detail = why.facts.get("detail")
            if by:
                return f"{said}: not delivered, {why.reason}{by}{f': {detail}' if detail else ''}"
            refused = "refused " if why.reason == Reason.APPROVAL_REFUSED else ""
            return f"{said}: not delivered, {refused}{detail or why.reason}"


def _what(record: Record, message: Envelope, steps: dict[str, str]) -> str:
    data = brief(message)
    match record.kind:
        case Kind.EVENT if record.to == RUN_FINISHED and record.by == str(COORDINATOR):
            return f"{record.by} ends run {message.runid}{_end(message)}"
        case Kind.EVENT:
            return f"{record.by} reports {record.to}: {data}"
        case Kind.TASK:
            step = f" (step {steps[message.id]})" if message.id in steps else ""
            whom = (message.onbehalfof or "").replace(",", ", ")
            whom = f" on behalf of {whom}" if whom else ""
            return f"{record.by} asks for {record.to}{step}{whom}"
        case Kind.RESULT if message.type == DEADLETTER:
            return f"{record.by} gives up{_of(message, steps)}{_why(message)}"
        case Kind.RESULT:
            return f"{record.by} answers{_of(message, steps)}: {data}"
        case Kind.CONTROL if record.to == RUN_START:
            return f"{record.by} starts a run: {data}"
        case Kind.CONTROL if record.to == RUN_TIMEOUT:
            return f"{record.by} finds the time over for step {_step(message)}"
        case _:
            return f"{record.by} commands {record.to}: {data}"


def _end(message: Envelope) -> str:
    """How a run ended."""
    try:
        end = message.payload(_RunEnd)
    except InvalidEnvelope:
        return f": {brief(message)}"
    what = end.error or f"output {_flat(end.output)}"
    return f" of {end.blueprint}: {end.status}, {_cut(what, _MOST)}"


def _why(message: Envelope) -> str:
    """Why nobody could give a result."""
    try:
        letter = message.payload(_DeadLetter)
    except InvalidEnvelope:
        return f": {brief(message)}"
    after = f" after {letter.attempts} attempts" if letter.attempts > 1 else ""
    return f"{after}: {_cut(letter.error, _MOST)}"


class _RunEnd(msgspec.Struct):
    blueprint: str
    status: str
    output: Any = None
    error: str | None = None


class _DeadLetter(msgspec.Struct):
    error: str
    attempts: int = 0


def _step(message: Envelope) -> str:
    parts = [message.stepid or "?"]
    if message.subject not in (None, "0"):
        parts.append(f"[{message.subject}]")
    if (message.attempt or 1) > 1:
        parts.append(f", attempt {message.attempt}")
    return "".join(parts)


def _of(message: Envelope, steps: dict[str, str]) -> str:
    step = steps.get(message.causationid or "")
    return f" step {step}" if step else ""


def brief(message: Envelope) -> str:
    """The data in one line."""
    if message.dataenc is not None:
        return "(sealed personal data)"
    if message.data_base64 is not None:
        return "(binary data)"
    try:
        text = _flat(message.payload())
    except InvalidEnvelope:
        text = "(data that is not JSON)"
    return _cut(text, _MOST)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={_short(v)}" for k, v in value.items() if v not in (None, [], {}))  # pyright: ignore[reportUnknownVariableType]  # any JSON
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return _cut(value, _SHORT)
    if isinstance(value, list) and len(value) > 3:  # pyright: ignore[reportUnknownArgumentType]  # any JSON
        return f"{len(value)} entries"  # pyright: ignore[reportUnknownArgumentType]  # any JSON
    return _cut(msgspec.json.encode(value).decode(), _SHORT)


def _cut(text: str, most: int) -> str:
    """The text in one line, and not all of it if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
