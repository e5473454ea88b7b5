"""What senders and operators could try with what the gateway keeps, redacts and looks at."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from policy.kit import NOW
from policy.office import (
    ANN,
    ASKER,
    BOB,
    COORDINATOR,
    OPEN,
    OUTSIDER,
    PAYER,
    SECOND,
    Office,
    policies,
)
from tidegate_bus.ingress import Submission
from tidegate_policy import holds
from tidegate_policy.bundle import Bundle
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import InvalidPolicy
from tidegate_schemas.record import Reason
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import run_id

SECRET = b"4111222233334444"
REDACTING = '@id("r") @redact("/card/number /list/0") permit (principal, action, resource);'
HOUR = 3600 * SECOND


def written(data: str, name: str = "1", **more: str) -> bytes:
    """An envelope with data that is written by hand."""
    extra = "".join(f',"{key}":"{value}"' for key, value in more.items())
    text = f'{{"specversion":"1.0","id":"{name}","source":"s","type":"t","data":{data}{extra}}}'
    return text.encode()


def hides(office: Office) -> bool:
    """Whether the secret is nowhere in the ledger, in no form that somebody could have sent."""
    forms = [SECRET, base64.b64encode(SECRET)[:20]]
    return not any(form in leaf for leaf in office.ledger for form in forms)


@pytest.mark.parametrize(
    "data",
    [
        '{"card":{"number":%s},"card":{}}',
        '{"card":{"number":%s},"card":5}',
        '{"card":{"number":%s},"c\\u0061rd":{"number":1}}',
        '{"card":{"number":%s,"number":1}}',
        '{ "card" : { "x" : 1, "numb\\u0065r" : %s } }',
        '{"list":[%s],"list":[]}',
        '{"list":[%s,2],"card":null}',
    ],
)
def test_no_way_of_writing_a_field_gets_it_past_its_redaction(data: str) -> None:
    """Not twice, not with escapes, not in the first of two objects of the same name."""
    office = Office(policies(REDACTING))
    assert office.one(ASKER, written(data % SECRET.decode())).verdict is Verdict.ALLOW
    assert hides(office)


def test_what_nobody_can_look_into_is_not_kept_where_something_is_redacted() -> None:
    """Neither `data_base64`, nor what is no envelope at all; its digest says what it was."""
    office = Office(policies(REDACTING))
    opaque = base64.b64encode(SECRET).decode()
    asked = Envelope.new("t", data_base64=opaque, id="1")
    assert office.one(ASKER, asked).why.reason == Reason.INVALID_FACTS
    assert office.one(ASKER, asked).verdict is Verdict.DUPLICATE
    data = f'{{"card":{{"number":{SECRET.decode()}}}}}'
    for broken in (written(data, zzz="1"), written(data).replace(b'"type":"t",', b"")):
        made = office.one(ASKER, broken)
        assert (made.verdict, made.raw) == (Verdict.REJECT, None)
        assert made.why.facts["sha256"]
        raw = base64.b64encode(broken)
        assert not any(raw in leaf for leaf in office.ledger)
    assert hides(office)


def test_a_chain_that_may_not_is_redacted_for_everybody_in_it() -> None:
    """The rule that redacts may be one for the sender, or for whom it speaks."""
    office = Office(
        policies(
            '@id("a") @redact("/card/number") '
            f'permit (principal == Agent::"{ASKER}", action, resource);'
        )
    )
    data = f'{{"card":{{"number":{SECRET.decode()}}}}}'
    for by, behalf in ((ASKER, OUTSIDER), (OUTSIDER, ASKER), (ASKER, "no.body")):
        made = office.one(by, written(data, name=f"{by}{behalf}", onbehalfof=behalf))
        assert made.verdict is Verdict.DENY
    assert hides(office)


def test_redaction_leaves_commands_to_the_bus_whole() -> None:
    """Or no gateway could follow its own ledger any more; other controls are redacted."""
    fields = "/target /files /bundle /hold /principal /input"
    office = Office(policies(f'@id("r") @redact("{fields}") permit (principal, action, resource);'))
    (made,) = office.control(ANN, "control.pause", {"target": "team:pay"})
    assert (made.verdict, made.why.obligations) == (Verdict.ALLOW, ())
    office.activate(ANN, policies(OPEN + "//"))
    (made,) = office.control(ANN, "control.pause", {"target": "agent"})
    assert made.why.reason == Reason.INVALID_COMMAND
    office.restart()
    assert office.task(ASKER, "pay.check").verdict is Verdict.HOLD
    redacting = Office(policies(REDACTING.replace("/card/number", "/input")))
    redacting.control(ANN, "run.start", {"blueprint": "b", "input": SECRET.decode()})
    assert hides(redacting)


def test_an_id_used_again_refunds_nothing_of_the_first() -> None:
    """What was held under it and is denied gives back what it took itself, and no more."""
    office = Office(
        policies(
            '@id("pay") @budget("usd:1/1d reserve 1") permit (principal, action, resource) '
            'when { context.to == "pay.out" };'
            f'@id("ask") @require_approval("1 of {BOB} within 1m") permit (principal, action, '
            'resource) when { context.to == "ask" };'
            '@id("rest") permit (principal, action, resource) '
            'unless { ["pay.out", "ask"].contains(context.to) };'
        ),
        window=60.0,
    )
    assert office.task(ASKER, "pay.out", id="x").verdict is Verdict.ALLOW
    office.now += 61 * SECOND
    held = office.one(ASKER, Envelope.new("ask", id="x"))
    assert held.verdict is Verdict.HOLD
    office.grant(BOB, held.seq, "refuse")
    assert office.task(ASKER, "pay.out", id="y").why.reason == Reason.OVER_BUDGET


def test_nobody_agrees_to_what_a_run_asks_that_they_started() -> None:
    """Also where the run does not ask on their behalf, so that nothing in it names them."""
    blueprint = Blueprint.model_validate(
        {"blueprint": "refund", "version": 1, "steps": {"pay": {"task": "pay.out"}}}
    )
    office = Office(
        policies(
            f'@id("a") @require_approval("1 of {ANN} {BOB}") permit (principal, action, resource) '
            'when { context.to == "pay.out" };'
            '@id("b") permit (principal, action, resource) unless { context.to == "pay.out" };'
        )
    )
    office.control(COORDINATOR, "blueprint.register", {"document": blueprint.canonical})
    held = office.task(
        COORDINATOR,
        "pay.out",
        blueprint=blueprint.digest,
        runid=run_id(blueprint.digest, ANN, "somewhere", "start"),
        causationid="start",
        causationsource="somewhere",
        stepid="pay",
    )
    (own,) = office.grant(ANN, held.seq)
    assert own.why.facts["detail"] == f"{ANN} has asked for it, and cannot agree to it too"
    assert office.grant(BOB, held.seq)[-1].why.reason == Reason.APPROVED


def test_a_clock_that_is_set_back_does_not_fill_a_budget_again() -> None:
    """Not by going back over the border of a window, as often as one likes."""
    office = Office(policies('@id("a") @rate_limit("2/1h") permit (principal, action, resource);'))
    office.now = NOW + HOUR
    verdicts: list[Verdict] = []
    for step in (-SECOND, 2 * SECOND, -2 * SECOND, 2 * SECOND):
        office.now += step
        verdicts += [office.one(ASKER, Envelope.new("x.y")).verdict for _ in range(3)]
        office.restart()
    assert verdicts.count(Verdict.ALLOW) == 4
    office.now += HOUR
    assert office.one(ASKER, Envelope.new("x.y")).verdict is Verdict.ALLOW


def test_results_that_never_come_do_not_fill_the_memory() -> None:
    """What they had reserved is forgotten with its window, also where the next one is in use."""
    office = Office(
        policies(
            '@id("a") @budget("usd:1000000/1m reserve 0.01") permit (principal, action, resource);'
        ),
        window=1.0,
    )
    for _ in range(60):
        for _ in range(200):
            office.task(ASKER, "pay.out")
        office.now += 60 * SECOND
    assert len(office.desk.state.meters) < 5_000


def test_however_much_waits_the_gateway_can_do_something_else() -> None:
    """Between two records it looks at one thing that waits, then lets others have a turn."""
    office = Office(policies(OPEN))
    office.control(ANN, "control.pause", {"target": f"agent:{PAYER}"})
    for _ in range(50):
        office.task(ASKER, "pay.check")
    pause = Envelope.new("control.pause", {"target": "bus"}, kind="control", to="control.pause")
    steps = list(office.desk.take(Submission(99, office.now, ANN, encode(pause)), office.now))
    assert [step is None for step in steps] == [False] + [True] * 50


@pytest.mark.parametrize(("most", "size"), [("MAX_HELD", 1), ("MAX_HELD_BYTES", 150)])
def test_no_sender_takes_all_room_for_what_waits(
    monkeypatch: pytest.MonkeyPatch, most: str, size: int
) -> None:
    """Each gets no more than is left for others; what ends makes room again."""
    monkeypatch.setattr(holds, most, 8 * size)
    office = Office(policies(OPEN))
    office.control(ANN, "control.pause", {"target": "bus"})
    waiting = {
        by: [office.task(by, "pay.check").verdict for _ in range(9)].count(Verdict.HOLD)
        for by in (ASKER, OUTSIDER, BOB)
    }
    assert waiting[ASKER] > waiting[OUTSIDER] > 0 < waiting[BOB]
    assert sum(waiting.values()) < 9
    office.restart()
    assert office.task(ASKER, "pay.check").why.reason == Reason.TOO_MANY_HELD
    office.control(ANN, "control.resume", {"target": "bus"})
    office.control(ANN, "control.pause", {"target": "team:pay"})
    assert office.task(ASKER, "pay.check").verdict is Verdict.HOLD


@pytest.mark.parametrize(
    ("to", "data"),
    [
        ("approval.grant", {"hold": 2**63}),
        ("approval.grant", {"hold": "1"}),
        ("policy.activate", {"bundle": "sha256:x"}),
        ("policy.activate", {"bundle": None, "report": []}),
        ("policy.propose", {"files": {"../a.cedar": "permit"}}),
        ("policy.propose", {"files": {"a.cedar": 1}}),
        ("policy.propose", {"files": {}}),
        ("control.kill", {"target": ["bus"]}),
        ("control.kill", {"target": "run:\x00"}),
        ("identity.register", {"principal": "a.b", "role": "gateway", "keys": []}),
        ("identity.register", []),
    ],
)
def test_odd_commands_are_denied_and_nothing_else(to: str, data: Any) -> None:
    """Whatever their data is, they have a record, and the gateway goes on."""
    office = Office(policies(OPEN))
    (made,) = office.control(ANN, to, data)
    assert (made.verdict, made.why.reason) == (Verdict.DENY, Reason.INVALID_COMMAND)
    office.restart()
    assert office.task(ASKER, "pay.check").verdict is Verdict.ALLOW


def test_numbers_that_python_would_not_print_are_denied() -> None:
    """Integers of thousands of digits, as JSON lets one write them."""
    office = Office(policies(OPEN))
    for number in ("9" * 5_000, "1e999", "-1", "1.5", "18446744073709551616"):
        text = f'{{"hold":{number},"message":"sha256:{"0" * 64}","bundle":"sha256:{"0" * 64}"}}'
        grant = written(text, name=number[:20] + str(len(number)), kind="control")
        made = office.one(ANN, grant.replace(b'"kind"', b'"to":"approval.grant","kind"'))
        assert made.verdict is Verdict.DENY, number[:20]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000 + "true" + ")" * 100_000,
        "!" * 100_000 + "true",
        "true && " * 50_000 + "true",
        "if true then true else " * 10_000 + "true",
        "[" * 100_000 + "1" + "]" * 100_000,
        '{"a":' * 20_000 + "1" + "}" * 20_000,
    ],
    ids=["parentheses", "nots", "ands", "ifs", "sets", "records"],
)
def test_no_policy_is_too_deep_for_the_gateway(text: str) -> None:
    """Neither does it crash, nor is such a bundle proposed."""
    office = Office(policies(OPEN))
    rule = f'@id("a") permit (principal, action, resource) when {{ {text} }};'
    (made,) = office.control(ANN, "policy.propose", {"files": {"a.cedar": rule}})
    assert made.verdict in (Verdict.DENY, Verdict.REJECT)


def test_of_many_faults_the_first_are_told() -> None:
    """So that a file of nothing but faults is read once, not once for each of them."""
    with pytest.raises(InvalidPolicy) as raised:
        Bundle.of_files({"a.cedar": ";\n" * 50_000})
    assert len(raised.value.problems) <= 21
