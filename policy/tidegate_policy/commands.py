"""Commands to the bus itself: whether one can be followed, given what the ledger says so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_evidence.note import Verifier
from tidegate_schemas import vocabulary
from tidegate_schemas.audit import Export, Replay
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, VerificationError
from tidegate_schemas.evidence import EvidenceKeys
from tidegate_schemas.governance import Activation, DataSubject, Opinion, Order, Proposal, Target
from tidegate_schemas.subjects import Kind

from .blueprints import read_blueprint
from .bundle import Question
from .controls import COMMANDS
from .holds import Hold, may_approve
from .personal import privacy
from .roster import change_of

if TYPE_CHECKING:
    from .decide import Limits
    from .state import State


FOLLOWED = COMMANDS | {
    vocabulary.IDENTITY_REGISTER,
    vocabulary.IDENTITY_REVOKE,
    vocabulary.POLICY_PROPOSE,
    vocabulary.POLICY_ACTIVATE,
    vocabulary.APPROVAL_GRANT,
    vocabulary.APPROVAL_REFUSE,
    vocabulary.BLUEPRINT_REGISTER,
    vocabulary.CLOCK_TICK,
    vocabulary.EVIDENCE_KEYS,
    vocabulary.AUDIT_EXPORT,
    vocabulary.AUDIT_REPLAY,
    *privacy.COMMANDS,
}
"""What the gateway itself reads, now and whenever it reads the ledger, or an auditor: the record
keeps it whole, whatever policy says of redaction."""


NO_REPORT = "the settings demand a report of what it changes; make one with `tidegate policy diff`"
"""Detail of the denial; an auditor knows the setting by it."""


def check_command(
    state: State, limits: Limits, by: str, to: str, envelope: Envelope, now: int
) -> None:
    """Pass if a control message that policy permits can be followed.

    Raises:
        InvalidEnvelope: it says nothing that can be done; the detail says why.
    """
    match to:
        case vocabulary.IDENTITY_REGISTER | vocabulary.IDENTITY_REVOKE:
            change = change_of(to, envelope)
            assert change
            state.roster.after(change)
        case vocabulary.POLICY_PROPOSE:
            state.library.check(envelope.payload(Proposal).files)
        case vocabulary.POLICY_ACTIVATE:
            _check_activation(state, limits, by, envelope.payload(Activation))
        case vocabulary.APPROVAL_GRANT | vocabulary.APPROVAL_REFUSE:
            if why := objection(state, by, to, envelope.payload(Opinion), now):
                raise InvalidEnvelope("data", why)
        case vocabulary.BLUEPRINT_REGISTER if by == str(vocabulary.COORDINATOR):
            read_blueprint(envelope)
        case vocabulary.CLOCK_TICK | vocabulary.PRIVACY_EXPIRE:
            raise InvalidEnvelope("data", "the time is told by the gateway itself")
        case vocabulary.EVIDENCE_KEYS:
            _check_keys(envelope.payload(EvidenceKeys))
        case vocabulary.AUDIT_EXPORT:
            envelope.payload(Export).check()
        case vocabulary.AUDIT_REPLAY:
            envelope.payload(Replay).check()
        case _ if to in privacy.ORDERS:
            state.privacy.check(to, envelope.payload(DataSubject))
        case _ if to in COMMANDS:
            state.controls.after(to, Target.parse(envelope.payload(Order).target))
        case _:
            pass


def _check_activation(state: State, limits: Limits, by: str, activation: Activation) -> None:
    library = state.library
    if activation.bundle == library.active:
        raise InvalidEnvelope("data", f"{activation.bundle} is in force already")
    bundle = library.bundle(activation.bundle)
    report = activation.report
    if report is None and limits.report and library.begun:  # before, there is nothing to compare
        raise InvalidEnvelope("data", NO_REPORT)
    if report and (report.before, report.after) != (library.active, activation.bundle):
        raise InvalidEnvelope("data", "its report is about another change; make a new one")
    # Nobody can mend a bundle under which nobody may activate the next one.
    snapshot = bundle.snapshot(state.roster)
    for command in (vocabulary.POLICY_PROPOSE, vocabulary.POLICY_ACTIVATE):
        question = Question(by, Kind.CONTROL, command, command)
        if not snapshot.ask(question).allowed:
            raise InvalidEnvelope(
                "data", f"under it {by} may not send {command} any more; nobody could go back"
            )


def _check_keys(said: EvidenceKeys) -> None:
    """Keys that nobody can read would leave an auditor without any."""
    seen: set[bytes] = set()
    for one in said.keys:
        try:
            verifier = Verifier.parse(one.key)
        except VerificationError as error:
            raise InvalidEnvelope("data", str(error)) from error
        if verifier.public in seen:
            raise InvalidEnvelope("data", f"one key signs one thing; {one.key} is there twice")
        seen.add(verifier.public)


def objection(state: State, by: str, to: str, opinion: Opinion, now: int) -> str:
    """Why what somebody says of a message that waits is not taken; empty if it is.

    Args:
        state: as of now.
        by: who says it.
        to: `approval.grant` or `approval.refuse`.
        opinion: what is said.
        now: ns since 1970.
    """
    hold, active = state.holds.get(opinion.hold), state.library.active
    if hold is None:
        return f"record {opinion.hold} holds nothing, or not any more"
    if not hold.approvals:
        return f"record {hold.seq} does not wait for an approval"
    if by in (hold.by, *hold.envelope.chain) or _started(hold, by):
        return f"{by} has asked for it, and cannot agree to it too"
    if not any(may_approve(rule, by, state.roster) for rule in hold.approvals):
        return f"{by} is none of those who are asked about record {hold.seq}"
    if hold.expires is not None and hold.expires <= now:
        return f"the time to agree to record {hold.seq} is over"
    if opinion.message != hold.digest:
        return "it is about another message than the one that waits"
    if opinion.bundle != active:
        return f"the policies have changed, {active} is in force; look at it again"
    if opinion.blueprint != (hold.envelope.blueprint or ""):
        return "it is about another blueprint than the one that asked"
    if to == vocabulary.APPROVAL_GRANT and hold.grants.get(by) == active:
        return f"{by} has agreed already"
    return ""


def _started(hold: Hold, by: str) -> bool:
    """Whether somebody started the run that asks, though it does not ask on their behalf."""
    envelope = hold.envelope
    if hold.by != str(vocabulary.COORDINATOR) or not (envelope.blueprint and envelope.causationid):
        return False
    source, id = envelope.causationsource or "", envelope.causationid
    return envelope.runid == vocabulary.run_id(envelope.blueprint, by, source, id)
