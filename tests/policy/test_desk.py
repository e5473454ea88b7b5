"""What is held, agreed to, stopped, limited and put in force, from submission to record."""

from __future__ import annotations

from typing import Any

import pytest

from policy.office import (
    ANN,
    ASKER,
    BOB,
    COORDINATOR,
    CY,
    OPEN,
    OUTSIDER,
    PAYER,
    SECOND,
    Office,
    policies,
)
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Reason, Record
from tidegate_schemas.subjects import Verdict

ALLOW, DENY, HOLD = Verdict.ALLOW, Verdict.DENY, Verdict.HOLD
REST = '@id("rest") permit (principal, action, resource) unless { context.to == "pay.out" };'
TWO_OF_THREE = policies(
    REST
    + f'@id("pay") @require_approval("2 of {ANN} {BOB} {CY} within 1h")'
    + 'permit (principal, action in Action::"task", resource == Capability::"pay.out");'
)


def said(records: list[Record]) -> list[tuple[Verdict, str]]:
    """Verdicts and reasons."""
    return [(made.verdict, made.why.reason) for made in records]


def refused(records: list[Record]) -> str:
    """Why a command was not followed."""
    (made,) = records
    assert (made.verdict, made.why.reason) == (DENY, Reason.INVALID_COMMAND)
    return str(made.why.facts["detail"])


@pytest.mark.parametrize("restarts", [False, True])
def test_two_of_three_release_what_is_held(restarts: bool) -> None:
    """The second agreement is followed at once by the message itself, from its own sender."""
    office = Office(TWO_OF_THREE)
    held = office.task(ASKER, "pay.out", {"amount": 5})
    assert said([held]) == [(HOLD, Reason.APPROVAL_REQUIRED)]
    for who, expected in ((ANN, []), (BOB, [(ALLOW, Reason.APPROVED)])):
        if restarts:
            assert office.restart() == []
        done = office.grant(who, held.seq)
        assert said(done[1:]) == expected
    released = done[1]
    assert (released.by, released.first, released.ingress.n) == (ASKER, held.seq, 1)
    assert released.envelope == held.envelope
    assert released.why.facts["approved"] == [ANN, BOB]
    assert len(office.fold().holds) == 0


def test_an_approval_is_used_once() -> None:
    """What was released is not released again, whoever agrees to it."""
    office = Office(TWO_OF_THREE)
    held = office.task(ASKER, "pay.out")
    hold = office.desk.state.holds.get(held.seq)
    assert hold
    office.grant(ANN, held.seq)
    office.grant(BOB, held.seq)
    again = office.grant(CY, held.seq, message=hold.digest)
    assert refused(again) == f"record {held.seq} holds nothing, or not any more"


def test_who_may_not_agree() -> None:
    """Not who asked, nor on whose behalf, nor a stranger, nor anybody twice."""
    office = Office(TWO_OF_THREE)
    own = office.task(ANN, "pay.out")
    assert "cannot agree to it too" in refused(office.grant(ANN, own.seq))
    behalf = office.task(ASKER, "pay.out", onbehalfof=BOB)
    assert "cannot agree to it too" in refused(office.grant(BOB, behalf.seq))
    assert "none of those who are asked" in refused(office.grant(OUTSIDER, own.seq))
    office.grant(BOB, own.seq)
    assert refused(office.grant(BOB, own.seq)) == f"{BOB} has agreed already"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"message": "sha256:" + "1" * 64}, "another message"),
        ({"bundle": "sha256:" + "1" * 64}, "the policies have changed"),
        ({"blueprint": "sha256:" + "1" * 64}, "another blueprint"),
        ({"hold": 1}, "holds nothing"),
    ],
)
def test_an_approval_is_of_one_message_under_one_policy(changed: dict[str, Any], why: str) -> None:
    """Whatever it is bound to must be what waits."""
    office = Office(TWO_OF_THREE)
    office.task(ASKER, "pay.check")
    held = office.task(ASKER, "pay.out")
    assert why in refused(office.grant(ANN, held.seq, **changed))


