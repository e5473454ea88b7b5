"""Who may answer: whoever was given the task or the event, and nobody else."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES
from policy.office import (
    ANN,
    ASKER,
    BOB,
    COORDINATOR,
    OPEN,
    OPERATOR,
    OUTSIDER,
    PAYER,
    Office,
    answering,
    policies,
)
from tidegate_policy.asked import Asked, Forgotten
from tidegate_policy.replay import Conformance
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Reason, Record, decode_record
from tidegate_schemas.subjects import Kind, Verdict

HELD = f"""
@id("rest") permit (principal, action, resource) unless {{ action in Action::"%s" }};
@id("held") @require_approval("1 of {ANN}") permit (principal, action in Action::"%s", resource);
"""


def conforms(office: Office) -> bool:
    """Whether every verdict follows from the ledger, also for an auditor of little memory."""
    for most in (1, 1_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tidegate_policy.state.Asked", partial(Asked, most, most))
            check = Conformance((office.window, 100_000), office.leaf, start=office.genesis)
        if any(check.add(seq, leaf) for seq, leaf in enumerate(office.ledger, 1)):
            return False
    return True


def forget(office: Office, kept: int = 0) -> None:
    """Have its gateway know no more than after a start long after the last record."""
    office.desk.state.asked = asked = Asked(kept, kept)
    for leaf in office.ledger[-1:]:
        last = decode_record(leaf)
        asked.apply(last, last.message())


def said(record: Record) -> str:
    """Verdict and reason."""
    return f"{record.verdict} {record.why.reason}"


@pytest.mark.parametrize("by", [ASKER, OUTSIDER, COORDINATOR, OPERATOR, ANN, "tidegate.probe"])
def test_nobody_else_answers_a_task_whatever_policy_permits(by: str) -> None:
    """Neither another agent nor who asked, nor people: all are told whose it is."""
    office = Office(policies(OPEN))
    task = office.task(ASKER, "pay.out")
    denied = office.answer(by, task)
    detail = denied.why.facts["detail"]

    assert said(denied) == "deny not_asked"
    assert detail == f"pay.out is provided by {PAYER}, not by {by}"
    assert said(office.answer(PAYER, task)) == "allow permitted"
    assert conforms(office)


@pytest.mark.parametrize(
    "change",
    [
        {"answers": None},
        {"answers": "2"},  # a task of somebody else
        {"answers": "3"},  # an event
        {"answers": "4"},  # a task that was denied
        {"answers": "5"},  # the result itself
        {"answers": "9999999999999999"},
        {"causationid": "other"},
        {"causationid": None},
        {"to": ANN},
        {"causationsource": "tidegate"},
        {"answers": "3", "causationid": "happened", "causationsource": "here"},
        {"answers": "3", "causationid": "happened", "causationsource": "there", "to": PAYER},
    ],
)
def test_a_result_must_name_what_it_answers(change: dict[str, Any]) -> None:
    """Record, sender and id must be those of one message; else the provider is denied too."""
    office = Office(policies(OPEN))
    task = office.task(ASKER, "pay.out", id="t")
    office.task(ANN, "pay.check", id="t")
    office.one(ASKER, Envelope.new("happened.so", id="happened", source="there"))
    office.task(ASKER, "pay.none", id="t")
    denied = office.answer(PAYER, task, **change)

    assert said(denied) == "deny not_asked"
    assert "`answers`" in denied.why.facts["detail"]
    assert conforms(office)


def test_who_hears_an_event_may_say_what_became_of_it() -> None:
    """A dead letter names the event by source and id; who does not subscribe to it has no say."""
    office = Office(policies(OPEN))
    event = office.one(OUTSIDER, Envelope.new("some.thing", id="1", source="/shop"))
    letter = office.answer(PAYER, event, type="tidegate.deadletter")
    stranger = office.answer(ASKER, event, type="tidegate.deadletter")

    assert said(letter) == "allow permitted"
    assert stranger.why.facts["detail"] == f"{ASKER} does not subscribe to some.thing"
    assert conforms(office)


def test_the_policy_is_asked_first() -> None:
    """Who may not send results at all is told that, and costs no look into the ledger."""
    office = Office(policies(f'@id("a") permit (principal == Agent::"{ASKER}", action, resource);'))
    task = office.task(ASKER, "pay.out")
    forget(office)

    assert said(office.answer(PAYER, task)) == "deny not_permitted"


def test_a_task_that_was_held_is_answered_by_its_release() -> None:
    """The record that was delivered counts, not the one in which it waited."""
    office = Office(policies(HELD % ("task", "task")))
    held = office.task(ASKER, "pay.out")
    early = office.answer(PAYER, held)
    _, released = office.grant(ANN, held.seq)

    assert said(early) == "deny not_asked"
    assert said(office.answer(PAYER, released)) == "allow permitted"
    assert conforms(office)


def test_a_result_that_waits_was_looked_at_before() -> None:
    """One of somebody else never waits; who has lost the capability meanwhile had answered."""
    office = Office(policies(HELD % ("result", "result")))
    task = office.task(ASKER, "pay.out")
    forged, held = office.answer(ASKER, task), office.answer(PAYER, task)
    office.control(BOB, "identity.register", {"principal": PAYER, "role": "agent", "keys": ["U"]})
    forget(office)
    _, released = office.grant(ANN, held.seq)

    assert [said(forged), said(held)] == ["deny not_asked", "hold approval_required"]
    assert said(released) == "allow approved"
    assert conforms(office)


def test_a_capability_that_goes_to_another_agent_takes_its_answers_along() -> None:
    """From the record on that says so; a second answer of who may is one more."""
    office = Office(policies(OPEN))
    task = office.task(OUTSIDER, "pay.out")
    first = office.answer(PAYER, task, id="1")
    without = {"principal": PAYER, "role": "agent", "keys": ["U"]}
    office.control(BOB, "identity.register", without)
    nobody = office.answer(PAYER, task, id="2")
    office.control(
        BOB, "identity.register", without | {"principal": ASKER, "capabilities": ["pay.out"]}
    )
    then = [office.answer(by, task, id="3") for by in (PAYER, ASKER)]

    assert said(first) == "allow permitted"
    assert nobody.why.facts["detail"] == f"pay.out is provided by nobody, not by {PAYER}"
    assert [said(one) for one in then] == ["deny not_asked", "allow permitted"]
    assert conforms(office)


STEP = st.tuples(
    st.sampled_from(["task", "event", "answer", "answer", "answer", "restart", "forget"]),
    st.sampled_from([PAYER, ASKER, OUTSIDER]),
    st.sampled_from(["pay.out", "shop.ask"]),
    st.integers(0, 200),
    st.booleans(),
)


@EXAMPLES
@given(st.lists(STEP, max_size=50), st.integers(0, 3))
def test_whoever_was_asked_may_answer_however_much_is_forgotten(
    steps: list[tuple[str, str, str, int, bool]], kept: int
) -> None:
    """Judged by the whole ledger, while the gateway keeps next to nothing and starts again.

    What it decides is what a gateway that has forgotten nothing would have decided.
    """
    office = Office(policies(OPEN))
    providers = {"pay.out": PAYER, "shop.ask": ASKER}
    for number, (what, by, to, pick, wrong) in enumerate(steps):
        given_ = [decode_record(leaf) for leaf in office.ledger]
        match what:
            case "task":
                office.task(by, to, id=str(number % 3), source=str(number))
            case "event":
                office.one(by, Envelope.new("some.thing", id=str(number % 3), source=str(number)))
            case "answer" if given_:
                cause = given_[pick % len(given_)]
                more = {"answers": str(pick + 1)} if wrong else {}
                record = office.one(by, answering(cause, id=f"a{number}", **more))
                message = record.message()
                assert message
                named = int(message.answers or 0)
                there = given_[named - 1] if named <= len(given_) else cause
                right = there.seq == cause.seq == named and cause.verdict is Verdict.ALLOW
                if cause.kind is Kind.TASK:
                    right = right and providers[cause.to] == by
                else:
                    right = right and cause.kind is Kind.EVENT and by == PAYER
                assert record.verdict is (Verdict.ALLOW if right else Verdict.DENY)
                assert right or record.why.reason == Reason.NOT_ASKED
            case "restart":
                office.restart()
            case _:
                forget(office, kept)
    assert conforms(office)


def test_what_is_kept_is_bounded() -> None:
    """However many tasks and events there are, and however many old ones are asked for."""
    office = Office(policies(OPEN))
    office.desk.state.asked = asked = Asked(5, 2)
    for number in range(40):
        office.task(ASKER, "pay.out", id=f"{number}")
        office.one(ASKER, Envelope.new("some.thing", id=f"{number}"))

    assert len(asked) == 7
    with pytest.raises(Forgotten):
        asked.find(1, event=False)
    for seq in range(1, 20_000):
        asked.recall(seq, None)
    assert len(asked) == 7 + 10_000
