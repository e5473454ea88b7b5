"""What another bundle would have said of the messages of the ledger. Pure.

All of it follows from the record, the commands before it and the bundle: whether a message was
seen before, had expired or belonged to nobody stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidegate_policy.bundle import Answer, Question
from tidegate_policy.bundle.facts import tokens
from tidegate_policy.personal.privacy import NOTHING, Opener
from tidegate_policy.redaction import REDACTED
from tidegate_schemas import vocabulary
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.personal import unseal
from tidegate_schemas.record import Reason
from tidegate_schemas.subjects import Kind, Verdict

from .line import Line, Message, read_line
from .outcome import Finding, Judgement, Outcome, outcome
from .past import Past
from .tally import Tally

_COORDINATOR = str(vocabulary.COORDINATOR)
_MAX_REMEMBERED = 100_000
_ERASED = "personal data, unreplayable: erased"
_CHECKED = (
    "identity.",
    "policy.",
    "approval.",
    "control.",
    "blueprint.",
    "clock.",
    "evidence.",
    "privacy.",
)
"""Commands that are followed only if they can be, given what the ledger says so far."""


class WhatIf:
    """Judges one record after the other by another bundle.

    Args:
        past: with that bundle.
        opener: opens personal data, as far as its keys are left.
    """

    def __init__(self, past: Past, opener: Opener = NOTHING) -> None:
        self._past = past
        self._opener = opener
        self._until = -1
        self._known: dict[object, Judgement] = {}

    def tally(self, entries: Iterable[tuple[int, bytes]]) -> Tally:
        """Findings over records, by sequence and payload, in ledger order.

        Raises:
            LedgerError: one of them is not of a gateway.
        """
        tally = Tally()
        judge, records = self.judge, 0
        for seq, payload in entries:
            records += 1
            line = read_line(seq, payload)
            finding = judge(seq, line)
            if finding is not None:
                tally.add(seq, line.by, f"{line.kind}.{line.to}", finding)
        tally.records = records
        return tally

    def judge(self, seq: int, line: Line) -> Finding | None:
        """The finding about a record; None where nothing changes.

        Raises:
            LedgerError: a record before it is not of a gateway.
        """
        if not seq <= self._past.until or seq < self._until:
            before = self._past.snapshot
            self._past.move(seq)
            if self._past.snapshot is not before:
                self._known.clear()
        self._until = seq
        finding = outcome(line, self._ask)
        if finding is not None and finding.outcome is Outcome.NEWLY_ALLOWED:
            return self._goes_on(line, finding)
        return finding

    def _ask(self, line: Line) -> Judgement:
        """What the bundle says of a message that got as far as policy."""
        message, by = line.envelope, line.by
        assert message is not None
        past = self._past
        blueprint = ""
        if message.blueprint is not None and by == _COORDINATOR:
            blueprint = past.state.blueprints.name(message.blueprint)
        question = Question(
            by,
            line.kind,
            line.to,
            message.type,
            message.runid is not None,
            False,
            blueprint,
            message.dataclassification,
        )
        facts = past.snapshot.bundle.facts
        if (line.kind, line.to) in facts.declared:
            envelope = self._envelope(line, message)
            if envelope is None:
                return Judgement(False, unknown=_ERASED)
            if unknown := self._redacted(line, envelope):
                return Judgement(False, unknown=unknown)
            try:
                data = facts.of(line.kind, line.to, envelope)
            except InvalidEnvelope as error:
                return Judgement(False, reason=error.code)
            return self._judgement(question._replace(data=data), message)
        key = (question, message.onbehalfof)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            known = self._known[key] = self._judgement(question, message)
        if known.obligations.redactions and message.data_base64 is not None:
            opened = self._envelope(line, message)
            if opened is None:
                return Judgement(False, unknown=_ERASED)
            if opened.data_base64 is not None:
                return Judgement(False, known.policies, reason=Reason.INVALID_FACTS)
        return known

    def _envelope(self, line: Line, message: Message) -> Envelope | None:
        """As much of the envelope as there is to look at; None of personal data without a key."""
        envelope = _envelope(message)
        if message.dataenc is None:
            return envelope
        try:
            key = self._opener.key(envelope)
            return unseal(envelope, line.by, key) if key else None
        except InvalidEnvelope:
            return None

    def _judgement(self, question: Question, message: Message) -> Judgement:
        chain = tuple(message.onbehalfof.split(",")) if message.onbehalfof else ()
        answer = self._past.snapshot.ask_for(question, chain)
        if answer.allowed:
            return Judgement(True, answer.policies, answer.obligations)
        return Judgement(False, answer.policies, reason=_reason(answer))

    def _redacted(self, line: Line, envelope: Envelope) -> str:
        """What the bundle would look at, and was taken out before it was recorded."""
        gone = [
            text.removeprefix("redact:").partition("#")[0]
            for text in line.why.obligations
            if text.startswith("redact:")
        ]
        if not gone or bytes(REDACTED) not in envelope.body:
            return ""
        declared = self._past.snapshot.bundle.facts.declared[line.kind, line.to]
        missing = {
            fact.at for fact in declared.values() for pointer in gone if _overlap(fact.at, pointer)
        }
        return f"{' and '.join(sorted(missing))}, which was redacted" if missing else ""

    def _goes_on(self, line: Line, finding: Finding) -> Finding:
        """What stands in the way of a message that policy would let through now."""
        message = line.envelope
        assert message is not None
        if line.kind is Kind.CONTROL:
            if line.to.startswith(_CHECKED):
                why = f"whether {line.to} could be followed then"
                return Finding(Outcome.INDETERMINATE, finding.policies, why)
            return finding
        if line.kind is Kind.RESULT and line.verdict is Verdict.DENY:  # policy was asked first
            why = "whether its sender was given what it answers"
            return Finding(Outcome.INDETERMINATE, finding.policies, why)
        envelope = _envelope(message)
        if stopped := self._past.state.stopped(line.by, line.kind, line.to, envelope):
            level, target = stopped
            return Finding(Outcome.NEWLY_HELD, finding.policies, f"{target} was {level.word}")
        return finding


def _reason(answer: Answer) -> str:
    if answer.error:
        return Reason.POLICY_ERROR
    return Reason.FORBIDDEN if answer.policies else Reason.NOT_PERMITTED


def _overlap(one: str, other: str) -> bool:
    """Whether one JSON pointer is inside of the other."""
    here, there = tokens(one), tokens(other)
    return here[: len(there)] == there or there[: len(here)] == here


def _envelope(message: Message) -> Envelope:
    """As much of the envelope as there is to look at."""
    return Envelope(
        specversion="1.0",
        id=message.id,
        source="-",
        type=message.type,
        runid=message.runid,
        blueprint=message.blueprint,
        onbehalfof=message.onbehalfof,
        datasubject=message.datasubject,
        dataenc="v1" if message.dataenc else None,
        data=message.data,
        data_base64=message.data_base64,
    )