def test_approvals_do_not_outlive_the_policy_they_were_given_under() -> None:
    """Under the next bundle everybody is asked again; the hold itself stays."""
    office = Office(TWO_OF_THREE)
    held = office.task(ASKER, "pay.out")
    office.grant(ANN, held.seq)
    comment = policies(TWO_OF_THREE.files["0.cedar"] + "// no change but the digest")
    assert said(office.activate(ANN, comment)) == [(ALLOW, Reason.PERMITTED)]
    assert said(office.grant(BOB, held.seq)) == [(ALLOW, Reason.PERMITTED)]
    assert said(office.grant(ANN, held.seq))[1:] == [(ALLOW, Reason.APPROVED)]


def test_what_the_policies_of_now_forbid_is_not_released() -> None:
    """Approvals are for what policy permits with them; it is asked again at the end."""
    office = Office(TWO_OF_THREE)
    held = office.task(ASKER, "pay.out")
    text = TWO_OF_THREE.files["0.cedar"]
    forbid = '@id("stop") forbid (principal, action, resource == Capability::"pay.out");'
    office.activate(ANN, policies(text + forbid))
    assert said(office.grant(ANN, held.seq))[1:] == [(DENY, Reason.FORBIDDEN)]


def test_one_refusal_ends_it() -> None:
    """Whoever is asked may say no for all."""
    office = Office(TWO_OF_THREE)
    held = office.task(ASKER, "pay.out")
    office.grant(ANN, held.seq)
    assert said(office.grant(CY, held.seq, "refuse"))[1:] == [(DENY, Reason.APPROVAL_REFUSED)]


def test_nobody_agrees_after_the_time() -> None:
    """A late approval is refused, and the next tick denies what waited."""
    office = Office(TWO_OF_THREE)
    held = office.task(ASKER, "pay.out")
    office.grant(ANN, held.seq)
    office.task(ASKER, "pay.check")
    office.now += 3600 * SECOND
    office.restart()
    assert "the time to agree" in refused(office.grant(BOB, held.seq))
    assert said(office.tick()) == [
        (ALLOW, Reason.TIME_PASSED),
        (DENY, Reason.APPROVAL_EXPIRED),
    ]
    assert said(office.tick()) == [(ALLOW, Reason.TIME_PASSED)]


def test_only_the_gateway_tells_the_time() -> None:
    """Nobody else makes others wait shorter."""
    office = Office(TWO_OF_THREE)
    assert refused(office.control(ANN, "clock.tick")) == "the time is told by the gateway itself"


def test_what_waits_is_known_for_longer_than_the_window() -> None:
    """Sent again after a day it is a duplicate of the hold, and not held twice."""
    office = Office(TWO_OF_THREE, window=60.0)
    message = Envelope.new("pay.out", kind="task", to="pay.out", id="same")
    held = office.one(ASKER, message)
    office.now += 600 * SECOND
    office.restart()
    assert office.one(ASKER, message).first == held.seq


@pytest.mark.parametrize(
    ("command", "target", "sent", "verdict", "reason"),
    [
        ("pause", "bus", "pay.check", HOLD, Reason.PAUSED),
        ("pause", f"agent:{PAYER}", "pay.check", HOLD, Reason.PAUSED),
        ("pause", "team:pay", "pay.check", HOLD, Reason.PAUSED),
        ("pause", "capability:pay.check", "pay.check", HOLD, Reason.PAUSED),
        ("pause", "run:r1", "pay.check", HOLD, Reason.PAUSED),
        ("quarantine", f"agent:{PAYER}", "pay.check", HOLD, Reason.QUARANTINED),
        ("quarantine", f"agent:{ASKER}", "pay.check", HOLD, Reason.QUARANTINED),
        ("kill", f"agent:{ASKER}", "pay.check", DENY, Reason.KILLED),
        ("kill", "team:shop", "pay.check", DENY, Reason.KILLED),
        ("pause", f"agent:{ASKER}", "pay.check", ALLOW, Reason.PERMITTED),
        ("pause", "capability:pay.out", "pay.check", ALLOW, Reason.PERMITTED),
        ("kill", "team:other", "pay.check", ALLOW, Reason.PERMITTED),
    ],
)
def test_a_control_stops_what_it_touches(
    command: str, target: str, sent: str, verdict: Verdict, reason: str
) -> None:
    """Pause holds new work, quarantine both ways, kill denies; nothing else is touched."""
    office = Office(policies(OPEN))
    assert said(office.control(ANN, f"control.{command}", {"target": target}))[0][0] is ALLOW
    office.restart()
    made = office.task(ASKER, sent, runid="r1")
    assert said([made]) == [(verdict, reason)]


