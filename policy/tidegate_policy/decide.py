"""The pure core of the gateway: one submission in, one decision out.

No I/O and no clock: what it decides follows from its arguments alone, so an auditor who has the
ledger and the bundles can decide again and must come to the same verdicts.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tidegate_bus.ingress import Submission
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, decode
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.record import VERSION, Ingress, Reason, Receipt, Record, Why
from tidegate_schemas.subjects import NOWHERE, Kind, Verdict

from .bundle import Question, Snapshot
from .roster import Roster, change_of
from .window import First, Window

MAX_LIMIT = 512 * 1024
"""Highest limit that can be set. The record of a message of this size is still one that the broker
takes, also when the message could not be read and is kept as base64."""

_WHITESPACE = b" \t\n\r"  # of JSON


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gateway takes. `envelope_bytes` is the largest envelope."""

    envelope_bytes: int

    def __post_init__(self) -> None:
        if self.envelope_bytes > MAX_LIMIT:
            raise ValueError(f"envelope_bytes: at most {MAX_LIMIT}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a submission, and why.

    `first` is set for a duplicate, `roster` where the message changes who takes part.
    """

    verdict: Verdict
    reason: str
    kind: Kind = Kind.UNKNOWN
    to: str = NOWHERE
    policies: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    envelope: Envelope | None = None
    first: First | None = None
    roster: Roster | None = None


def decide(
    snapshot: Snapshot, limits: Limits, submission: Submission, window: Window, now: int
) -> Decision:
    """Decide about a submission.

    Args:
        snapshot: the policies in force, and who takes part.
        limits: the gateway's own limits.
        submission: what the broker stored, and who it let through.
        window: what was seen before this submission.
        now: ns since 1970; becomes the time of the record.
    """
    try:
        if submission.reserved:  # a record that was handed out, or something that looks like one
            raise InvalidEnvelope(
                Reason.RESERVED_HEADER, f"{submission.reserved!r} is only for what is stored"
            )
        envelope = decode(submission.payload, limit=limits.envelope_bytes)
        kind, to = envelope.destination()
    except InvalidEnvelope as error:
        return _unreadable(submission.payload, error)

    def deny(reason: str, detail: str = "", policies: tuple[str, ...] = ()) -> Decision:
        facts = {"detail": detail} if detail else {}
        return Decision(Verdict.DENY, reason, kind, to, policies, facts, envelope)

    if submission.by not in snapshot.roster.members:
        return deny(Reason.UNKNOWN_SENDER, f"{submission.by} is not in the roster")
    first = window.find(submission.by, envelope.id, now)
    if first is not None:
        return Decision(
            Verdict.DUPLICATE, Reason.REPEATED, kind, to, envelope=envelope, first=first
        )
    expires = envelope.expires()
    if expires is not None and expires <= now:
        return deny(Reason.EXPIRED, f"expired at {envelope.expirytime}")
    if kind is Kind.TASK and to not in snapshot.roster.providers:
        return deny(Reason.UNKNOWN_DESTINATION, f"no agent provides {to}")
    if kind is Kind.RESULT and to not in snapshot.roster.members:
        return deny(Reason.UNKNOWN_DESTINATION, f"{to} is not in the roster")
    try:
        data = snapshot.bundle.facts.of(kind, to, envelope)
    except InvalidEnvelope as error:
        return deny(error.code, error.detail)
    answer = snapshot.ask(
        Question(
            submission.by,
            kind,
            to,
            envelope.type,
            in_run=envelope.runid is not None,
            dataclassification=envelope.dataclassification,
            data=data,
        )
    )
    if answer.error:
        return deny(Reason.POLICY_ERROR, answer.error, answer.policies)
    if not answer.allowed:
        if answer.policies:
            return deny(Reason.FORBIDDEN, "", answer.policies)
        return deny(Reason.NOT_PERMITTED, f"no policy permits {submission.by} this {kind} to {to}")
    roster = None
    if kind is Kind.CONTROL:
        try:
            change = change_of(to, envelope)
            roster = snapshot.roster.after(change) if change else None
        except InvalidEnvelope as error:  # a command that nobody can follow is not admitted
            return deny(Reason.INVALID_COMMAND, error.detail, answer.policies)
    return Decision(
        Verdict.ALLOW, Reason.PERMITTED, kind, to, answer.policies, envelope=envelope, roster=roster
    )


def _unreadable(payload: bytes, error: InvalidEnvelope) -> Decision:
    facts: dict[str, Any] = {"detail": error.detail}
    if error.code == Reason.OVERSIZED:  # too large for a record: its digest stands for it
        facts["bytes"] = len(payload)
        facts["sha256"] = hashlib.sha256(payload).hexdigest()
    return Decision(Verdict.REJECT, error.code, facts=facts)


def record(
    decision: Decision,
    submission: Submission,
    snapshot: Snapshot,
    *,
    log: str,
    seq: int,
    epoch: int,
    now: int,
) -> Record:
    """The record of a decision, to be stored at `seq`.

    It holds the envelope byte for byte, without the white space around it: that is no part of a
    JSON value, and a reader of the record could not tell it from the record's own.
    """
    readable = decision.envelope is not None
    keep_raw = not readable and decision.reason != Reason.OVERSIZED
    return Record(
        v=VERSION,
        log=log,
        seq=seq,
        time=rfc3339(now),
        epoch=epoch,
        ingress=Ingress(submission.seq, 0, rfc3339(submission.time)),
        by=submission.by,
        kind=decision.kind,
        to=decision.to,
        verdict=decision.verdict,
        why=Why(decision.policies, decision.reason, snapshot.bundle.digest, (), decision.facts),
        first=decision.first.seq if decision.first else None,
        envelope=msgspec.Raw(submission.payload.strip(_WHITESPACE)) if readable else msgspec.UNSET,
        raw=base64.b64encode(submission.payload).decode() if keep_raw else None,
    )


def receipt(decision: Decision, submission: Submission, seq: int) -> Receipt:
    """What the sender hears. A repeated envelope gets the first verdict and its grounds."""
    envelope_id = decision.envelope.id if decision.envelope else ""
    first = decision.first
    if first is not None:
        return Receipt(
            envelope_id,
            decision.verdict,
            first.seq,
            first.reason,
            submission.seq,
            policies=first.policies,
            was=first.verdict,
        )
    return Receipt(
        envelope_id,
        decision.verdict,
        seq,
        decision.reason,
        submission.seq,
        decision.facts.get("detail", ""),
        decision.policies,
    )
