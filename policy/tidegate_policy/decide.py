"""The pure core of the gateway: one submission in, one decision out.

No I/O and no clock: what it decides follows from its arguments alone, so an auditor who has the
ledger can decide again and must come to the same verdicts.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from tidegate_bus.ingress import Submission
from tidegate_schemas import vocabulary
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, decode, encode
from tidegate_schemas.errors import InvalidEnvelope, InvalidName
from tidegate_schemas.governance import Target
from tidegate_schemas.record import VERSION, Ingress, Reason, Receipt, Record, Why
from tidegate_schemas.subjects import NOWHERE, Kind, Principal, Verdict

from .asked import unasked
from .bundle import Answer, Question
from .commands import FOLLOWED, check_command
from .controls import Level
from .holds import Hold
from .meters import Limit
from .obligations import Obligations, costs_of
from .personal.privacy import DETAILS, NOTHING, Contents, Opener, contents
from .redaction import redact
from .state import State
from .window import First

MAX_LIMIT = 512 * 1024
"""Highest limit that can be set. The record of a message of this size is still one that the broker
takes, also when the message could not be read and is kept as base64."""

_MAX_CHAIN = 8
_OF_TIME = (vocabulary.CLOCK_TICK, vocabulary.PRIVACY_EXPIRE)
_SAYS_PERSONAL = b'"personal"'
_WHITESPACE = b" \t\n\r"  # of JSON
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gateway takes.

    Attributes:
        envelope_bytes: the largest envelope.
        report: whether a bundle is activated only with a report of what it changes.
    """

    envelope_bytes: int
    report: bool = False

    def __post_init__(self) -> None:
        if self.envelope_bytes > MAX_LIMIT:
            raise ValueError(f"envelope_bytes: at most {MAX_LIMIT}")


class Decision(msgspec.Struct, frozen=True):
    """What becomes of a message, and why.

    Attributes:
        first: what is known of it already, for a duplicate.
        obligations: what its record says that it obliges to.
        envelope: the message; None where it could not be read.
        redacted: whether `envelope` is less than what was submitted.
        withheld: what could not be read is not in the record either.
    """

    verdict: Verdict
    reason: str
    kind: Kind = Kind.UNKNOWN
    to: str = NOWHERE
    policies: tuple[str, ...] = ()
    facts: dict[str, Any] = {}
    obligations: tuple[str, ...] = ()
    envelope: Envelope | None = None
    redacted: bool = False
    withheld: bool = False
    first: First | None = None


def decide(
    state: State, limits: Limits, submission: Submission, now: int, opener: Opener = NOTHING
) -> Decision:
    """Decide about a submission.

    Args:
        state: what the ledger says before it.
        limits: the gateway's own limits.
        submission: what the broker stored, and who it let through.
        now: ns since 1970; becomes the time of the record.
        opener: opens personal data.

    Raises:
        Forgotten: it answers something of long ago; `state.asked` has to recall that first.
    """
    by = submission.by
    try:
        if submission.reserved:  # a record that was handed out, or something that looks like one
            raise InvalidEnvelope(
                Reason.RESERVED_HEADER, f"{submission.reserved!r} is only for what is stored"
            )
        envelope = decode(submission.payload, limit=limits.envelope_bytes)
        kind, to = envelope.destination()
    except InvalidEnvelope as error:
        return _unreadable(submission.payload, error, state)
    personal = contents(state.privacy, opener, by, envelope)
    seen = personal.seen if personal else envelope
    message = _Message(state, limits, by, kind, to, seen, now, personal)
    if by == str(vocabulary.GATEWAY) and kind is Kind.CONTROL and to in _OF_TIME:
        return message.says(Verdict.ALLOW, Reason.TIME_PASSED)
    if by in state.roster.members:
        first = state.window.find(by, envelope.key, now) or state.holds.find(by, envelope.key)
        if first is not None:
            repeated = message.says(Verdict.DUPLICATE, Reason.REPEATED)
            return structs.replace(repeated, first=first)
    return message.judge(None)


