"""One run as a value: every rule, and that no order of facts breaks any."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tidegate_agents.run import (
    MAX_UNITS,
    Announce,
    Announced,
    Cancelled,
    Dispatch,
    Dispatched,
    Fact,
    Failed,
    Held,
    Refused,
    Run,
    Succeeded,
    TimedOut,
    Timer,
    Unit,
    advance,
    due,
    start,
)
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.clock import rfc3339

SECOND = 1_000_000_000
NOON = 1_769_860_800 * SECOND
AGENT = "crew.worker"


def begin(
    steps: dict[str, Any], input: Any = None, output: str | None = None, run_id: str = "r"
) -> Run:
    """A run at NOON of a blueprint whose steps ask for their own name, unless they say else."""
    with_task = {name: {"task": name, **step} for name, step in steps.items()}
    blueprint = Blueprint.model_validate(
        {"blueprint": "b", "version": 7, "steps": with_task, "output": output}
    )
    return start(run_id, blueprint, "corr", input, {"by": "ops.alice"}, NOON)


def sent(run: Run, step: str, index: int = 0, attempt: int = 1, time: int = NOON) -> Run:
    """The run after a task of it was admitted."""
    return advance(run, Dispatched(step, index, attempt, time, AGENT))


def done(run: Run, step: str, output: Any = None, index: int = 0, attempt: int = 1) -> Run:
    """The run after a task of it was admitted and answered."""
    run = sent(run, step, index, attempt)
    return advance(run, Succeeded(step, index, attempt, NOON, AGENT, output))


def ids(run: Run) -> list[str]:
    """The commands of a run, by their ids."""
    return [command.id for command in due(run)]


def unit(run: Run, step: str, index: int = 0) -> Unit:
    """One unit of a step."""
    return run.steps[step].units[index]


def test_a_run_starts_with_the_steps_that_need_nothing() -> None:
    """They are due at once, in the order in which they are written; the others wait."""
    run = begin({"b": {}, "c": {"needs": ["a", "b"]}, "a": {"with": {"k": "v"}}})

    assert run.status == "running"
    assert (
        Dispatch("r", "b", 0, 1, "b", {}, NOON),
        Dispatch("r", "a", 0, 1, "a", {"k": "v"}, NOON),
    ) == due(run)
    assert run.steps["c"].status == "waiting"
    assert run.blueprint.digest == run.digest


def test_commands_have_ids_that_follow_from_the_run() -> None:
    """Task, timer and announcement: run, step, index, attempt, and what it is."""
    run = begin({"a": {}})

    assert ids(run) == ["r:a:0:1"]
    assert ids(sent(run, "a")) == ["r:a:0:1:timeout"]
    assert ids(done(run, "a")) == ["r:finished"]


def test_a_task_that_was_admitted_has_a_deadline() -> None:
    """It is the time of the record and the timeout of the step."""
    run = sent(begin({"a": {"timeout": "90s"}}), "a", time=NOON + 5)

    assert (Timer("r", "a", 0, 1, NOON + 5 + 90 * SECOND),) == due(run)
    assert unit(run, "a").provider == AGENT


def test_a_step_begins_when_all_its_needs_have_ended() -> None:
    """One of two is not enough."""
    run = begin({"a": {}, "b": {}, "c": {"needs": ["a", "b"]}})
    run = done(run, "a")
    assert ids(run) == ["r:b:0:1"]

    assert ids(done(run, "b")) == ["r:c:0:1"]


def test_a_run_ends_with_its_last_step() -> None:
    """Its output is that of the last step written, whichever ended last."""
    run = begin({"a": {}, "b": {}})
    run = done(done(run, "b", {"x": 1}), "a", 2)

    assert run.status == "succeeded"
    assert run.output == {"x": 1}
    assert (Announce("r", "succeeded", {"x": 1}, None),) == due(run)


def test_the_output_expression_sees_every_step() -> None:
    """Also steps that do not need each other."""
    run = begin({"a": {}, "b": {}}, output="[steps.a.output, steps.b.status, input]", input="i")

    assert done(done(run, "b", 2), "a", 1).output == [1, "succeeded", "i"]


def test_an_output_that_does_not_evaluate_fails_the_run() -> None:
    """Though every step succeeded."""
    run = done(begin({"a": {}}, output="steps.a.output.nope"), "a", {})

    assert run.status == "failed"
    assert run.error is not None
    assert run.error.startswith("output: ")


def test_expressions_see_what_is_promised() -> None:
    """`input`, `event`, `run`, and output and status of the steps needed, however far up."""
    run = begin(
        {
            "a": {"when": "false"},
            "b": {"needs": ["a"]},
            "x": {},
            "c": {
                "needs": ["b"],
                "with": {
                    "input": "${ input }",
                    "event": "${ event.by }",
                    "run": "${ run }",
                    "steps": "${ steps }",
                },
            },
        },
        input=[1],
    )
    run = done(done(run, "x", "unseen"), "b", {"y": 2})

    assert {
        "input": [1],
        "event": "ops.alice",
        "run": {"id": "r", "blueprint": "b", "version": 7, "started": rfc3339(NOON)},
        "steps": {
            "a": {"output": None, "status": "skipped"},
            "b": {"output": {"y": 2}, "status": "succeeded"},
        },
    } == unit(run, "c").data


def test_a_step_whose_condition_is_false_is_skipped() -> None:
    """It has ended with output null, so what needs it goes on."""
    run = begin(
        {
            "a": {"when": "input > 1"},
            "b": {"needs": ["a"], "with": {"a": "${ steps.a.output }"}},
        },
        input=1,
    )

    assert run.steps["a"].status == "skipped"
    assert (Dispatch("r", "b", 0, 1, "b", {"a": None}, NOON),) == due(run)


def test_a_run_of_skipped_steps_succeeds_at_once() -> None:
    """Whichever way round they are written."""
    skipped = {f"s{n}": {"when": "false", "needs": [f"s{n + 1}"]} for n in range(50)}
    run = begin({**skipped, "s50": {"when": "false"}})

    assert (run.status, run.output) == ("succeeded", None)


def test_foreach_makes_one_unit_an_element() -> None:
    """`item` and `index` are at hand; the output is the list of outputs in their order."""
    run = begin(
        {"a": {"foreach": "input", "with": {"x": "${ item }", "text": "no ${ index }"}}},
        input=["p", {"q": 1}],
    )
    assert [command.data for command in due(run) if isinstance(command, Dispatch)] == [
        {"x": "p", "text": "no 0"},
        {"x": {"q": 1}, "text": "no 1"},
    ]

    run = done(run, "a", "second", index=1)
    assert ids(run) == ["r:a:0:1"]

    assert done(run, "a", "first", index=0).output == ["first", "second"]


def test_foreach_over_one_element_gives_a_list_of_one() -> None:
    """Unlike a step without foreach."""
    assert done(begin({"a": {"foreach": "[1]"}}), "a", "x").output == ["x"]


def test_foreach_over_nothing_succeeds_with_nothing() -> None:
    """No task is due for it."""
    run = begin({"a": {"foreach": "[]"}, "b": {"needs": ["a"], "with": {"n": "${steps.a.output}"}}})

    assert (run.steps["a"].status, run.steps["a"].output) == ("succeeded", [])
    assert (Dispatch("r", "b", 0, 1, "b", {"n": []}, NOON),) == due(run)


def test_foreach_has_a_largest_size() -> None:
    """A thousand elements are as many as there may be."""
    most = list(range(MAX_UNITS))

    assert len(due(begin({"a": {"foreach": "input"}}, input=most))) == MAX_UNITS
    run = begin({"a": {"foreach": "input"}}, input=[*most, 0])
    assert run.status == "failed"
    assert run.error == "a: `input`: 1001 elements, at most 1000"


@pytest.mark.parametrize(
    "step",
    [
        {"when": "1 +"},
        {"when": "input"},
        {"foreach": "nope"},
        {"foreach": "input"},
        {"with": {"x": "${ input.nope }"}},
        {"when": "steps.b.output == null", "needs": []},
    ],
)
def test_an_expression_that_does_not_evaluate_fails_the_run(step: dict[str, Any]) -> None:
    """The error names the step and the expression; no task of the step is due."""
    run = begin({"a": step, "b": {}}, input={})

    assert (run.status, run.steps["a"].status) == ("failed", "failed")
    assert run.error is not None
    assert run.error.startswith("a: `")
    assert ids(run) == ["r:finished"]


def test_an_element_that_does_not_render_is_named() -> None:
    """By its index."""
    run = begin({"a": {"foreach": "input", "with": {"x": "${ item.x }"}}}, input=[{"x": 1}, {}])

    assert run.error is not None
    assert run.error.startswith("a[1]: `item.x`")


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (Failed("a", 0, 1, NOON, AGENT, "no paper"), "no paper"),
        (TimedOut("a", 0, 1, NOON), "no result within 300 s"),
    ],
)
def test_a_failed_attempt_is_repeated_after_a_pause(fact: Fact, reason: str) -> None:
    """The next attempt has the same data and waits between half of the delay and all of it."""
    run = begin({"a": {"retry": {"attempts": 2, "delay": "4s"}, "with": {"k": 1}}})
    run = advance(sent(run, "a"), fact)

    (command,) = due(run)
    assert isinstance(command, Dispatch)
    assert (command.id, command.data) == ("r:a:0:2", {"k": 1})
    assert NOON + 2 * SECOND <= command.not_before <= NOON + 4 * SECOND
    assert reason == unit(run, "a").error

    run = advance(sent(run, "a", attempt=2), TimedOut("a", 0, 2, NOON))
    assert (run.status, run.error) == ("failed", "a[0]: no result within 300 s")


def test_pauses_double_up_to_the_longest_and_are_the_same_each_time() -> None:
    """They differ between units, and never between two looks at the same ledger."""

    def pauses(run_id: str) -> list[int]:
        retry = {"attempts": 1000, "delay": "1s", "max_delay": "1m"}
        run = begin({"a": {"retry": retry}}, run_id=run_id)
        found: list[int] = []
        for attempt in range(1, 1000):
            run = advance(sent(run, "a", attempt=attempt), TimedOut("a", 0, attempt, NOON))
            found.append(unit(run, "a").not_before - NOON)
        return found

    first = pauses("r")

    assert first == pauses("r")
    assert first != pauses("s")
    for number, pause in enumerate(first):
        longest = min(2**number, 60) * SECOND
        assert longest / 2 <= pause <= longest
    assert min(first[10:]) < 33 * SECOND
    assert max(first[10:]) > 57 * SECOND


def test_a_refused_task_fails_the_run() -> None:
    """However many attempts there are: the same policy would refuse the next one too."""
    run = begin({"a": {"retry": {"attempts": 5}}, "b": {}})
    run = advance(run, Refused("a", 0, 1, NOON, "forbidden"))

    assert (run.status, run.error) == ("failed", "a[0]: refused: forbidden")
    assert (Announce("r", "failed", None, "a[0]: refused: forbidden"),) == due(run)


def test_a_failed_unit_fails_the_run_and_leaves_the_others_alone() -> None:
    """What is still under way is not asked about any more, and its results are not applied."""
    run = begin({"a": {"foreach": "[1, 2]"}, "b": {}})
    run = sent(sent(sent(run, "a", 0), "a", 1), "b")
    run = advance(run, Failed("a", 1, 1, NOON, AGENT, "no paper"))

    assert (run.status, run.error) == ("failed", "a[1]: no paper")
    assert ids(run) == ["r:finished"]
    assert run is advance(run, Succeeded("a", 0, 1, NOON, AGENT, "late"))
    assert run is advance(run, Succeeded("b", 0, 1, NOON, AGENT, "late"))


def test_a_cancelled_run_asks_for_nothing_more() -> None:
    """It ends as cancelled, with the reason, and what comes later is not applied."""
    run = advance(sent(begin({"a": {}}), "a"), Cancelled(NOON, "enough"))

    assert (Announce("r", "cancelled", None, "enough"),) == due(run)
    assert run is advance(run, Succeeded("a", 0, 1, NOON, AGENT, 1))
    assert run is advance(run, Cancelled(NOON, "again"))


def test_an_announced_run_is_over() -> None:
    """Nothing is due and nothing changes it."""
    run = advance(done(begin({"a": {}}), "a"), Announced(NOON))

    assert run.announced
    assert due(run) == ()
    assert run is advance(run, Announced(NOON))


@pytest.mark.parametrize(
    ("phase", "fact"),
    [
        ("due", Succeeded("a", 0, 2, NOON, AGENT, 1)),
        ("due", Failed("a", 0, 2, NOON, AGENT, "x")),
        ("due", TimedOut("a", 0, 2, NOON)),
        ("due", Succeeded("a", 0, 1, NOON, AGENT, 1)),
        ("due", Refused("a", 0, 1, NOON, "x")),
        ("due", Dispatched("a", 0, 1, NOON, AGENT)),
        ("due", Dispatched("a", 0, 3, NOON, AGENT)),
        ("due", Dispatched("a", 1, 2, NOON, AGENT)),
        ("due", Dispatched("a", -1, 2, NOON, AGENT)),
        ("due", Dispatched("b", 0, 1, NOON, AGENT)),
        ("due", Dispatched("z", 0, 1, NOON, AGENT)),
        ("due", Held("a", 0, 1, NOON, "x")),
        ("due", Announced(NOON)),
        ("sent", Held("a", 0, 2, NOON, "x")),
        ("sent", Dispatched("a", 0, 2, NOON, "crew.other")),
        ("sent", Refused("a", 0, 2, NOON, "x")),
        ("sent", Succeeded("a", 0, 1, NOON, AGENT, 1)),
        ("sent", Succeeded("a", 0, 3, NOON, AGENT, 1)),
        ("sent", Succeeded("a", 0, 2, NOON, "crew.other", 1)),
        ("sent", Succeeded("a", 0, 2, NOON, "", 1)),
        ("sent", Failed("a", 0, 2, NOON, "crew.other", "x")),
        ("sent", Failed("a", 0, 1, NOON, AGENT, "x")),
        ("sent", TimedOut("a", 0, 1, NOON)),
    ],
)
def test_a_fact_that_does_not_fit_changes_nothing(phase: str, fact: Fact) -> None:
    """Another attempt, another unit, another sender, another phase: the run stays the same."""
    run = begin({"a": {"retry": {"attempts": 3}}, "b": {"needs": ["a"]}})
    run = advance(sent(run, "a"), TimedOut("a", 0, 1, NOON))
    if phase == "sent":
        run = sent(run, "a", attempt=2)

    assert run is advance(run, fact)


def test_what_ended_first_counts() -> None:
    """A result after the timeout is late, and a timeout after the result is void."""
    run = sent(begin({"a": {}, "b": {}}), "a")
    result, timeout = Succeeded("a", 0, 1, NOON, AGENT, 1), TimedOut("a", 0, 1, NOON)

    assert advance(advance(run, result), timeout).steps["a"].status == "succeeded"
    assert advance(advance(run, timeout), result).status == "failed"


EXPRESSIONS = ("true", "false", "input.flag", "!input.flag", "input.nope", "'text'")
LISTS = ("[]", "input.items", "[1]", "input.nope")


@st.composite
def blueprints(draw: st.DrawFn) -> Blueprint:
    """Graphs of up to six steps, written in any order."""
    names = [f"s{number}" for number in range(draw(st.integers(1, 6)))]
    steps: dict[str, Any] = {}
    for number, name in enumerate(names):
        needs = draw(st.lists(st.sampled_from(names[:number]), unique=True)) if number else []
        values = ["plain", "${ input.items }", *(f"${{ steps.{n}.output }}" for n in needs)]
        steps[name] = {
            "task": "do.it",
            "needs": needs,
            "when": draw(st.none() | st.sampled_from(EXPRESSIONS)),
            "foreach": draw(st.none() | st.sampled_from(LISTS)),
            "with": {"value": draw(st.sampled_from(values))},
            "retry": {"attempts": draw(st.integers(1, 3)), "delay": draw(st.sampled_from([0, 2]))},
        }
    written = draw(st.permutations(names))
    return Blueprint.model_validate(
        {
            "blueprint": "b",
            "version": 1,
            "steps": {name: steps[name] for name in written},
            "output": draw(st.sampled_from([None, "input", f"steps.{names[0]}.output"])),
        }
    )


INPUT = {"flag": True, "items": ["x", {"y": 1}, 3]}
ENDINGS = st.sampled_from(["result", "result", "letter", "timeout"])
numbers = st.integers(0, 1000)


class AnyOrder(RuleBasedStateMachine):
    """A run to which anything may happen. What `due` says is all that tells what may count."""

    run: Run
    first: Run
    facts: list[Fact]
    dispatches: Counter[tuple[str, int]]
    clock: int

    @initialize(blueprint=blueprints())
    def begin(self, blueprint: Blueprint) -> None:
        """A fresh run."""
        self.run = self.first = start("r", blueprint, "corr", INPUT, {}, NOON)
        self.facts = []
        self.dispatches = Counter()
        self.clock = NOON

    def happens(self, fact: Fact) -> None:
        """Put a fact into the ledger."""
        self.facts.append(fact)
        self.run = advance(self.run, fact)

    def tick(self) -> int:
        """A later moment."""
        self.clock += SECOND
        return self.clock

    @rule(choice=numbers, ending=ENDINGS, admitted=st.sampled_from([True] * 9 + [False]))
    def proceed(self, choice: int, ending: str, admitted: bool) -> None:
        """Something happens that is due: a decision, the end of an attempt, the announcement."""
        commands = due(self.run)
        if not commands:
            return
        command = commands[choice % len(commands)]
        before = self.run
        match command, ending:
            case Dispatch(), _ if admitted:
                self.dispatches[command.step, command.index] += 1
                self.happens(Dispatched(*self.at(command), AGENT))
            case Dispatch(), _:
                self.happens(Refused(*self.at(command), "forbidden"))
                assert self.run.status == "failed"
            case Timer(), "result":
                self.happens(Succeeded(*self.at(command), AGENT, {"n": choice}))
            case Timer(), "letter":
                self.happens(Failed(*self.at(command), AGENT, "gave up"))
            case Timer(), _:
                self.happens(TimedOut(*self.at(command)))
            case Announce(), _:
                self.happens(Announced(self.tick()))
                assert due(self.run) == ()
        assert before is not self.run
        assert command.id not in ids(self.run)

    def at(self, command: Dispatch | Timer) -> tuple[str, int, int, int]:
        """The attempt of a command, now."""
        return command.step, command.index, command.attempt, self.tick()

    @rule(
        step=st.sampled_from(["s0", "s1", "s2", "s3", "s4", "s5", "nope"]),
        index=st.integers(-1, 3),
        attempt=st.integers(0, 4),
        by=st.sampled_from([AGENT, "crew.other", ""]),
        kind=st.sampled_from([Dispatched, Refused, Succeeded, Failed, TimedOut, Announced]),
    )
    def intrude(self, step: str, index: int, attempt: int, by: str, kind: type[Fact]) -> None:
        """Something arrives that nobody asked for; it changes nothing."""
        at = (step, index, attempt, self.tick())
        name = f"r:{step}:{index}:{attempt}"
        fact: Fact
        if kind in (Dispatched, Refused):
            fact = Dispatched(*at, by) if kind is Dispatched else Refused(*at, "forbidden")
            asked = name in ids(self.run)
        elif kind in (Succeeded, Failed):
            fact = Succeeded(*at, by, 1) if kind is Succeeded else Failed(*at, by, "x")
            asked = by == AGENT and f"{name}:timeout" in ids(self.run)
        elif kind is TimedOut:
            fact, asked = TimedOut(*at), f"{name}:timeout" in ids(self.run)
        else:
            fact, asked = Announced(self.clock), "r:finished" in ids(self.run)
        if not asked:
            before = self.run
            self.happens(fact)
            assert before is self.run

    @rule(really=st.sampled_from([True] + [False] * 9))
    def cancel(self, really: bool) -> None:
        """Somebody stops the run, seldom; a run that has ended stays as it ended."""
        if really:
            before = self.run
            self.happens(Cancelled(self.tick(), "enough"))
            assert (self.run.status == "cancelled") or before is self.run

    @invariant()
    def steps_keep_their_order(self) -> None:
        """Nothing begins before what it needs has ended, and ended steps have ended units."""
        for name, state in self.run.steps.items():
            needs = self.run.blueprint.steps[name].needs
            if state.status != "waiting":
                assert all(self.run.steps[need].ended for need in needs)
            if state.status == "succeeded":
                assert all(unit.phase == "done" for unit in state.units)
        if self.run.status == "succeeded":
            assert all(state.ended for state in self.run.steps.values())
        if self.run.status == "running":
            assert due(self.run), "a run that has not ended waits for something"

    @invariant()
    def attempts_stay_in_their_budget(self) -> None:
        """No unit is sent more often than its step has attempts."""
        for (step, _), count in self.dispatches.items():
            assert count <= self.run.blueprint.steps[step].retry.attempts

    @invariant()
    def commands_have_ids_of_their_own(self) -> None:
        """No two of them share one."""
        assert len(set(ids(self.run))) == len(ids(self.run))

    def teardown(self) -> None:
        """Left alone with its agents the run ends; and the ledger alone gives all of it back."""
        if not hasattr(self, "run"):
            return
        while due(self.run):
            self.proceed(0, "timeout" if len(self.facts) % 3 else "result", admitted=True)
            self.attempts_stay_in_their_budget()
        assert self.run.status != "running"
        run = self.first
        for fact in self.facts:
            run = advance(run, fact)
        assert run == self.run
        assert due(run) == due(self.run)


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@given(blueprints())
def test_a_run_that_everybody_serves_ends(blueprint: Blueprint) -> None:
    """With every task admitted and answered it succeeds, unless an expression does not evaluate."""
    run = start("r", blueprint, "corr", INPUT, {}, NOON)
    while commands := [command for command in due(run) if isinstance(command, Dispatch)]:
        for command in commands:
            assert command.attempt == 1
            run = done(run, command.step, command.data, command.index)

    assert run.status == "succeeded" or "`" in (run.error or "")
    assert ids(run) == ["r:finished"]