def test_parked_work_is_released_in_order_and_once() -> None:
    """Cut off at any record, the next start goes on where the last one stopped."""
    for cut in range(1, 7):
        office = Office(policies(OPEN))
        office.control(ANN, "control.quarantine", {"target": f"agent:{PAYER}"})
        held = [office.task(ASKER, "pay.check", {"n": n}) for n in range(5)]
        resume = Envelope.new(
            "control.release", {"target": f"agent:{PAYER}"}, kind="control", to="control.release"
        )
        done = office.submit(ANN, resume, cut=cut)
        done += office.restart()
        assert said(done[1:]) == [(ALLOW, Reason.RELEASED)] * 5
        assert [made.first for made in done[1:]] == [made.seq for made in held]
        assert [made.ingress.n for made in done] == [0, 1, 2, 3, 4, 5]
        assert office.restart() == []


def test_a_kill_denies_what_was_parked() -> None:
    """It does not come back when the kill ends."""
    office = Office(policies(OPEN))
    office.control(ANN, "control.pause", {"target": f"agent:{PAYER}"})
    office.task(ASKER, "pay.check")
    killed = office.control(ANN, "control.kill", {"target": f"agent:{PAYER}"})
    assert said(killed[1:]) == [(DENY, Reason.KILLED)]
    assert len(office.control(ANN, "control.release", {"target": f"agent:{PAYER}"})) == 1


def test_what_two_controls_stop_waits_for_both() -> None:
    """The end of one releases nothing that the other still stops."""
    office = Office(policies(OPEN))
    office.control(ANN, "control.pause", {"target": "bus"})
    office.control(ANN, "control.quarantine", {"target": "team:pay"})
    office.task(ASKER, "pay.check")
    assert len(office.control(ANN, "control.resume", {"target": "bus"})) == 1
    assert len(office.control(ANN, "control.release", {"target": "team:pay"})) == 2


def test_operators_can_always_end_what_they_began() -> None:
    """A paused or killed bus still takes commands."""
    office = Office(policies(OPEN))
    office.control(ANN, "control.kill", {"target": "bus"})
    assert said([office.task(ASKER, "pay.check")]) == [(DENY, Reason.KILLED)]
    assert said(office.control(ANN, "control.release", {"target": "bus"}))[0][0] is ALLOW


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("agent:tidegate.gateway", "the bus's own parts"),
        ("team:tidegate", "the bus's own parts"),
        ("agent", "is no target"),
        ("nothing:x", "is no target"),
        ("bus:", "is no target"),
        ("team:pay", "is not stopped"),
    ],
)
def test_a_command_that_means_nothing_is_not_admitted(target: str, why: str) -> None:
    """Its receipt says what is wrong."""
    office = Office(policies(OPEN))
    assert why in refused(office.control(ANN, "control.resume", {"target": target}))


def test_what_auditors_say_is_admitted_as_it_is_meant() -> None:
    """A replay or an export that says nothing is refused; of one that does nothing follows."""
    office = Office(policies(OPEN))
    replay = {"first": 1, "last": 3, "mode": "conformance", "report": "sha256:" + "0" * 64}
    (made,) = office.control(ANN, "audit.replay", replay)
    assert made.verdict is ALLOW
    assert "no part" in refused(office.control(ANN, "audit.replay", {**replay, "first": 9}))
    assert "`mode`" in refused(office.control(ANN, "audit.export", replay))


def test_a_command_may_need_two_people() -> None:
    """`@require_approval` on a command: it takes effect when the second one agrees."""
    two = policies(
        '@id("kill") @require_approval("1 of role operator within 10m") '
        'permit (principal, action in Action::"control", resource == Command::"control.kill");'
        '@id("rest") permit (principal, action, resource)'
        'unless { context.to == "control.kill" };'
    )
    office = Office(two)
    (held,) = office.control(ANN, "control.kill", {"target": f"agent:{PAYER}"})
    assert said([held, office.task(ASKER, "pay.out")]) == [
        (HOLD, Reason.APPROVAL_REQUIRED),
        (ALLOW, Reason.PERMITTED),
    ]
    assert "cannot agree" in refused(office.grant(ANN, held.seq))
    assert said(office.grant(BOB, held.seq))[1:] == [(ALLOW, Reason.APPROVED)]
    office.restart()
    assert said([office.task(ASKER, "pay.out")]) == [(DENY, Reason.KILLED)]