def resolve(
    state: State, limits: Limits, hold: Hold, now: int, opener: Opener = NOTHING
) -> Decision | None:
    """Decide again about what waits, under the policies in force now; None if it must wait on.

    What it needs of limits it has taken already, when it was held.
    """
    personal = contents(state.privacy, opener, hold.by, hold.envelope)
    seen = personal.seen if personal else hold.envelope
    message = _Message(state, limits, hold.by, hold.kind, hold.to, seen, now, personal)
    if hold.over:
        return message.says(Verdict.DENY, Reason.RUN_OVER, "its run has ended meanwhile")
    if hold.refused:
        return message.says(Verdict.DENY, Reason.APPROVAL_REFUSED, f"by {hold.refused}")
    if hold.expires and hold.overdue(now, state.library.active, state.roster):
        when = rfc3339(hold.expires)
        return message.says(Verdict.DENY, Reason.APPROVAL_EXPIRED, f"nobody agreed before {when}")
    decision = message.judge(hold)
    return None if decision.verdict is Verdict.HOLD else decision


class _Message(NamedTuple):
    """A message that is looked at, and what it is looked at with."""

    state: State
    limits: Limits
    by: str
    kind: Kind
    to: str
    envelope: Envelope  # as policy sees it
    now: int
    personal: Contents | None

    def judge(self, hold: Hold | None) -> Decision:
        """Everything but whether it was seen before. `hold` is what it waits in, if it does."""
        state, envelope, kind, to = self.state, self.envelope, self.kind, self.to
        if self.by not in state.roster.members:
            return self._deny(Reason.UNKNOWN_SENDER, f"{self.by} is not in the roster")
        expires = envelope.expires()
        if expires is not None and expires <= self.now:
            return self._deny(Reason.EXPIRED, f"expired at {envelope.expirytime}")
        if kind is Kind.TASK and to not in state.roster.providers:
            return self._deny(Reason.UNKNOWN_DESTINATION, f"no agent provides {to}")
        if kind is Kind.RESULT and to not in state.roster.members:
            return self._deny(Reason.UNKNOWN_DESTINATION, f"{to} is not in the roster")
        stopped = state.stopped(self.by, kind, to, envelope)
        if stopped and (stopped[0] is Level.KILLED or kind is Kind.CONTROL):
            return self._deny(stopped[0].word, f"{stopped[1]} is {stopped[0].word}")
        if self.personal and (why := self._unfit()):
            return self._deny(*why)
        try:
            chain = _chain(envelope, state)
            blueprint = self._blueprint()
            answer = self._ask(chain, blueprint)
        except InvalidEnvelope as error:
            return self._deny(error.code, error.detail)
        return self._weigh(answer, stopped, hold)

    def says(
        self, verdict: Verdict, reason: str, detail: str = "", answer: Answer | None = None
    ) -> Decision:
        """A decision. What no policy has judged is redacted by all that might be for it."""
        facts: dict[str, Any] = {"detail": detail} if detail else {}
        if answer is None:
            policies: tuple[str, ...] = ()
            obligations = self.state.snapshot.precautions(self.kind, self.to)
        else:
            policies, obligations = answer.policies, answer.obligations
            if answer.shadow is not None:
                allowed, deciding = answer.shadow
                shadow = Verdict.ALLOW if allowed else Verdict.DENY
                facts["shadow"] = {"verdict": shadow, "policies": list(deciding)}
        envelope = self.envelope
        if obligations.redactions and self.kind is Kind.CONTROL and self.to in FOLLOWED:
            obligations = replace(obligations, redactions=())
        if obligations.redactions:
            envelope = redact(envelope, obligations.pointers)
        redacted = envelope is not self.envelope
        if self.personal:
            envelope, redacted = self.personal.recorded(envelope)
        # Limits and approvals are of what goes on or waits.
        if verdict not in (Verdict.ALLOW, Verdict.HOLD):
            obligations = Obligations(redactions=obligations.redactions)
        return Decision(
            verdict,
            reason,
            self.kind,
            self.to,
            policies,
            facts,
            obligations.texts(),
            envelope,
            redacted,
        )

    def _deny(self, reason: str, detail: str, answer: Answer | None = None) -> Decision:
        return self.says(Verdict.DENY, reason, detail, answer)

    def _unfit(self) -> tuple[str, str] | None:
        """Why personal data is not admitted, and the sentence that goes with it."""
        fault = self.personal.fault if self.personal else ""
        if fault:
            return fault, DETAILS[fault]
        if self.kind is Kind.CONTROL and self.to in FOLLOWED:  # whoever replays must read them
            return Reason.INVALID_COMMAND, "a command to the bus itself is no personal data"
        return None

    def _blueprint(self) -> str:
        """Name of the blueprint that the message belongs to.

        Only the coordinator is believed, and asks in a run for nothing but what its step declares.

        Raises:
            InvalidEnvelope: code `outside_blueprint`.
        """
        envelope, blueprints = self.envelope, self.state.blueprints
        if self.by != str(vocabulary.COORDINATOR) or envelope.blueprint is None:
            return ""
        declared = blueprints.capability(envelope.blueprint, envelope.stepid or "")
        if self.kind is Kind.TASK and declared != self.to:
            step = f"step {envelope.stepid or ''!r} of blueprint {envelope.blueprint[:80]!r}"
            asks = f"asks for {declared}" if declared else "is not registered"
            raise InvalidEnvelope(Reason.OUTSIDE_BLUEPRINT, f"{step} {asks}, not for {self.to}")
        return blueprints.name(envelope.blueprint)

    def _ask(self, chain: tuple[str, ...], blueprint: str) -> Answer:
        """What policy says of the sender and of everybody on whose behalf it sends.

        Raises:
            InvalidEnvelope: code `invalid_facts`; policy cannot see what it must.
        """
        envelope, snapshot = self.envelope, self.state.snapshot
        question = Question(
            self.by,
            self.kind,
            self.to,
            envelope.type,
            envelope.runid is not None,
            False,
            blueprint,
            envelope.dataclassification,
            snapshot.bundle.facts.of(self.kind, self.to, envelope),
        )
        return snapshot.ask_for(question, chain)

    def _weigh(
        self, answer: Answer, stopped: tuple[Level, Target] | None, hold: Hold | None
    ) -> Decision:
        """What follows from what policy says."""
        state, obligations = self.state, answer.obligations
        if answer.error:  # which may quote what it stumbled over
            detail = "on personal data" if self.personal else answer.error
            return self._deny(Reason.POLICY_ERROR, detail, answer)
        if not answer.allowed:
            if answer.policies:
                return self._deny(Reason.FORBIDDEN, "", answer)
            detail = f"no policy permits {self.by} this {self.kind} to {self.to}"
            return self._deny(Reason.NOT_PERMITTED, detail, answer)
        if obligations.redactions and self.envelope.data_base64 is not None:
            detail = "`data_base64` cannot be redacted; send `data`"
            return self._deny(Reason.INVALID_FACTS, detail, answer)
        if self.kind is Kind.CONTROL:
            try:  # a command that nobody can follow is not admitted
                check_command(state, self.limits, self.by, self.to, self.envelope, self.now)
            except InvalidEnvelope as error:
                return self._deny(Reason.INVALID_COMMAND, error.detail, answer)
        if hold is None:
            if self.kind is Kind.RESULT and (why := self._unasked()):
                return self._deny(Reason.NOT_ASKED, why, answer)
            limits: tuple[Limit, ...] = (*obligations.rates, *obligations.budgets)
            if limits and (over := self._exceeded(limits)):
                return self._deny(*over, answer)
        waits = self._waits(answer, stopped, hold)
        if waits is not None:
            if hold is None and state.holds.full(self.by):
                return self._deny(Reason.TOO_MANY_HELD, "too much waits already", answer)
            return waits
        reason = Reason.LEARNED if answer.learned else Reason.PERMITTED
        if hold is None:
            return self.says(Verdict.ALLOW, reason, "", answer)
        reason = Reason.APPROVED if hold.approvals else Reason.RELEASED
        allowed = self.says(Verdict.ALLOW, reason, "", answer)
        if hold.grants:
            allowed.facts["approved"] = sorted(hold.grants)
        return allowed

    def _unasked(self) -> str:
        return unasked(self.state.asked, self.state.roster, self.by, self.to, self.envelope)

    def _exceeded(self, limits: tuple[Limit, ...]) -> tuple[str, str] | None:
        charged = self.state.charged(self.by, self.kind, self.to, self.envelope)
        costs = costs_of(self.envelope.costs)
        return self.state.meters.exceeded(limits, charged, costs, self.now)

    def _waits(
        self, answer: Answer, stopped: tuple[Level, Target] | None, hold: Hold | None
    ) -> Decision | None:
        """The decision that it must wait, or that it waits for what nobody was asked."""
        state, bundle = self.state, self.state.snapshot.bundle.digest
        needed = [
            rule
            for rule in answer.obligations.approvals
            if hold is None or not hold.agreed(rule, bundle, state.roster)
        ]
        if needed and hold is not None and not set(needed) <= set(hold.approvals):
            detail = "the rules have changed while it waited; send it again"
            return self._deny(Reason.APPROVAL_REQUIRED, detail, answer)
        if needed:
            said = "; ".join(rule.asks for rule in needed)
            return self.says(Verdict.HOLD, Reason.APPROVAL_REQUIRED, said, answer)
        if stopped:
            detail = f"{stopped[1]} is {stopped[0].word}"
            return self.says(Verdict.HOLD, stopped[0].word, detail, answer)
        return None


