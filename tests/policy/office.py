"""A gateway without broker and process: a desk over a ledger in memory, as bytes.

What it knows after `restart` it knows from those bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from policy.kit import NOW
from tidegate_bus.ingress import Submission
from tidegate_policy.asked import Forgotten
from tidegate_policy.bundle import Bundle, Snapshot
from tidegate_policy.decide import Limits
from tidegate_policy.desk import Desk, Entry
from tidegate_policy.personal.privacy import NOTHING, Opener
from tidegate_policy.roster import BUILT_IN, Roster
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.record import Record, decode_record
from tidegate_schemas.subjects import Kind, Verdict

SECOND = 1_000_000_000
ANN, BOB, CY = "ops.ann", "ops.bob", "ops.cy"
PAYER, ASKER, OUTSIDER = "pay.payer", "shop.asker", "outside.website"
COORDINATOR, OPERATOR = "tidegate.coordinator", "tidegate.operator"
STAFF = (
    *BUILT_IN.members.values(),
    *(Registration(who, Role.OPERATOR) for who in (ANN, BOB, CY)),
    Registration(PAYER, Role.AGENT, ("pay.out", "pay.check"), ("some.thing",)),
    Registration(ASKER, Role.AGENT, ("shop.ask",)),
    Registration(OUTSIDER, Role.PUBLISHER),
)
OPEN = '@id("all") permit (principal, action, resource);'


def policies(*texts: str, **files: str) -> Bundle:
    """A bundle with these policies, and files with names like `facts.yaml` as `facts_yaml`."""
    named = {name.replace("_", "."): text for name, text in files.items()}
    return Bundle.of_files({f"{n}.cedar": text for n, text in enumerate(texts)} | named)


def taken(
    desk: Desk, submission: Submission, now: int, leaf: Callable[[int], bytes]
) -> Iterator[Entry | None]:
    """What a desk makes of a submission; what it has forgotten, `leaf` gives from the ledger."""
    while True:
        entries = desk.take(submission, now)
        try:
            return chain([next(entries)], entries)
        except Forgotten as cause:
            desk.state.asked.recall(cause.seq, decode_record(leaf(cause.seq)))


def answering(given: Record, **attributes: Any) -> Envelope:
    """A result of what a record admits."""
    message = given.message()
    assert message
    values: dict[str, Any] = {
        "type": "tidegate.result",
        "kind": "result",
        "to": given.by,
        "causationid": message.id,
        "causationsource": message.source if given.kind is Kind.EVENT else None,
        "answers": str(given.seq),
    }
    return Envelope.new(**values | attributes)


@dataclass
class Office:
    """A gateway at its desk.

    Attributes:
        bundle: in force at the beginning.
        ledger: the leaves.
        now: the time, ns since 1970.
        opener: opens personal data.
    """

    bundle: Bundle
    staff: Iterable[Registration] = STAFF
    limits: Limits = field(default_factory=lambda: Limits(256 * 1024))
    window: float = 600.0
    now: int = NOW
    ledger: list[bytes] = field(default_factory=list[bytes])
    submitted: int = 0
    epoch: int = 0
    opener: Opener = NOTHING

    def __post_init__(self) -> None:
        self.genesis: Snapshot = self.bundle.snapshot(Roster.of(self.staff))
        self.restart()

    def fold(self) -> State:
        """The state, from the ledger."""
        state = State(self.genesis, Window(self.window, 100_000))
        for leaf in self.ledger:
            made = decode_record(leaf)
            state.apply(made, made.message(), parse_rfc3339(made.time))
        return state

    def restart(self) -> list[Record]:
        """Forget everything but the ledger; what was cut off is finished."""
        self.epoch += 1
        seq = len(self.ledger)
        self.desk = Desk(self.fold(), self.limits, "test/0", 0, self.epoch, seq, self.opener)
        if not self.ledger:
            return []
        last = decode_record(self.ledger[-1]).ingress
        return self._keep(self.desk.go_on(last, self.now))

    def submit(
        self, by: str, envelope: Envelope | bytes, *, cut: int | None = None
    ) -> list[Record]:
        """Submit something; the records that it causes, of which only the first `cut` are kept."""
        self.submitted += 1
        payload = envelope if isinstance(envelope, bytes) else encode(envelope)
        submission = Submission(self.submitted, self.now, by, payload)
        return self._keep(taken(self.desk, submission, self.now, self.leaf), cut)

    def _keep(self, entries: Any, cut: int | None = None) -> list[Record]:
        made: list[Record] = []
        for entry in filter(None, entries):
            if cut is not None and len(made) == cut:
                break
            self.ledger.append(entry.payload)
            made.append(entry.record)
        return made

    def leaf(self, seq: int) -> bytes:
        """A record of the ledger."""
        return self.ledger[seq - 1]

    def one(self, by: str, envelope: Envelope | bytes) -> Record:
        """Submit something that causes one record."""
        (made,) = self.submit(by, envelope)
        return made

    def control(self, by: str, to: str, data: Any = None, **attributes: Any) -> list[Record]:
        """Submit a command."""
        return self.submit(by, Envelope.new(to, data, kind="control", to=to, **attributes))

    def task(self, by: str, to: str, data: Any = None, **attributes: Any) -> Record:
        """Submit a task that causes one record."""
        return self.one(by, Envelope.new(to, data, kind="task", to=to, **attributes))

    def answer(self, by: str, task: Record, **attributes: Any) -> Record:
        """Submit a result of a task that causes one record."""
        return self.one(by, answering(task, **attributes))

    def grant(self, by: str, seq: int, verb: str = "grant", **changed: Any) -> list[Record]:
        """Agree to what a record holds, or with `refuse` do not."""
        hold = self.desk.state.holds.get(seq)
        assert hold or changed, f"record {seq} holds nothing"
        said = {
            "hold": seq,
            "message": hold.digest if hold else "sha256:" + "0" * 64,
            "bundle": self.desk.state.library.active,
            "blueprint": (hold.envelope.blueprint or "") if hold else "",
        }
        return self.control(by, f"approval.{verb}", said | changed)

    def activate(self, by: str, bundle: Bundle) -> list[Record]:
        """Put a bundle in force."""
        proposed = self.control(by, "policy.propose", {"files": dict(bundle.files)})
        assert proposed[0].verdict is Verdict.ALLOW, proposed[0].why
        return self.control(by, "policy.activate", {"bundle": bundle.digest})

    def tick(self) -> list[Record]:
        """Say that time has passed."""
        return self.control("tidegate.gateway", "clock.tick")
