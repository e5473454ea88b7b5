"""What the ledger says about agents, blueprints and runs: a fold over its records.

The coordinator holds no other state. It applies every record in ledger order, from the first one
on, and does what `pending` and `due_for` ask for. Applying never fails: what cannot be read is
counted and left out, in the same way by every process that reads the same ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, final

import msgspec

from tidegate_schemas import vocabulary
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, InvalidInput, Unopened
from tidegate_schemas.governance import DataSubject, Order, Target, What
from tidegate_schemas.identity import Registration, Revocation
from tidegate_schemas.personal import key_ids
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Principal, Verdict
from tidegate_schemas.vocabulary import run_id

from .run import (
    Announced,
    Cancelled,
    Command,
    Dispatched,
    Erased,
    Fact,
    Failed,
    Held,
    Refused,
    Run,
    Sealed,
    Succeeded,
    TimedOut,
    advance,
    due,
    start,
    unread,
)

_CONTROLS = frozenset(
    (
        vocabulary.IDENTITY_REGISTER,
        vocabulary.IDENTITY_REVOKE,
        vocabulary.RUN_START,
        vocabulary.RUN_CANCEL,
        vocabulary.CONTROL_KILL,
        vocabulary.PRIVACY_ERASE,
    )
)
_OWN_CONTROLS = frozenset((vocabulary.BLUEPRINT_REGISTER, vocabulary.RUN_TIMEOUT))
_DECISIONS = frozenset((Verdict.ALLOW, Verdict.DENY, Verdict.HOLD, Verdict.REJECT))

T = TypeVar("T")
Change = Callable[[], tuple[str, ...]]
Opened = Envelope | Unopened


class _Document(msgspec.Struct):
    document: Any


class _Start(msgspec.Struct):
    blueprint: str
    input: Any = None


class _Cancel(msgspec.Struct):
    run: str
    reason: str | None = None


class _DeadLetter(msgspec.Struct):
    error: str


def _ends(target: Target, run: Run) -> bool:
    """Whether the kill of a target ends a run; of other targets its tasks are denied."""
    match target.what:
        case What.RUN:
            return target.name == run.id
        case What.BLUEPRINT:
            return target.name == run.blueprint.blueprint
        case _:
            return False


@dataclass(frozen=True, slots=True)
class Active:
    """The version of a blueprint that new runs get; `seq` is the record that activated it."""

    blueprint: Blueprint
    digest: str
    seq: int


@final
class Fold:
    """The state of all runs after some prefix of the ledger.

    Attributes:
        runs: by id; those that ended and were announced only with `keep_ended`.
        providers: who takes a capability, as `team.name`.
        blueprints: every version ever registered, by digest.
        active: the current version, by name.
        ignored: records that were addressed to the coordinator and could not be used.
    """

    def __init__(self, coordinator: Principal, keep_ended: bool = False) -> None:
        self.runs: dict[str, Run] = {}
        self.providers: dict[str, str] = {}
        self.blueprints: dict[str, Blueprint] = {}
        self.active: dict[str, Active] = {}
        self.ignored = 0
        self._coordinator = str(coordinator)
        self._keep_ended = keep_ended
        self._triggers: dict[str, tuple[Active, ...]] = {}

    def concerns(self, subject: str) -> bool:
        """Whether the next record may change anything, by the subject that it is stored under.

        Most records of a ledger do not, and need not be decoded.
        """
        tokens = subject.split(".", 4)
        if len(tokens) < 5:
            return True  # whoever reads it says what is wrong
        _, _, verdict, kind, to = tokens
        match kind:
            case Kind.EVENT:
                known = to in self._triggers or to == vocabulary.RUN_FINISHED
            case Kind.RESULT:
                known = to == self._coordinator
            case _:
                return True
        return known and verdict == Verdict.ALLOW

    def reads_sealed(self, record: Record) -> bool:
        """Whether the next record holds sealed data that is needed."""
        if isinstance(record.envelope, msgspec.UnsetType):
            return False
        if b'"dataenc"' not in bytes(record.envelope):  # decoding it costs more
            return False
        if record.kind is Kind.TASK or record.to == vocabulary.RUN_FINISHED:
            return False
        return self._concerns(record)

    def apply(self, record: Record, opened: Opened | None = None) -> tuple[str, ...]:
        """Take in the next record; the ids of the runs that it changed.

        One event can start a run of each blueprint that waits for it. A run that was changed may
        be gone from `runs` afterwards: it was announced.

        Args:
            record: the next one.
            opened: where it `reads_sealed`, what it holds, or that this is gone; None for whoever
                may not open it.
        """
        if not self._concerns(record):
            return ()
        try:
            change = self._read(record, opened)
        except (InvalidInput, ValueError, OverflowError, RecursionError):
            self.ignored += 1
            return ()
        return change()

    def pending(self) -> Iterator[Command]:
        """What ought to happen and is not in the ledger yet, over all runs."""
        for run in self.runs.values():
            yield from due(run)

    def due_for(self, run_id: str) -> tuple[Command, ...]:
        """As `pending`, for one run; nothing for a run that is gone."""
        run = self.runs.get(run_id)
        return () if run is None else due(run)

    def needs_registration(self, blueprint: Blueprint) -> bool:
        """Whether new runs of this name would get another version than this one."""
        active = self.active.get(blueprint.blueprint)
        return active is None or active.digest != blueprint.digest

    def registration_id(self, blueprint: Blueprint) -> str:
        """The envelope id under which to register this version now.

        It names the version that is replaced, so that going back to an earlier version is no
        duplicate of its first registration, while the same step sent twice is one.
        """
        active = self.active.get(blueprint.blueprint)
        return f"blueprint:{blueprint.digest}:{0 if active is None else active.seq}"

    def _concerns(self, record: Record) -> bool:
        """Whether to read the message; most records of a ledger are none of ours."""
        own = record.by == self._coordinator
        if record.kind is Kind.TASK:
            return own and record.verdict in _DECISIONS
        if record.verdict is not Verdict.ALLOW:
            return False
        match record.kind:
            case Kind.RESULT:
                return record.to == self._coordinator
            case Kind.EVENT:
                return record.to == vocabulary.RUN_FINISHED if own else record.to in self._triggers
            case Kind.CONTROL:
                return record.to in _CONTROLS or (own and record.to in _OWN_CONTROLS)
            case _:
                return False

    def _read(self, record: Record, opened: Opened | None) -> Change:
        """What the record changes. All that can be wrong with a message is found here."""
        envelope = record.message()
        if envelope is None:
            raise InvalidEnvelope("malformed", "the record holds no message")
        time = parse_rfc3339(record.time)
        about = frozenset[str]()
        if envelope.dataenc is not None:
            about = frozenset(map(str, key_ids(envelope)))
            if isinstance(opened, Envelope):
                envelope = opened
            elif self.reads_sealed(record):
                closed = Sealed(time) if opened is None else Erased(time)
                return self._closed(record, envelope, about, closed)
        match record.kind, record.to:
            case Kind.CONTROL, vocabulary.IDENTITY_REGISTER:
                registration = envelope.payload(Registration).check()
                capabilities = registration.capabilities
                return partial(self._provide, registration.principal, capabilities)
            case Kind.CONTROL, vocabulary.IDENTITY_REVOKE:
                revocation = envelope.payload(Revocation).check()
                return partial(self._provide, revocation.principal, ())
            case Kind.CONTROL, vocabulary.BLUEPRINT_REGISTER:
                blueprint = Blueprint.from_canonical(envelope.payload(_Document).document)
                return partial(self._activate, Active(blueprint, blueprint.digest, record.seq))
            case Kind.CONTROL, vocabulary.RUN_START:
                asked = envelope.payload(_Start)
                active = self.active.get(asked.blueprint)
                if active is None:
                    raise InvalidEnvelope("data", f"no blueprint {asked.blueprint[:80]!r}")
                event = _event(record, envelope)
                return partial(self._start, (active,), envelope, asked.input, event, time, about)
            case Kind.CONTROL, vocabulary.RUN_CANCEL:
                cancel = envelope.payload(_Cancel)
                reason = cancel.reason or f"cancelled by {record.by}"
                return partial(self._advance, cancel.run, Cancelled(time, reason))
            case Kind.CONTROL, vocabulary.CONTROL_KILL:
                order = envelope.payload(Order)
                reason = order.reason or f"killed by {record.by}"
                return partial(self._kill, Target.parse(order.target), Cancelled(time, reason))
            case Kind.CONTROL, vocabulary.PRIVACY_ERASE:
                subject = envelope.payload(DataSubject).subject
                return partial(self._erase, subject, Erased(time))
            case Kind.EVENT, to if record.by != self._coordinator:
                event = _event(record, envelope)
                return partial(
                    self._start, self._triggers[to], envelope, event["data"], event, time, about
                )
            case _:
                fact = self._fact(record, envelope, time)
                return partial(self._advance, _given(envelope.runid, "runid"), fact, about)

    def _closed(
        self, record: Record, envelope: Envelope, about: frozenset[str], fact: Sealed | Erased
    ) -> Change:
        """What a record changes whose data cannot be read: a run is begun, and told so."""
        if record.kind is Kind.RESULT:
            return partial(self._advance, _given(envelope.runid, "runid"), fact, about)
        if record.kind is Kind.EVENT:
            versions = self._triggers[record.to]
        else:  # the start of a run names its blueprint outside of its data too
            found = self.active.get(envelope.subject or "")
            versions = (found,) if found and record.to == vocabulary.RUN_START else ()
        event = _event(record, envelope, closed=True)
        return partial(self._start, versions, envelope, None, event, fact.time, about, fact)

    def _fact(self, record: Record, envelope: Envelope, time: int) -> Fact:
        """What a message of a run says: that it ended, or how an attempt stands."""
        if record.kind is Kind.EVENT:
            return Announced(time, envelope.subject)
        step, attempt = _given(envelope.stepid, "stepid"), _given(envelope.attempt, "attempt")
        at = (step, _index(_given(envelope.subject, "subject")), attempt, time)
        match record.kind, record.verdict, envelope.type:
            case Kind.CONTROL, _, _:
                return TimedOut(*at)
            case Kind.TASK, Verdict.ALLOW, _:
                return Dispatched(*at, self.providers.get(record.to, ""))
            case Kind.TASK, Verdict.HOLD, _:
                detail = record.why.facts.get("detail", "")
                return Held(*at, f"{record.why.reason}: {detail}")
            case Kind.TASK, _, _:
                return Refused(*at, record.why.reason)
            case _, _, vocabulary.RESULT:
                return Succeeded(*at, record.by, envelope.payload())
            case _, _, vocabulary.DEADLETTER:
                return Failed(*at, record.by, envelope.payload(_DeadLetter).error)
            case _:
                raise InvalidEnvelope("malformed", f"{envelope.type[:80]!r} is no type of result")

    def _kill(self, target: Target, fact: Cancelled) -> tuple[str, ...]:
        ended = [name for name, run in self.runs.items() if _ends(target, run)]
        return tuple(changed for name in ended for changed in self._advance(name, fact))

    def _erase(self, pseudonym: str, fact: Erased) -> tuple[str, ...]:
        concerned = [
            name
            for name, run in self.runs.items()
            if any(key.startswith(f"{pseudonym}.") for key in run.about)
        ]
        return tuple(changed for name in concerned for changed in self._advance(name, fact))

    def _provide(self, principal: str, capabilities: tuple[str, ...]) -> tuple[str, ...]:
        others = {c: who for c, who in self.providers.items() if who != principal}
        self.providers = {**others, **dict.fromkeys(capabilities, principal)}
        return ()

    def _activate(self, version: Active) -> tuple[str, ...]:
        if not self.needs_registration(version.blueprint):
            return ()
        self.blueprints[version.digest] = version.blueprint
        self.active[version.blueprint.blueprint] = version
        self._triggers = {}
        for active in self.active.values():
            if active.blueprint.on is not None:
                event = active.blueprint.on.event
                self._triggers[event] = (*self._triggers.get(event, ()), active)
        return ()

    def _start(
        self,
        versions: tuple[Active, ...],
        envelope: Envelope,
        input: Any,
        event: dict[str, Any],
        time: int,
        about: frozenset[str],
        closed: Sealed | Erased | None = None,
    ) -> tuple[str, ...]:
        correlation = envelope.correlationid or envelope.id
        started: list[str] = []
        for version in versions:
            name = run_id(version.digest, event["by"], envelope.source, envelope.id)
            known = self.runs.get(name)
            if known is None or known.announced:
                begin = start if closed is None else unread
                run = begin(name, version.blueprint, correlation, input, event, time, about)
                self.runs[name] = run if closed is None else advance(run, closed)
                started.append(name)
        return tuple(started)

    def _advance(
        self, name: str, fact: Fact, about: frozenset[str] = frozenset()
    ) -> tuple[str, ...]:
        before = self.runs.get(name)
        if before is None:
            return ()
        after = advance(before, fact)
        if after is before:
            return ()
        if about:
            after = replace(after, about=_joined(after.about, about))
        if after.announced and not self._keep_ended:
            del self.runs[name]
        else:
            self.runs[name] = after
        return (name,)


def _joined(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """Both, each data subject once."""
    return frozenset({key.partition(".")[0]: key for key in sorted(one | other)}.values())


def _event(record: Record, envelope: Envelope, *, closed: bool = False) -> dict[str, Any]:
    """`event`, as expressions see it: what started the run, and who sent it."""
    return {
        "id": envelope.id,
        "type": envelope.type,
        "source": envelope.source,
        "subject": envelope.subject,
        "time": envelope.time,
        "by": record.by,
        "onbehalfof": envelope.onbehalfof,
        "data": None if closed else envelope.payload(),
    }


def _given(value: T | None, name: str) -> T:
    if value is None:
        raise InvalidEnvelope("malformed", f"a message of a run needs `{name}`")
    return value


def _index(subject: str) -> int:
    if not (subject.isascii() and subject.isdecimal()):
        raise InvalidEnvelope("malformed", f"`subject` is no index: {subject[:40]!r}")
    return int(subject)