def _chain(envelope: Envelope, state: State) -> tuple[str, ...]:
    """On whose behalf a message is sent.

    Raises:
        InvalidEnvelope: code `invalid_delegation`.
    """
    chain = envelope.chain
    try:
        if len(chain) > _MAX_CHAIN or len(set(chain)) != len(chain):
            raise InvalidName(f"at most {_MAX_CHAIN} principals, each once")
        for name in chain:
            if str(Principal.parse(name)) not in state.roster.members:
                raise InvalidName(f"{name} is not in the roster")
    except InvalidName as error:
        raise InvalidEnvelope(Reason.INVALID_DELEGATION, f"`onbehalfof`: {error}") from None
    return chain


def _unreadable(payload: bytes, error: InvalidEnvelope, state: State) -> Decision:
    facts: dict[str, Any] = {"detail": error.detail}
    # Too large for a record, or nobody knows where in it stands what is redacted or personal.
    withheld = error.code == Reason.OVERSIZED or bool(state.snapshot.bundle.redactions)
    if _SAYS_PERSONAL in payload:
        withheld = facts["personal"] = True
    if withheld:  # its digest stands for it
        facts["bytes"] = len(payload)
        facts["sha256"] = hashlib.sha256(payload).hexdigest()
    return Decision(Verdict.REJECT, error.code, facts=facts, withheld=withheld)


