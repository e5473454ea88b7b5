"""Everything that a verdict depends on besides the message: a fold of the ledger.

`apply` takes in one record after the other, the gateway's own as it writes them and those before
as it starts. Two gateways that have read the same records are in the same state, and so is an
auditor.
"""

from __future__ import annotations

import hashlib
from collections import deque

import msgspec

from tidegate_schemas import vocabulary
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.governance import Activation, Opinion, Order, Proposal, Target
from tidegate_schemas.personal import is_personal
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict

from .asked import Asked
from .blueprints import Blueprints
from .bundle import Snapshot
from .controls import COMMANDS, Controls, Level, Touched
from .holds import Hold, Holds
from .library import Library
from .meters import Charged, Meters
from .obligations import Approval, Budget, RateLimit, costs_of, read
from .personal import privacy
from .personal.privacy import Privacy
from .roster import Roster, change_of
from .window import First, Window

_SECOND = 1_000_000_000


class State:
    """What the ledger says up to some record.

    Args:
        genesis: policies and roster where the ledger begins.
        window: nothing but its length and bound; filled by the fold.

    Attributes:
        roster: who takes part.
        library: bundles, and which is in force.
        controls: what operators have stopped.
        holds: what waits.
        due: of what waits, what the last submission has given a reason to look at; in order.
        meters: what was used of limits.
        blueprints: what the coordinator may ask for.
        asked: what may be answered.
        privacy: which personal data is gone, and which must be kept.
    """

    def __init__(self, genesis: Snapshot, window: Window) -> None:
        self.roster: Roster = genesis.roster
        self.library = Library(genesis.bundle)
        self.window = window
        self.controls = Controls()
        self.holds = Holds()
        self.due: deque[int] = deque()
        self.meters = Meters()
        self.blueprints = Blueprints()
        self.asked = Asked()
        self.privacy = Privacy()
        self._snapshot: Snapshot | None = genesis

    @property
    def snapshot(self) -> Snapshot:
        """The policies in force, speaking of who takes part."""
        if self._snapshot is None:
            self._snapshot = self.library.bundle(self.library.active).snapshot(self.roster)
        return self._snapshot

    @property
    def counting_seconds(self) -> float | None:
        """How far back records still count, in what passes; None is to the first one."""
        limits = self.library.counting_seconds
        return None if limits is None else max(limits, self.window.length)

    def overdue(self, now: int) -> list[int]:
        """What waits for an approval that nobody gave in time."""
        return self.holds.overdue(now, self.library.active, self.roster)

    def touched(self, by: str, kind: Kind, to: str, envelope: Envelope) -> Touched:
        """What a message has to do with."""
        receiver = ""
        if kind is Kind.TASK:
            receiver = self.roster.providers.get(to, "")
        elif kind is Kind.RESULT:
            receiver = to
        name = self.blueprints.name(envelope.blueprint)
        return Touched(kind, to, (by, *envelope.chain), receiver, envelope.runid or "", name)

    def stopped(
        self, by: str, kind: Kind, to: str, envelope: Envelope
    ) -> tuple[Level, Target] | None:
        """How far operators have stopped such a message, and by which target."""
        if not self.controls.levels:
            return None
        return self.controls.on(self.touched(by, kind, to, envelope))

    def charged(self, by: str, kind: Kind, to: str, envelope: Envelope) -> Charged:
        """Whom a message is charged to. Only the coordinator is believed about runs."""
        worker = self.roster.providers.get(to, by) if kind is Kind.TASK else by
        run = envelope.runid or "" if by == str(vocabulary.COORDINATOR) else ""
        return Charged(by, worker, run)

    def apply(self, record: Record, envelope: Envelope | None, time: int) -> None:
        """Take in the next record.

        Args:
            record: as it was stored.
            envelope: its message, if it could be read.
            time: of the record, ns since 1970.

        Raises:
            InvalidEnvelope: no gateway would have written it.
            ValueError: so too.
        """
        if record.ingress.n == 0:
            self.due.clear()
        self.asked.apply(record, envelope)
        if envelope is None:
            return
        self.window.add_record(record, envelope.key, time)
        match record.verdict:
            case Verdict.ALLOW:
                if record.ingress.n == 0:
                    self._charge(record, envelope, time)
                else:
                    self.holds.remove(record.first or 0)
                self._happened(record, envelope, time)
            case Verdict.HOLD:
                self._charge(record, envelope, time)
                self.holds.add(_hold(record, envelope, time))
            case Verdict.DENY if record.ingress.n:
                self.holds.remove(record.first or 0)
                self.meters.refund((record.by, envelope.id), record.first or 0)
            case _:
                pass

    def _charge(self, record: Record, envelope: Envelope, time: int) -> None:
        if not record.why.obligations:
            return
        limits = [
            limit
            for text in record.why.obligations
            if isinstance(limit := read(text), RateLimit | Budget)
        ]
        if limits:
            self.meters.charge(
                limits,
                self.charged(record.by, record.kind, record.to, envelope),
                costs_of(envelope.costs),
                time,
                (record.by, envelope.id) if record.kind is Kind.TASK else None,
                record.seq,
            )

    def _happened(self, record: Record, envelope: Envelope, time: int) -> None:
        """What an admitted message changes."""
        match record.kind, record.to:
            case Kind.RESULT, _ if envelope.causationsource is None:  # else it is of an event
                self.meters.settle(
                    (record.to, envelope.causationid or ""),
                    record.by,
                    costs_of(envelope.costs),
                    time,
                    failed=envelope.type == vocabulary.DEADLETTER,
                )
            case Kind.EVENT, vocabulary.RUN_FINISHED:
                if record.by == str(vocabulary.COORDINATOR) and envelope.runid:
                    self.meters.forget_run(envelope.runid)
                    for hold in self.holds:
                        if hold.by == record.by and hold.envelope.runid == envelope.runid:
                            hold.over = True
                            self.due.append(hold.seq)
            case Kind.CONTROL, command:
                self._follow(command, record.by, envelope, time)
            case _:
                pass

    def _follow(self, command: str, by: str, envelope: Envelope, time: int) -> None:
        match command:
            case vocabulary.IDENTITY_REGISTER | vocabulary.IDENTITY_REVOKE:
                if change := change_of(command, envelope):
                    self.roster = self.roster.after(change)
                    self._snapshot = None
            case vocabulary.POLICY_PROPOSE:
                self.library.propose(envelope.payload(Proposal).files)
            case vocabulary.POLICY_ACTIVATE:
                self.library.activate(envelope.payload(Activation))
                self._snapshot = None
            case vocabulary.APPROVAL_GRANT | vocabulary.APPROVAL_REFUSE:
                opinion: Opinion = envelope.payload(Opinion)
                if hold := self.holds.get(opinion.hold):
                    if command == vocabulary.APPROVAL_GRANT:
                        hold.grants[by] = opinion.bundle
                    else:
                        hold.refused = by
                    self.due.append(hold.seq)
            case vocabulary.BLUEPRINT_REGISTER if by == str(vocabulary.COORDINATOR):
                self.blueprints.register(envelope)
            case vocabulary.CLOCK_TICK if by == str(vocabulary.GATEWAY):
                self.due.extend(self.overdue(time))
            case _ if command in privacy.COMMANDS:
                if command != vocabulary.PRIVACY_EXPIRE or by == str(vocabulary.GATEWAY):
                    self.privacy.follow(command, by, envelope, time)
                    # What waits and is erased, waits in vain.
                    self.due.extend(h.seq for h in self.holds if is_personal(h.envelope))
            case _ if command in COMMANDS:
                target = Target.parse(envelope.payload(Order).target)
                self.controls = self.controls.after(command, target)
                # What is looked at and must wait on stays where it is.
                self.due.extend(hold.seq for hold in self.holds)
            case _:
                pass


def _hold(record: Record, envelope: Envelope, time: int) -> Hold:
    assert not isinstance(record.envelope, msgspec.UnsetType)
    payload = bytes(record.envelope)
    approvals = tuple(
        rule for text in record.why.obligations if isinstance(rule := read(text), Approval)
    )
    lengths = [rule.seconds for rule in approvals if rule.seconds]
    return Hold(
        record.seq,
        record.by,
        record.kind,
        record.to,
        envelope,
        payload,
        f"sha256:{hashlib.sha256(payload).hexdigest()}",
        approvals,
        First(record.seq, time, record.verdict, record.why.reason, record.why.policies),
        time + min(lengths) * _SECOND if lengths else None,
    )