def test_policies_switch_between_two_records() -> None:
    """The record of the activation is the last one under the old bundle."""
    old, new = (
        policies(OPEN),
        policies(
            OPEN + '@id("no") forbid (principal, action, resource) '
            'when { context.to == "pay.check" };'
        ),
    )
    office = Office(old)
    (record,) = office.activate(ANN, new)
    assert record.why.bundle == old.digest
    office.restart()
    after = office.task(ASKER, "pay.check")
    assert (after.verdict, after.why.bundle) == (DENY, new.digest)
    (back,) = office.control(ANN, "policy.activate", {"bundle": new.digest}, id="again")
    assert refused([back]) == f"{new.digest} is in force already"


def test_a_broken_bundle_leaves_the_old_one_in_force() -> None:
    """Nothing that does not load can be proposed, and only what was proposed be activated."""
    office = Office(policies(OPEN))
    broken = office.control(ANN, "policy.propose", {"files": {"a.cedar": "permit (principal"}})
    assert "a.cedar" in refused(broken)
    unknown = {"bundle": "sha256:" + "0" * 64}
    assert "was proposed" in refused(office.control(ANN, "policy.activate", unknown))
    assert office.task(ASKER, "pay.check").why.bundle == policies(OPEN).digest


def test_nobody_locks_everybody_out() -> None:
    """A bundle under which the next one could not be activated does not come into force."""
    office = Office(policies(OPEN))
    closed = policies('@id("a") permit (principal, action in Action::"task", resource);')
    assert "nobody could go back" in refused(office.activate(ANN, closed))


def test_a_report_may_be_demanded() -> None:
    """And it must be about this change; of the first bundle there is nothing to compare."""
    from tidegate_policy.decide import Limits

    old, new = policies(OPEN), policies(OPEN + "// new")
    office = Office(policies(OPEN + "// first"), limits=Limits(256 * 1024, report=True))
    assert said(office.activate(ANN, old)) == [(ALLOW, Reason.PERMITTED)]
    assert "demand a report" in refused(office.activate(ANN, new))
    report = {"digest": "sha256:" + "0" * 64, "before": old.digest, "after": new.digest}
    counts = dict.fromkeys(
        ("first", "last", "newly_allowed", "newly_denied", "newly_held", "indeterminate"), 0
    )
    other = report | counts | {"after": old.digest}
    said_ = office.control(ANN, "policy.activate", {"bundle": new.digest, "report": other})
    assert "about another change" in refused(said_)
    good = {"bundle": new.digest, "report": report | counts}
    assert said(office.control(ANN, "policy.activate", good)) == [(ALLOW, Reason.PERMITTED)]


def test_rights_shrink_along_the_chain() -> None:
    """Who acts for somebody may do what both may."""
    rules = policies(
        '@id("ask") permit (principal == Agent::"shop.asker", action in Action::"task", resource);'
        '@id("out") permit (principal == Agent::"outside.website", action in Action::"task", '
        'resource == Capability::"pay.check") when { context.delegated };'
    )
    office = Office(rules)
    assert office.task(ASKER, "pay.out").verdict is ALLOW
    assert office.task(OUTSIDER, "pay.check").verdict is DENY
    both = office.task(ASKER, "pay.check", onbehalfof=OUTSIDER)
    assert (both.verdict, both.why.policies) == (ALLOW, ("ask", "out"))
    assert office.task(ASKER, "pay.out", onbehalfof=OUTSIDER).verdict is DENY
    for chain in ("nobody.here", "x", f"{OUTSIDER},{OUTSIDER}", ""):
        if chain:
            made = office.task(ASKER, "pay.check", onbehalfof=chain)
            assert made.why.reason == Reason.INVALID_DELEGATION


