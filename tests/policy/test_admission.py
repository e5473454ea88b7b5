"""No sequence of fault, restart and reload ever admits what the bundle in force denies."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policy.kit import EXAMPLES
from policy.office import ANN, ASKER, BOB, CY, OUTSIDER, PAYER, SECOND, Office, policies
from tidegate_policy.bundle import Bundle
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.identity import Role
from tidegate_schemas.record import Record, decode_record
from tidegate_schemas.subjects import Kind, Verdict

SENDERS = (ASKER, OUTSIDER, PAYER)
TOPICS = ("t.a", "t.b", "t.c")
OPERATORS = """
@id("operators") permit (principal, action in Action::"control", resource)
when { principal.role == "operator" };
"""
PERMITTED = (
    {(ASKER, "t.a"), (OUTSIDER, "t.b")},
    {(ASKER, "t.a"), (ASKER, "t.b"), (PAYER, "t.c"), (OUTSIDER, "t.c")},
    {(OUTSIDER, "t.a"), (OUTSIDER, "t.b"), (OUTSIDER, "t.c")},
    set[tuple[str, str]](),
)
"""What each bundle permits as a table, against which the ledger is judged."""
APPROVED = ("t.b", "t.c")
"""Topics that take one operator's approval under the bundles with an odd number."""


def bundle(number: int) -> Bundle:
    """A bundle that says in Cedar what the table says."""
    texts = [OPERATORS]
    for by, to in sorted(PERMITTED[number]):
        approval = '@require_approval("1 of role operator within 1h")'
        texts.append(
            f'@id("{by} {to}") {approval if needs_approval(number, to) else ""} '
            f'permit (principal == Agent::"{by}", action in Action::"event", '
            f'resource == Topic::"{to}");'
        )
    return policies(*texts)


def needs_approval(number: int, to: str) -> bool:
    """Whether somebody must agree, under a bundle."""
    return bool(number % 2) and to in APPROVED


BUNDLES = [bundle(number) for number in range(len(PERMITTED))]
BROKEN = {"files": {"0.cedar": '@id("x") permit (principal, action, resource) when { 1 };'}}


