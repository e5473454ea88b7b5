"""What another bundle would have said: what follows from the ledger, and what does not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from policy.office import ANN, ASKER, BOB, COORDINATOR, OPEN, OPERATOR, OUTSIDER, PAYER, Office
from policy.office import policies as bundle
from tidegate.bench.history import History, bundles
from tidegate_policy.bundle import Bundle
from tidegate_policy.replay import Finding, Outcome, Past, WhatIf
from tidegate_policy.roster import BUILT_IN
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import LedgerError
from tidegate_schemas.record import Reason, decode_record
from tidegate_schemas.subjects import Verdict

from .kit import by, changes, findings

CLOSED = '@id("operators") permit (principal, action in Action::"control", resource);'
NO_TASKS = '@id("no-tasks") forbid (principal, action in Action::"task", resource);'
SMALL = """
@id("small-ones")
permit (principal, action == Action::"task:pay.out", resource) when { context.data.amount < 100 };
"""
FACTS = "task:\n  pay.out:\n    amount: Long\n"


def payment(amount: object) -> Envelope:
    """A task with data."""
    return Envelope.new("pay.out", {"amount": amount, "ssn": "12"}, kind="task", to="pay.out")


def test_the_bundle_that_decided_changes_nothing() -> None:
    """Whatever the messages were: held, repeated, unreadable, stopped, over a limit."""
    entries = list(History(7).entries(1_500))
    leaves = [entry.payload for entry in entries]
    for texts in bundles():
        new = Bundle.of_files(texts)
        judge = WhatIf(Past(new.snapshot(BUILT_IN), changes(leaves)))
        own = [
            (seq, leaf)
            for seq, leaf in enumerate(leaves, 1)
            if entries[seq - 1].record.why.bundle == new.digest
        ]
        tally = judge.tally(own)
        assert tally.outcomes[Outcome.SAME] == len(own) > 490, tally.groups


def test_what_is_permitted_now_is_newly_allowed() -> None:
    """Whether a rule forbade it, or none permitted it; the new rule is named."""
    office = Office(bundle(OPEN, NO_TASKS))
    office.task(PAYER, "pay.out")
    closed = Office(bundle(CLOSED))
    closed.task(PAYER, "pay.out")

    assert findings(bundle(OPEN), office) == {1: Finding(Outcome.NEWLY_ALLOWED, ("all",))}
    assert findings(bundle(OPEN), closed) == {1: Finding(Outcome.NEWLY_ALLOWED, ("all",))}


def test_what_is_not_permitted_now_is_newly_denied() -> None:
    """By a rule that forbids it, which is named, or because none permits it."""
    office = Office(bundle(OPEN))
    office.task(PAYER, "pay.out")
    forbidden = Finding(Outcome.NEWLY_DENIED, ("no-tasks",), Reason.FORBIDDEN)

    assert findings(bundle(OPEN, NO_TASKS), office) == {1: forbidden}
    assert findings(bundle(CLOSED), office) == {
        1: Finding(Outcome.NEWLY_DENIED, (), Reason.NOT_PERMITTED)
    }


def test_what_no_policy_had_a_say_in_stays_as_it_was() -> None:
    """Unreadable, unknown sender or destination, expired, repeated, time."""
    office = Office(bundle(OPEN))
    office.one(PAYER, b"what?")
    office.task("nobody.here", "pay.out")
    office.task(PAYER, "no.such")
    office.task(PAYER, "pay.out", expirytime="2020-01-01T00:00:00Z")
    office.tick()
    first = Envelope.new("x", id="1")
    office.one(PAYER, first)
    office.one(PAYER, first)

    assert set(findings(bundle(CLOSED), office)) == {6}
    assert findings(bundle(OPEN), office) == {}


def test_facts_are_read_again_from_the_data() -> None:
    """What fits the rule, what does not, and what policy could not see."""
    office = Office(bundle(OPEN))
    for amount in (99, 100, "much"):
        office.one(PAYER, payment(amount))
    found = findings(bundle(CLOSED, SMALL, facts_yaml=FACTS), office)

    assert found == {
        2: Finding(Outcome.NEWLY_DENIED, (), Reason.NOT_PERMITTED),
        3: Finding(Outcome.NEWLY_DENIED, (), Reason.INVALID_FACTS),
    }


def test_a_fact_that_was_redacted_is_not_known() -> None:
    """Only where it was there: what was never said is as it was."""
    office = Office(bundle(OPEN.replace('@id("all")', '@id("all") @redact("/amount /no")')))
    office.one(PAYER, payment(1))
    office.task(PAYER, "pay.out", {"amounts": 1})
    found = findings(bundle(CLOSED, SMALL, facts_yaml=FACTS), office)

    assert found[1].outcome is Outcome.INDETERMINATE
    assert "/amount" in found[1].why
    assert found[2] == Finding(Outcome.NEWLY_DENIED, (), Reason.INVALID_FACTS)


def test_whether_a_denied_result_was_asked_for_is_not_known() -> None:
    """Policy was asked first; what was denied because nobody had asked stays as it was."""
    no_results = '@id("none") forbid (principal == Agent::"shop.asker", action, resource);'
    office = Office(bundle(OPEN, no_results))
    task = office.task(OUTSIDER, "pay.out")
    office.answer(ASKER, task)
    assert office.answer(OUTSIDER, task).why.reason == Reason.NOT_ASKED
    found = findings(bundle(OPEN), office)

    assert list(found) == [2]
    assert found[2].outcome is Outcome.INDETERMINATE
    assert "was given what it answers" in found[2].why


def test_a_limit_that_was_not_counted_is_not_known() -> None:
    """It is named; the same limit as then had room for what was admitted, and none for the rest."""
    limited = OPEN.replace('@id("all")', '@id("all") @rate_limit("1/1m")')
    free = Office(bundle(OPEN))
    free.task(PAYER, "pay.out")
    (finding,) = findings(bundle(limited), free).values()

    assert finding.outcome is Outcome.INDETERMINATE
    assert finding.policies == ("all",)
    assert "rate_limit:1/1m per agent" in finding.why

    counted = Office(bundle(limited))
    counted.task(PAYER, "pay.out")
    assert counted.task(PAYER, "pay.out").why.reason == Reason.RATE_LIMITED
    other = limited.replace("1/1m", "2/1m")

    assert findings(bundle(OPEN), counted) == {2: Finding(Outcome.NEWLY_ALLOWED, ("all",))}
    assert {f.outcome for f in findings(bundle(other), counted).values()} == {Outcome.INDETERMINATE}


def test_what_needs_an_approval_now_is_newly_held() -> None:
    """It counts where it was held; the record that ends the hold does not count again."""
    careful = OPEN.replace('@id("all")', '@id("all") @require_approval("1 of ops.ann")')
    careful = careful.replace("action,", 'action in Action::"task",')
    office = Office(bundle(OPEN))
    office.task(PAYER, "pay.out")

    assert findings(bundle(CLOSED, careful), office) == {1: Finding(Outcome.NEWLY_HELD, ("all",))}

    held = Office(bundle(CLOSED, careful))
    seq = held.task(PAYER, "pay.out").seq
    held.grant(ANN, seq)
    assert list(held.fold().holds) == []

    assert findings(bundle(CLOSED, careful), held) == {}
    assert findings(bundle(OPEN), held) == {1: Finding(Outcome.NEWLY_ALLOWED, ("all",))}
    assert findings(bundle(CLOSED), held) == {
        1: Finding(Outcome.NEWLY_DENIED, (), Reason.NOT_PERMITTED)
    }


def test_what_an_operator_had_stopped_is_held_and_not_allowed() -> None:
    """A rule does not let through what a pause holds, before and after."""
    office = Office(bundle(OPEN, NO_TASKS))
    office.control(BOB, "control.pause", {"target": "agent:pay.payer"})
    office.task(ASKER, "pay.out")
    office.control(BOB, "control.resume", {"target": "agent:pay.payer"})
    office.task(ASKER, "pay.out")
    found = findings(bundle(OPEN), office)

    assert found[2] == Finding(Outcome.NEWLY_HELD, ("all",), "agent:pay.payer was paused")
    assert found[4] == Finding(Outcome.NEWLY_ALLOWED, ("all",))
    assert set(found) == {2, 4}


def test_whether_a_command_could_be_followed_is_not_known() -> None:
    """The gateway looks at more than policy there; not so at words of others."""
    office = Office(bundle('@id("none") permit (principal, action in Action::"event", resource);'))
    office.control(OPERATOR, "control.pause", {"target": "bus"})
    office.control(OPERATOR, "run.start", {"blueprint": "x"})
    found = findings(bundle(OPEN), office)

    assert found[1].outcome is Outcome.INDETERMINATE
    assert "control.pause" in found[1].why
    assert found[2] == Finding(Outcome.NEWLY_ALLOWED, ("all",))


def test_everybody_on_whose_behalf_it_is_sent_must_be_permitted() -> None:
    """The right is that of all of them."""
    office = Office(bundle(OPEN))
    office.task(ASKER, "pay.out", onbehalfof=OUTSIDER)
    office.task(ASKER, "pay.out", onbehalfof=PAYER)
    new = bundle(
        OPEN, f'@id("not-for-it") forbid (principal == Agent::"{OUTSIDER}", action, resource);'
    )

    assert findings(new, office) == {
        1: Finding(Outcome.NEWLY_DENIED, ("not-for-it",), Reason.FORBIDDEN)
    }


def test_who_took_part_is_who_took_part_then() -> None:
    """Teams and roles are those of the time of the record, not of the end."""
    office = Office(bundle(OPEN))
    key = "U" + "A" * 55
    who = {"principal": "new.one", "role": "publisher", "keys": [key]}
    office.control(OPERATOR, "identity.register", who)
    office.one("new.one", Envelope.new("thing"))
    office.control(OPERATOR, "identity.register", {**who, "role": "operator"})
    office.one("new.one", Envelope.new("thing"))
    role = '@id("r") forbid (principal, action, resource) when { principal.role == "publisher" };'

    assert findings(bundle(OPEN, role), office) == {
        2: Finding(Outcome.NEWLY_DENIED, ("r",), Reason.FORBIDDEN)
    }


def test_the_blueprint_of_the_coordinator_is_known_by_its_name() -> None:
    """As it is registered before the record; nobody else is believed about it."""
    document = {
        "blueprint": "greet",
        "version": 1,
        "on": {"event": "x"},
        "steps": {"a": {"task": "pay.out"}},
    }
    blueprint = Blueprint.model_validate(document)
    office = Office(bundle(OPEN))
    office.control(COORDINATOR, "blueprint.register", {"document": blueprint.canonical})
    attributes = {"blueprint": blueprint.digest, "stepid": "a"}
    office.task(COORDINATOR, "pay.out", runid="r", **attributes)
    office.task(ASKER, "pay.out", **attributes)
    greet = '@id("g") forbid (principal, action, resource) when { context.blueprint == "greet" };'

    assert set(findings(bundle(OPEN, greet), office)) == {2}


def test_data_that_cannot_be_redacted_is_denied() -> None:
    """As the gateway does with `data_base64`."""
    office = Office(bundle(OPEN))
    office.one(PAYER, Envelope.new("thing", data_base64="AAAA"))
    office.one(PAYER, Envelope.new("thing", {"x": 1}))
    new = bundle(OPEN.replace('@id("all")', '@id("all") @redact("/x")'))

    assert findings(new, office) == {
        1: Finding(Outcome.NEWLY_DENIED, ("all",), Reason.INVALID_FACTS)
    }


def test_records_may_be_looked_at_from_anywhere() -> None:
    """In pieces, and in any order of them, it finds the same."""
    office = Office(bundle(OPEN))
    key = "U" + "A" * 55
    for number in range(8):
        who = {"principal": f"new.a{number}", "role": "publisher", "keys": [key]}
        office.control(OPERATOR, "identity.register", who)
        office.one(f"new.a{number}", Envelope.new("thing"))
        office.control(OPERATOR, "identity.revoke", {"principal": f"new.a{number}"})
    new = bundle(OPEN, '@id("t") forbid (principal in Team::"new", action, resource);')
    expected = findings(new, office)
    entries = list(enumerate(office.ledger, 1))
    judge = by(new, office)
    pieces = [entries[begin : begin + 5] for begin in range(0, len(entries), 5)]
    random.Random(1).shuffle(pieces)
    found: set[int] = set()
    for piece in pieces:
        found |= {seq for group in judge.tally(piece).groups.values() for seq in group.examples}

    assert len(expected) == 8
    assert found == set(expected)


def test_what_is_no_record_is_an_error_of_the_ledger() -> None:
    """With its sequence; whether among the commands or among the rest."""
    office = Office(bundle(OPEN))
    judge = by(bundle(OPEN), office)
    for payload in (b"", b"{}", b"[1]", b'{"in":{"n":"x"}}', b"\xff"):
        with pytest.raises(LedgerError, match="ledger record 9 is not of a gateway"):
            judge.tally([(9, payload)])
        with pytest.raises(LedgerError, match="ledger record 9 is not of a gateway"):
            Past(office.genesis, [(9, payload)])


def test_another_bundle_says_what_a_gateway_would_have_said_under_it() -> None:
    """The same submissions, decided by a desk under the other bundle, end as what-if says.

    Without commands, so that both bundles see the same ledger, and without limits.
    """
    rng = random.Random(3)
    rules = [
        OPEN,
        NO_TASKS,
        '@id("e") permit (principal in Team::"shop", action in Action::"event", resource);',
        '@id("t") permit (principal, action in Action::"task", resource) when {!context.in_run};',
        '@id("d") forbid (principal, action, resource) when { context.delegated };',
        '@id("c") forbid (principal, action, resource) '
        'when { context has dataclassification && context.dataclassification == "secret" };',
        '@id("q") @require_approval("1 of ops.ann") '
        'permit (principal in Team::"pay", action, resource);',
        '@id("l") @learn("") permit (principal in Team::"outside", action, resource);',
        '@id("s") @shadow("") forbid (principal, action, resource);',
        SMALL,
    ]
    submissions: list[tuple[str, Envelope]] = []
    for number in range(150):
        more: dict[str, Any] = {
            "onbehalfof": rng.choice([None, None, PAYER, f"{OUTSIDER},{PAYER}"]),
            "dataclassification": rng.choice([None, None, "secret"]),
            "runid": rng.choice([None, "r"]),
        }
        kind, to = rng.choice([("task", "pay.out"), ("task", "shop.ask"), ("event", "thing")])
        data = {"amount": rng.choice([1, 1000, "x"])}
        envelope = Envelope.new(to, data, id=str(number), kind=kind, to=to, **more)
        submissions.append((rng.choice([PAYER, ASKER, OUTSIDER]), envelope))

    words = {
        Outcome.NEWLY_ALLOWED: Verdict.ALLOW,
        Outcome.NEWLY_DENIED: Verdict.DENY,
        Outcome.NEWLY_HELD: Verdict.HOLD,
    }
    differing = 0
    for _ in range(40):
        old, new = (
            bundle(
                *rng.sample(rules, rng.randint(1, 6)), SMALL.replace("small", n), facts_yaml=FACTS
            )
            for n in ("x", "y")
        )
        before, after = Office(old), Office(new)
        for who, envelope in submissions:
            before.one(who, encode(envelope))
            after.one(who, encode(envelope))
        found = findings(new, before)
        for seq, (was, now) in enumerate(zip(_verdicts(before), _verdicts(after), strict=True), 1):
            expected = words[found[seq].outcome] if seq in found else was
            assert now is expected, (seq, was, found.get(seq))
        differing += len(found)

    assert differing > 500


def _verdicts(office: Office) -> list[Verdict]:
    return [decode_record(leaf).verdict for leaf in office.ledger]