def test_the_coordinator_asks_for_what_the_blueprint_declares() -> None:
    """A step's task is the capability written there; any other is denied whatever is permitted."""
    from tidegate_schemas.blueprint import Blueprint

    blueprint = Blueprint.model_validate(
        {"blueprint": "refund", "version": 1, "steps": {"check": {"task": "pay.check"}}}
    )
    office = Office(policies(OPEN))
    office.control(COORDINATOR, "blueprint.register", {"document": blueprint.canonical})
    office.restart()
    about = {"blueprint": blueprint.digest, "stepid": "check", "runid": "r"}
    assert office.task(COORDINATOR, "pay.check", **about).verdict is ALLOW
    for wrong in ({}, {"stepid": "other"}, {"blueprint": "sha256:x"}):
        to = "pay.check" if wrong else "pay.out"
        made = office.task(COORDINATOR, to, **(about | wrong))
        assert said([made]) == [(DENY, Reason.OUTSIDE_BLUEPRINT)]
    office.control(ANN, "control.pause", {"target": "blueprint:refund"})
    assert office.task(COORDINATOR, "pay.check", **about).verdict is HOLD


def test_what_belongs_to_a_run_that_is_over_is_not_released() -> None:
    """The coordinator's word that a run ended denies what it still waits for."""
    office = Office(TWO_OF_THREE)
    office.task(COORDINATOR, "pay.out", runid="r")
    ended = office.submit(COORDINATOR, Envelope.new("run.finished", runid="r"))
    assert said(ended[1:]) == [(DENY, Reason.RUN_OVER)]


def test_learning_marks_what_only_it_permits() -> None:
    """What another policy permits too is no news."""
    rules = policies(
        '@id("learn") @learn("") permit (principal, action, resource);'
        '@id("known") permit (principal, action, resource == Capability::"pay.out");'
    )
    office = Office(rules)
    assert office.task(ASKER, "pay.check").why.reason == Reason.LEARNED
    assert office.task(ASKER, "pay.out").why.reason == Reason.PERMITTED


def test_a_shadow_decides_and_does_nothing() -> None:
    """Its verdict stands in the record, and the message goes its way."""
    rules = policies(
        OPEN + '@id("strict") @shadow("") forbid (principal, action, resource) '
        'when { context.to == "pay.out" };'
    )
    office = Office(rules)
    made = office.task(ASKER, "pay.out")
    assert made.verdict is ALLOW
    assert made.why.facts["shadow"] == {"verdict": "deny", "policies": ["strict"]}
    assert office.task(ASKER, "pay.check").why.facts == {}


def test_redacted_fields_never_reach_the_ledger() -> None:
    """Neither of what is admitted, nor denied, nor repeated; the rest stays byte for byte."""
    rules = policies(
        '@id("a") @redact("/ssn /cards/0/number") permit (principal, action, resource) '
        'unless { context.type == "no" };'
    )
    office = Office(rules)
    data = '{"ssn":"123-45","n":1.10,"cards":[{"number":4111,"x":1e2},{"number":5}]}'
    for type_, by, name in (("a", ASKER, "1"), ("no", ASKER, "2"), ("a", ASKER, "1")):
        raw = f'{{"specversion":"1.0","id":"{name}","source":"s","type":"{type_}","data":{data}}}'
        office.one(by, raw.encode())
    office.one("no.body", raw.encode())
    for leaf in office.ledger[:1] + office.ledger[2:]:
        assert b"123-45" not in leaf
        assert b"4111" not in leaf
        assert b'"n":1.10' in leaf
        assert b'{"number":5}' in leaf


def test_what_was_agreed_to_in_time_does_not_expire_in_a_pause() -> None:
    """It waits for the operator only, however long that takes, and then goes on."""
    office = Office(TWO_OF_THREE)
    held = office.task(ASKER, "pay.out")
    office.control(CY, "control.pause", {"target": "bus"})
    for who in (ANN, BOB):
        assert len(office.grant(who, held.seq)) == 1
    office.now += 7200 * SECOND
    assert office.desk.state.overdue(office.now) == []
    assert len(office.tick()) == 1
    assert said(office.control(CY, "control.resume", {"target": "bus"}))[1:] == [
        (ALLOW, Reason.APPROVED)
    ]