class Admission(RuleBasedStateMachine):
    """A gateway at work, and a model that knows nothing of how it works."""

    def __init__(self) -> None:
        super().__init__()
        self.office = Office(BUNDLES[0])
        self.judged = 0
        self.number = 0
        self.members = set(SENDERS)
        self.stopped: dict[str, str] = {}
        self.agreed: dict[int, set[int]] = {}
        self.envelopes: list[tuple[str, Envelope]] = []
        self.count = 0

    def see(self, made: list[Record]) -> None:
        """Follow what the ledger says, record by record, and judge what it let through."""
        for leaf in self.office.ledger[self.judged :]:
            record = decode_record(leaf)
            if record.verdict is Verdict.ALLOW:
                if record.kind is Kind.CONTROL:
                    self.follow(record)
                elif record.kind is Kind.EVENT:
                    self.judge(record)
        self.judged = len(self.office.ledger)

    def judge(self, record: Record) -> None:
        """An admitted event must be one that the table of now permits."""
        assert (record.by, record.to) in PERMITTED[self.number]
        assert record.why.bundle == BUNDLES[self.number].digest
        assert record.by in self.members
        assert self.stopped.get("bus") is None
        assert self.stopped.get(f"agent:{record.by}") in (None, "pause")
        if needs_approval(self.number, record.to):
            assert record.first is not None
            assert self.number in self.agreed[record.first]

    def follow(self, record: Record) -> None:
        """What an admitted command changes in the model."""
        message = record.message()
        assert message
        data: Any = message.payload()
        match record.to.split("."):
            case "policy", "activate":
                digests = [b.digest for b in BUNDLES]
                self.number = digests.index(data["bundle"])
            case "identity", "revoke":
                self.members.discard(data["principal"])
            case "identity", "register":
                self.members.add(data["principal"])
            case "control", "resume" | "release":
                del self.stopped[data["target"]]
            case "control", word:
                self.stopped[data["target"]] = word
            case "approval", "grant":
                self.agreed.setdefault(data["hold"], set()).add(self.number)
            case _:
                pass

    @rule(by=st.sampled_from(SENDERS), to=st.sampled_from(TOPICS))
    def send(self, by: str, to: str) -> None:
        """Something new."""
        self.count += 1
        envelope = Envelope.new(to, id=str(self.count))
        self.envelopes.append((by, envelope))
        self.see(self.office.submit(by, envelope))

    @precondition(lambda self: len(self.envelopes) > 0)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """Something that was sent before."""
        by, envelope = data.draw(st.sampled_from(self.envelopes))
        self.see(self.office.submit(by, envelope))

    @rule(number=st.integers(0, len(BUNDLES) - 1), by=st.sampled_from([ANN, BOB, ASKER]))
    def reload(self, number: int, by: str) -> None:
        """Another bundle, perhaps by somebody who may not."""
        files = dict(BUNDLES[number].files)
        self.see(self.office.control(by, "policy.propose", {"files": files}))
        activation = {"bundle": BUNDLES[number].digest}
        self.see(self.office.control(by, "policy.activate", activation))

    @rule()
    def reload_what_is_broken(self) -> None:
        """It stays out."""
        (made,) = self.office.control(ANN, "policy.propose", BROKEN)
        assert made.verdict is Verdict.DENY

    @rule(who=st.sampled_from(SENDERS), verb=st.sampled_from(["register", "revoke"]))
    def change_identity(self, who: str, verb: str) -> None:
        """Somebody comes or goes."""
        role = Role.AGENT if who != OUTSIDER else Role.PUBLISHER
        register = {"principal": who, "role": role, "keys": ["U"]}
        data = register if verb == "register" else {"principal": who}
        self.see(self.office.control(ANN, f"identity.{verb}", data))

    @rule(
        verb=st.sampled_from(["pause", "resume", "quarantine", "release", "kill"]),
        what=st.sampled_from(["bus", *(f"agent:{who}" for who in SENDERS)]),
        cut=st.sampled_from([None, None, 1, 2, 3]),
    )
    def control(self, verb: str, what: str, cut: int | None) -> None:
        """Stop or go on; perhaps killed in the middle of what that releases."""
        to = f"control.{verb}"
        envelope = Envelope.new(to, {"target": what}, kind="control", to=to)
        self.see(self.office.submit(ANN, envelope, cut=cut))
        if cut is not None:
            self.restart()

    @precondition(lambda self: len(self.office.desk.state.holds) > 0)
    @rule(
        data=st.data(),
        by=st.sampled_from([ANN, BOB, CY, ASKER, OUTSIDER]),
        verb=st.sampled_from(["grant", "grant", "refuse"]),
    )
    def decide_on_hold(self, data: st.DataObject, by: str, verb: str) -> None:
        """Somebody agrees or does not, perhaps who may not."""
        hold = data.draw(st.sampled_from(list(self.office.desk.state.holds)))
        self.see(self.office.grant(by, hold.seq, verb))

    @rule(seconds=st.sampled_from([1, 600, 3600]))
    def wait(self, seconds: int) -> None:
        """Time passes, and the gateway says so."""
        self.office.now += seconds * SECOND
        self.see(self.office.tick())

    @rule()
    def restart(self) -> None:
        """The gateway is killed, and starts from its ledger."""
        self.see(self.office.restart())

    @invariant()
    def a_restart_would_change_nothing(self) -> None:
        """What the gateway knows is what the ledger says."""
        state, again = self.office.desk.state, self.office.fold()
        assert again.roster == state.roster
        assert again.controls == state.controls
        assert again.library.active == state.library.active
        assert list(again.holds) == list(state.holds)

    def teardown(self) -> None:
        """Every submission has its record, and every hold at most one end."""
        ends = [decode_record(leaf).first for leaf in self.office.ledger if b'"n":0' not in leaf]
        assert len(ends) == len(set(ends))


TestAdmission = Admission.TestCase
TestAdmission.settings = settings(EXAMPLES, max_examples=60, stateful_step_count=40)
