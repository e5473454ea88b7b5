"""Cases: what a test of a bundle says becomes of a message is what the gateway does with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from policy.kit import NOW, PERMIT, submission
from tidegate_policy.bundle import Bundle, load_bundle
from tidegate_policy.bundle.cases import Case, Placed, judge, read_cases, unmet
from tidegate_policy.decide import Decision, Limits, decide, record
from tidegate_policy.roster import BUILT_IN, Roster
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.record import Reason, Record
from tidegate_schemas.subjects import Kind, Verdict

SAMPLE = Path(__file__).parents[1] / "samples" / "payments" / "policy"
ROSTER = Roster.of(
    [
        *BUILT_IN.members.values(),
        Registration("outside.shop", Role.PUBLISHER),
        Registration("outside.mail", Role.PUBLISHER),
        Registration(
            "payments.clerk", Role.AGENT, ("payments.pay", "payments.refund", "payments.quote")
        ),
        Registration("support.desk", Role.AGENT, ("support.reply", "support.lookup")),
        Registration("support.triage", Role.AGENT, ("support.classify",)),
        Registration("research.analyst", Role.AGENT, ("research.search", "research.summarise")),
    ]
)
BUNDLE = load_bundle(SAMPLE)
CASES, _ = read_cases(BUNDLE.files)


def envelope(case: Case) -> Envelope:
    """The message of a case, as its sender would publish it."""
    kind, to = case.goes
    return Envelope.new(
        case.type or to,
        case.data,
        kind=str(kind),
        to=to,
        runid="run" if case.run else None,
        dataclassification=case.dataclassification,
        onbehalfof=",".join(case.onbehalfof) or None,
    )


def asked(by: str, to: str) -> Record:
    """The first record of a ledger: somebody asks for something."""
    task = Envelope.new(to, id="task", kind="task", to=to)
    given = submission(encode(task), by=by)
    decision = Decision(Verdict.ALLOW, Reason.PERMITTED, Kind.TASK, to, envelope=task)
    return record(decision, given, "", log="test/0", seq=1, epoch=1, now=NOW)


@pytest.mark.parametrize(
    "placed",
    [one for one in CASES if not one.case.blueprint and one.case.control is None],
    ids=lambda placed: placed.case.name,
)
def test_the_gateway_does_what_a_test_says(placed: Placed) -> None:
    """Verdict, reason, policies and obligations are those of the record that it writes.

    Of messages without a blueprint: which step asks for what, the ledger of a run says. Of a
    command, the gateway looks also at what it says; of a result, at who was asked.
    """
    snapshot = BUNDLE.snapshot(placed.roster or ROSTER)
    state, given = State(snapshot, Window(600, 10)), placed.case.by
    message = envelope(placed.case)
    kind, to = placed.case.goes
    if kind is Kind.RESULT:
        task = asked(to, snapshot.roster.members[given].capabilities[0])
        state.asked.apply(task, task.message())
        message = msgspec.structs.replace(message, causationid="task", answers="1")

    decision = decide(state, Limits(100_000), submission(encode(message), by=given), NOW)

    outcome = judge(snapshot, placed.case)
    assert (outcome.verdict, outcome.reason, outcome.policies) == (
        decision.verdict,
        decision.reason,
        decision.policies,
    )
    if decision.policies:
        assert outcome.obligations == decision.obligations
    assert not unmet(placed.case, outcome)


def case(**fields: object) -> Case:
    """A case with what it needs."""
    return Case.model_validate(
        {"name": "n", "by": "a.b", "event": "x", "expect": "allow", **fields}
    )


def test_what_is_not_met_is_told() -> None:
    """Every expectation by itself, with what is so instead."""
    rules = PERMIT.replace("permit", '@rate_limit("1/1m") permit')
    snapshot = Bundle.of_files({"a.cedar": rules}).snapshot(
        Roster.of([Registration("a.b", Role.AGENT)])
    )
    outcome = judge(snapshot, case())

    assert not unmet(case(policies=["everything"]), outcome)
    told = unmet(
        case(expect="deny", reason="forbidden", policies=[], obligations=["redact:/x#y"]), outcome
    )
    assert told == [
        "expected deny, is allow",
        "expected the reason forbidden, is permitted",
        "expected decided by nothing, is everything",
        "expected obligations redact:/x#y, is rate_limit:1/1m per agent#everything",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- name: a\n  by: a.b\n  event: x\n  expect: maybe", "tests/a.yaml:4: [0].expect: "),
        ("- name: a\n  by: a.b\n  event: x\n  expct: allow", "tests/a.yaml:4: [0].expct: unknown"),
        ("- name: a\n  by: a\n  event: x\n  expect: allow", "tests/a.yaml:2: [0].by: principal"),
        ("- name: a\n  by: a.b\n  expect: allow", "tests/a.yaml:1: [0]: one of `task`, `event`"),
        (
            "- name: a\n  by: a.b\n  event: x\n  task: y\n  expect: allow",
            "tests/a.yaml:1: [0]: one of `task`, `event`",
        ),
        (
            "- name: a\n  by: a.b\n  task: y\n  blueprint: b\n  expect: allow",
            "tests/a.yaml:4: [0].blueprint: only of messages by tidegate.coordinator",
        ),
        ("cases: []\nroster:\n  - { nam: a.b }", "tests/a.yaml:3: roster[0].nam: unknown field"),
        ("x: [", "tests/a.yaml:"),
    ],
)
def test_a_wrong_case_is_told_with_its_line(text: str, told: str) -> None:
    """A slip in a test would otherwise be a test that proves nothing."""
    cases, (error,) = read_cases({"tests/a.yaml": text, "a.cedar": "not yaml ["})

    assert not cases
    assert told in str(error)