def record(
    decision: Decision,
    submission: Submission,
    bundle: str,
    *,
    log: str,
    seq: int,
    epoch: int,
    now: int,
    n: int = 0,
    held: int | None = None,
) -> Record:
    """The record of a decision, to be stored at `seq`.

    It holds the envelope byte for byte, without the white space around it: that is no part of a
    JSON value, and a reader of the record could not tell it from the record's own. Line ends inside
    it, which JSON knows between its tokens only, become spaces: a record is one line. What was
    redacted is not in it.

    Args:
        decision: what was decided.
        submission: about what; for the end of a hold, who sent what was held, and its bytes.
        bundle: digest of the policies in force.
        log: name of the log.
        seq: where it goes.
        epoch: number of this start.
        now: ns since 1970.
        n: number of the consequence.
        held: sequence of the hold that ends.
    """
    envelope: Any = msgspec.UNSET
    if decision.envelope is not None:
        text = encode(decision.envelope) if decision.redacted else submission.payload
        envelope = msgspec.Raw(text.strip(_WHITESPACE).translate(_ONE_LINE))
    keep_raw = decision.envelope is None and not decision.withheld
    return Record(
        v=VERSION,
        log=log,
        seq=seq,
        time=rfc3339(now),
        epoch=epoch,
        ingress=Ingress(submission.seq, n, rfc3339(submission.time)),
        by=submission.by,
        kind=decision.kind,
        to=decision.to,
        verdict=decision.verdict,
        why=Why(decision.policies, decision.reason, bundle, decision.obligations, decision.facts),
        first=decision.first.seq if decision.first else held,
        envelope=envelope,
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
