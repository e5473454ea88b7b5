"""Rates and budgets: what is admitted never exceeds them, whatever is lost or killed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES
from policy.office import ANN, ASKER, COORDINATOR, OPEN, PAYER, SECOND, Office, policies
from tidegate_policy.obligations import NANO, amount, amount_text, parse, read
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidPolicy
from tidegate_schemas.record import Reason, Record, decode_record
from tidegate_schemas.subjects import Verdict

REST = '@id("rest") permit (principal, action, resource) unless { context.to == "pay.out" };'


def office(*obligations: str, **more: Any) -> Office:
    """Where `pay.out` bears these."""
    pay = f'@id("pay") {" ".join(obligations)} permit (principal, action, resource) '
    return Office(policies(REST + pay + 'when { context.to == "pay.out" };'), **more)


def pay(at: Office, name: str, by: str = ASKER, **attributes: Any) -> Record:
    """Ask for a payment."""
    return at.task(by, "pay.out", id=name, **attributes)


def answer(at: Office, name: str, by: str = PAYER, **attributes: Any) -> None:
    """The result of a payment."""
    records = [decode_record(leaf) for leaf in at.ledger]
    allowed = (r for r in records if r.verdict is Verdict.ALLOW)
    task = next(r for r in allowed if (m := r.message()) and m.id == name)
    at.answer(by, task, **{"id": f"answer {name} {at.submitted}"} | attributes)


def admitted(at: Office, *names: str) -> list[bool]:
    """Ask for several; which were let through."""
    return [pay(at, name).verdict is Verdict.ALLOW for name in names]


def test_a_rate_is_kept_over_restarts_and_begins_anew_with_its_window() -> None:
    """What was denied does not count; the next window is a fresh one."""
    at = office('@rate_limit("2/1m")')
    assert admitted(at, "1", "2", "3") == [True, True, False]
    at.restart()
    last = pay(at, "4")
    assert last.why.reason == Reason.RATE_LIMITED
    assert last.why.facts["detail"] == "2 of rate_limit:2/1m per agent#pay"
    assert pay(at, "5", by=ANN).verdict is Verdict.ALLOW
    at.now += 60 * SECOND
    assert admitted(at, "6", "7", "8") == [True, True, False]


def test_the_strictest_limit_wins() -> None:
    """Of one policy and of several that match; a plain permit beside them takes nothing away."""
    at = office('@rate_limit("5/1m; 3/1h")')
    assert admitted(at, *"abcd") == [True, True, True, False]
    both = Office(
        policies(
            '@id("a") @rate_limit("3/1m") permit (principal, action, resource);'
            '@id("b") @rate_limit("1/1m per bus") permit (principal, action, resource);' + OPEN
        )
    )
    assert admitted(both, "1", "2") == [True, False]


def test_a_budget_is_reserved_settled_and_refunded() -> None:
    """A result frees what it did not spend, a failure all of it."""
    at = office('@budget("usd:1/1d reserve 0.4")')
    assert admitted(at, "1", "2", "3") == [True, True, False]
    answer(at, "1", costs="usd:0.1")
    at.restart()
    assert admitted(at, "4", "5") == [True, False]
    answer(at, "2", type="tidegate.deadletter")
    assert admitted(at, "6") == [True]


def test_a_result_that_does_not_say_what_it_cost_has_cost_what_was_reserved() -> None:
    """Silence gives nothing back."""
    at = office('@budget("usd:1/1d reserve 0.5")')
    assert admitted(at, "1", "2") == [True, True]
    answer(at, "1")
    assert admitted(at, "3") == [False]


def test_only_who_was_asked_settles() -> None:
    """Nobody else's dead letter frees a budget; it is not even admitted."""
    at = office('@budget("usd:1/1d reserve 1")')
    pay(at, "1")
    answer(at, "1", by=ASKER, type="tidegate.deadletter")
    assert admitted(at, "2") == [False]
    answer(at, "1", type="tidegate.deadletter")
    assert admitted(at, "3") == [True]


def test_what_answers_an_event_settles_no_task() -> None:
    """A task and an event may have the same id; who gives the event up frees nothing."""
    at = office('@budget("usd:1/1d reserve 1")')
    pay(at, "1")
    answer(at, "1", type="tidegate.deadletter", causationsource="/shop")
    assert admitted(at, "2") == [False]


def test_a_sender_may_say_that_it_costs_more_never_less() -> None:
    """`costs` of a task raises what is reserved."""
    at = office('@budget("usd:1/1d reserve 0.5")')
    assert pay(at, "1", costs="usd:0.0").verdict is Verdict.ALLOW
    assert pay(at, "2", costs="usd:0.6").why.reason == Reason.OVER_BUDGET
    assert pay(at, "3", costs="usd:0.5,tokens:9").verdict is Verdict.ALLOW


def test_time_is_measured_by_the_gateway() -> None:
    """`seconds` is from the task's record to that of its result, whatever anybody says."""
    at = office('@budget("seconds:100/1d reserve 60")')
    pay(at, "1")
    at.now += 10 * SECOND
    answer(at, "1", costs="seconds:0")
    assert admitted(at, "2", "3") == [True, False]
    at.now += 25 * SECOND
    answer(at, "2")
    assert admitted(at, "4", "5") == [True, False]


def test_what_is_held_has_reserved_and_gives_back_when_it_is_denied() -> None:
    """An approval admits what fits for sure; its refusal refunds."""
    at = office('@budget("usd:1/1d reserve 1")', f'@require_approval("1 of {ANN}")')
    held = pay(at, "1")
    assert pay(at, "2").why.reason == Reason.OVER_BUDGET
    at.restart()
    at.grant(ANN, held.seq, "refuse")
    assert pay(at, "3").verdict is Verdict.HOLD


def test_a_run_has_a_budget_of_its_own_until_it_ends() -> None:
    """Only the coordinator is believed about runs."""
    at = office('@budget("messages:2 per run")')
    for run in ("r1", "r2"):
        asked = [pay(at, f"{run}{n}", COORDINATOR, runid=run) for n in range(3)]
        assert [made.verdict is Verdict.ALLOW for made in asked] == [True, True, False]
    others = [pay(at, f"o{n}", ASKER, runid=f"made-up-{n}") for n in range(3)]
    assert [made.verdict is Verdict.ALLOW for made in others] == [True, True, False]
    at.one(COORDINATOR, Envelope.new("run.finished", runid="r1"))
    at.restart()
    assert pay(at, "again", COORDINATOR, runid="r1").verdict is Verdict.ALLOW


@EXAMPLES
@given(st.integers(0, 10**24))
def test_amounts_are_exact(billionths: int) -> None:
    """What is written is what was counted."""
    assert amount(amount_text(billionths)) == billionths
    assert amount_text(NANO) == "1"


STEP = st.one_of(
    st.tuples(st.just("task"), st.sampled_from(["0", "0.3", "0.7", "2"])),
    st.tuples(st.just("result"), st.sampled_from(["0", "0.1", "0.5"])),
    st.tuples(st.just("failure"), st.just("")),
    st.tuples(st.just("restart"), st.just("")),
    st.tuples(st.just("wait"), st.sampled_from(["1", "1800", "3600"])),
)


@EXAMPLES
@given(st.lists(STEP, max_size=60), st.randoms(use_true_random=False))
def test_no_window_spends_more_than_its_budget(steps: list[tuple[str, str]], random: Any) -> None:
    """Whatever comes back, or does not, in whichever order, and however often it is restarted.

    Judged by a model of its own: each task that was let through spent what its result said, or
    what it had reserved; a result never says more than that.
    """
    at = office('@budget("usd:3/1h reserve 0.5")')
    spent: dict[str, int] = {}
    window: dict[str, int] = {}
    unanswered: list[str] = []
    for number, (what, value) in enumerate(steps):
        match what:
            case "task":
                name = str(number)
                if pay(at, name, costs=f"usd:{value}").verdict is Verdict.ALLOW:
                    spent[name] = max(amount(value), amount("0.5"))
                    window[name] = at.now // (3600 * SECOND)
                    unanswered.append(name)
            case "result" | "failure" if unanswered:
                name = unanswered.pop(random.randrange(len(unanswered)))
                failed = what == "failure"
                spent[name] = 0 if failed else amount(value)
                more = {"type": "tidegate.deadletter"} if failed else {"costs": f"usd:{value}"}
                answer(at, name, **more)
            case "restart":
                at.restart()
            case "wait":
                at.now += int(value) * SECOND
            case _:
                pass
        for hour in set(window.values()):
            total = sum(spent[name] for name, at_hour in window.items() if at_hour == hour)
            assert total <= amount("3")


def test_a_reserve_above_its_limit_is_refused() -> None:
    """Nothing would ever fit, which nobody means."""
    with pytest.raises(InvalidPolicy, match="nothing would ever fit"):
        office('@budget("usd:1/1d reserve 2")')


def test_every_obligation_is_read_back_from_its_record() -> None:
    """Whatever the id of its policy holds; so `#` stands in no pointer, where it is cut."""
    texts = {
        "rate_limit": "2/1m per team",
        "budget": "usd:1/1d per bus reserve 0.5",
        "require_approval": "1 of role operator within 1h",
        "redact": "/a/b",
    }
    found = parse("permit", {"id": "a#b: c", **texts})
    limits = (*found.rates, *found.budgets, *found.approvals)
    assert {text: read(text) for text in map(str, limits)} == {str(one): one for one in limits}
    assert "redact:/a/b#a#b: c" in found.texts()
    with pytest.raises(ValueError, match="without #"):
        parse("permit", {"id": "a", "redact": "/a#b"})
