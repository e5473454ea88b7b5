"""All runs as a fold of the ledger: what each record does, and that nothing else matters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tidegate_agents.fold import Fold
from tidegate_agents.run import Announce, Command, Dispatch, Timer
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.record import Ingress, Record, Why, decode_record, encode_record
from tidegate_schemas.subjects import Kind, Principal, Verdict
from tidegate_schemas.subjects import ledger as ledger_subject
from tidegate_schemas.vocabulary import (
    BLUEPRINT_REGISTER,
    COORDINATOR,
    DEADLETTER,
    IDENTITY_REGISTER,
    RESULT,
    RUN_CANCEL,
    RUN_FINISHED,
    RUN_START,
    RUN_TIMEOUT,
    run_id,
)

SECOND = 1_000_000_000
NOON = 1_769_860_800 * SECOND
US = str(COORDINATOR)
AGENT = Principal("crew", "worker")
ALICE = "ops.alice"


class Ledger:
    """Records as a gateway would write them, a second apart."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._first: dict[tuple[str, str], int] = {}

    def add(
        self, by: object, envelope: Envelope, verdict: Verdict = Verdict.ALLOW, reason: str = "why"
    ) -> Record:
        """Record a submission; the second one of an id is a duplicate."""
        seq = len(self.records) + 1
        kind, to = envelope.destination()
        first = self._first.setdefault((str(by), envelope.id), seq)
        time = rfc3339(NOON + seq * SECOND)
        record = Record(
            v=1,
            log="tidegate/0",
            seq=seq,
            time=time,
            epoch=1,
            ingress=Ingress(seq, 0, time),
            by=str(by),
            kind=kind,
            to=to,
            verdict=verdict if first == seq else Verdict.DUPLICATE,
            why=Why((), reason, "sha256:0"),
            first=None if first == seq else first,
            envelope=msgspec.Raw(encode(envelope)),
        )
        self.records.append(decode_record(encode_record(record)))
        return self.records[-1]

    def command(self, command: Command, verdict: Verdict = Verdict.ALLOW) -> Record:
        """Record what the coordinator sends for a command."""
        return self.add(US, message(command), verdict, "forbidden")

    def answer(self, to: Dispatch | Timer, type: str, data: Any, by: object = AGENT) -> Record:
        """Record an agent's result."""
        return self.add(by, result(to, type, data))


def control(to: str, data: Any, id: str | None = None) -> Envelope:
    """A command to the system."""
    return Envelope.new(to, data, id=id, kind="control", to=to)


def message(command: Command) -> Envelope:
    """The envelope of a command."""
    if isinstance(command, Announce):
        data = {"status": command.status, "output": command.output, "error": command.error}
        return Envelope.new(RUN_FINISHED, data, id=command.id, runid=command.run_id)
    about: dict[str, Any] = {
        "id": command.id,
        "runid": command.run_id,
        "stepid": command.step,
        "attempt": command.attempt,
        "subject": str(command.index),
    }
    if isinstance(command, Dispatch):
        return Envelope.new("task", command.data, kind="task", to=command.task, **about)
    return Envelope.new(RUN_TIMEOUT, kind="control", to=RUN_TIMEOUT, **about)


def result(to: Dispatch | Timer, type: str, data: Any) -> Envelope:
    """An agent's answer to a task."""
    return Envelope.new(
        type,
        data,
        kind="result",
        to=US,
        runid=to.run_id,
        stepid=to.step,
        attempt=to.attempt,
        subject=str(to.index),
    )


def blueprint(name: str = "b", on: str | None = None, **more: Any) -> Blueprint:
    """A blueprint of one step, or of those given."""
    return Blueprint.model_validate(
        {
            "blueprint": name,
            "version": 1,
            "on": on and {"event": on},
            "steps": {"a": {"task": "do.it", "with": {"got": "${ input }"}}},
            **more,
        }
    )


def registered(*blueprints: Blueprint) -> tuple[Fold, Ledger]:
    """A fold and its ledger that know an agent and some blueprints."""
    fold, ledger = Fold(COORDINATOR), Ledger()
    agent = {**AGENT_DATA, "version": "1", "owner": "crew"}
    fold.apply(ledger.add(AGENT, control(IDENTITY_REGISTER, agent)))
    for one in blueprints:
        register(fold, ledger, one)
    return fold, ledger


AGENT_DATA = {
    "principal": "crew.worker",
    "role": "agent",
    "capabilities": ["do.it"],
    "keys": ["U"],
}


def register(fold: Fold, ledger: Ledger, blueprint: Blueprint) -> None:
    """Register a version as the coordinator does."""
    data = {"document": blueprint.canonical}
    fold.apply(ledger.add(US, control(BLUEPRINT_REGISTER, data, fold.registration_id(blueprint))))


def started(*, keep_ended: bool = False) -> tuple[Fold, Ledger, str]:
    """A fold with one run, its ledger and the run's id."""
    known, ledger = registered(blueprint())
    fold = Fold(COORDINATOR, keep_ended)
    for record in ledger.records:
        fold.apply(record)
    assert known.active == fold.active
    (name,) = fold.apply(
        ledger.add(ALICE, control(RUN_START, {"blueprint": "b", "input": 1}, "start-1"))
    )
    return fold, ledger, name


def one(fold: Fold, name: str) -> Command:
    """The one command that is due for a run."""
    (command,) = fold.due_for(name)
    return command


def test_a_run_goes_its_way_through_the_ledger() -> None:
    """Start, task, result, announcement; then the run is gone."""
    fold, ledger, name = started()
    assert name == run_id(
        fold.active["b"].digest, ALICE, fold.runs[name].event["source"], "start-1"
    )
    assert fold.runs[name].started == NOON + 3 * SECOND
    task = one(fold, name)
    assert isinstance(task, Dispatch)
    assert (task.task, task.data) == ("do.it", {"got": 1})

    assert fold.apply(ledger.command(task)) == (name,)
    timer = one(fold, name)
    assert isinstance(timer, Timer)
    assert timer.at == NOON + (4 + 300) * SECOND

    assert fold.apply(ledger.answer(task, RESULT, {"x": 1})) == (name,)
    assert one(fold, name) == Announce(name, "succeeded", {"x": 1}, None)
    assert [*fold.pending()] == [one(fold, name)]

    assert fold.apply(ledger.command(one(fold, name))) == (name,)
    assert (fold.runs, [*fold.pending()], fold.due_for(name)) == ({}, [], ())
    assert fold.ignored == 0


def test_an_ended_run_may_be_kept() -> None:
    """For those who show it; nothing is due for it."""
    fold, ledger, name = started(keep_ended=True)
    fold.apply(ledger.add(ALICE, control(RUN_CANCEL, {"run": name})))
    fold.apply(ledger.command(one(fold, name)))

    assert fold.runs[name].announced
    assert fold.runs[name].error == "cancelled by ops.alice"
    assert [*fold.pending()] == []


def test_the_id_of_a_run_follows_from_what_started_it() -> None:
    """Version, sender, source and envelope: another of each is another run."""
    ids = {
        run_id(digest, by, source, envelope)
        for digest in ("sha256:1", "sha256:2")
        for by in "ab"
        for source in "st"
        for envelope in "xy"
    }

    assert len(ids) == 16
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in ids)


def test_an_event_starts_a_run_of_each_blueprint_that_waits_for_it() -> None:
    """They see its data as input, and its attributes and sender as event."""
    fold, ledger = registered(
        blueprint("one", on="repo.commit", output="event"),
        blueprint("two", on="repo.commit"),
        blueprint("other", on="repo.tag"),
    )
    event = Envelope.new("repo.commit", {"sha": "f00"}, id="e1", source="/git", subject="main")
    names = fold.apply(ledger.add("git.hook", event))

    assert [fold.runs[name].blueprint.blueprint for name in names] == ["one", "two"]
    run = fold.runs[names[0]]
    assert run.input == {"sha": "f00"}
    assert run.event == {
        "id": "e1",
        "type": "repo.commit",
        "source": "/git",
        "subject": "main",
        "time": None,
        "by": "git.hook",
        "onbehalfof": None,
        "data": {"sha": "f00"},
    }


def test_a_run_takes_over_the_correlation() -> None:
    """Of what started it, or its id."""
    fold, ledger = registered(blueprint(on="repo.commit"))
    plain = Envelope.new("repo.commit", id="e1")
    (first,) = fold.apply(ledger.add("git.hook", plain))
    (second,) = fold.apply(
        ledger.add("git.hook", Envelope.new("repo.commit", id="e2", correlationid="c"))
    )

    assert [fold.runs[name].correlation for name in (first, second)] == ["e1", "c"]


def test_events_of_the_coordinator_start_nothing() -> None:
    """A blueprint that waits for its own end would never end."""
    fold, ledger = registered(blueprint(on=RUN_FINISHED), blueprint("c", on="repo.commit"))

    assert fold.apply(ledger.add(US, Envelope.new(RUN_FINISHED, runid="nope"))) == ()
    assert fold.apply(ledger.add(US, Envelope.new("repo.commit"))) == ()
    assert fold.runs == {}


def test_only_the_coordinator_says_that_a_run_ended() -> None:
    """From anybody else `run.finished` is an event like any other."""
    fold, ledger, name = started()
    fold.apply(ledger.add(ALICE, control(RUN_CANCEL, {"run": name})))
    finished = message(one(fold, name))

    assert fold.apply(ledger.add(ALICE, finished)) == ()
    assert fold.apply(ledger.add(US, finished)) == (name,)
    assert fold.ignored == 0


@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.HOLD, Verdict.REJECT])
def test_what_was_not_admitted_did_not_happen(verdict: Verdict) -> None:
    """Neither registrations nor starts, cancellations, results, timeouts or announcements."""
    fold, ledger, name = started()
    task = one(fold, name)
    assert isinstance(task, Dispatch)
    fold.apply(ledger.command(task))
    before = dict(fold.runs)
    for by, envelope in (
        (AGENT, control(IDENTITY_REGISTER, {**AGENT_DATA, "capabilities": ["more"]})),
        (US, control(BLUEPRINT_REGISTER, {"document": blueprint("c").canonical})),
        (ALICE, control(RUN_START, {"blueprint": "b"})),
        (ALICE, control(RUN_CANCEL, {"run": name})),
        (AGENT, result(task, RESULT, 1)),
        (AGENT, result(task, DEADLETTER, {"error": "x"})),
        (US, message(one(fold, name))),
        (US, message(Announce(name, "failed", None, None))),
    ):
        assert fold.apply(ledger.add(by, envelope, verdict)) == ()

    assert (before, {"do.it": "crew.worker"}) == (fold.runs, fold.providers)
    assert [*fold.active] == ["b"]


@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.REJECT])
def test_a_refused_task_fails_its_run(verdict: Verdict) -> None:
    """With the reason of the record."""
    fold, ledger, name = started()
    fold.apply(ledger.command(one(fold, name), verdict))

    assert one(fold, name) == Announce(name, "failed", None, "a[0]: refused: forbidden")


def test_a_held_task_is_not_asked_for_again() -> None:
    """It waits at the gateway until it is released or refused, and the run says for what."""
    fold, ledger, name = started()
    task = one(fold, name)

    assert fold.apply(ledger.command(task, Verdict.HOLD)) == (name,)
    assert fold.due_for(name) == ()
    (unit,) = fold.runs[name].steps["a"].units
    assert (unit.phase, unit.waits) == ("held", "forbidden: ")
    assert fold.apply(ledger.command(task, Verdict.DUPLICATE)) == ()
    released = msgspec.structs.replace(ledger.records[-1], verdict=Verdict.ALLOW, seq=99)
    assert fold.apply(released) == (name,)


def test_a_dead_letter_ends_the_attempt() -> None:
    """Its error is the reason."""
    fold, ledger, name = started()
    task = one(fold, name)
    assert isinstance(task, Dispatch)
    fold.apply(ledger.command(task))
    fold.apply(ledger.answer(task, DEADLETTER, {"error": "no paper", "history": []}))

    assert fold.runs[name].error == "a[0]: no paper"


def test_a_timeout_ends_the_attempt() -> None:
    """When the coordinator says so, and nobody else."""
    fold, ledger, name = started()
    fold.apply(ledger.command(one(fold, name)))
    timeout = message(one(fold, name))

    assert fold.apply(ledger.add(AGENT, timeout)) == ()
    assert fold.apply(ledger.add(US, timeout)) == (name,)
    assert fold.runs[name].error == "a[0]: no result within 300 s"


def test_only_who_was_asked_may_answer() -> None:
    """Who takes the capability when the task is admitted; a later registration changes nothing."""
    fold, ledger, name = started()
    task = one(fold, name)
    assert isinstance(task, Dispatch)
    fold.apply(ledger.command(task))
    other = {**AGENT_DATA, "principal": "crew.other"}
    fold.apply(ledger.add("crew.other", control(IDENTITY_REGISTER, other)))

    assert fold.providers == {"do.it": "crew.other"}
    assert fold.apply(ledger.answer(task, RESULT, 1, by="crew.other")) == ()
    assert fold.apply(ledger.answer(task, RESULT, 2)) == (name,)
    assert fold.runs[name].output == 2


def test_a_task_of_somebody_else_is_not_the_coordinators() -> None:
    """Whatever it says about runs."""
    fold, ledger, name = started()

    assert fold.apply(ledger.add(ALICE, message(one(fold, name)))) == ()
    assert isinstance(one(fold, name), Dispatch)


def test_the_same_start_again_is_the_same_run() -> None:
    """A gateway that has forgotten the id lets it through; while the run is there, it counts once.

    When the first run is over it is a new run, whether or not ended runs are kept.
    """
    for keep_ended in (False, True):
        fold, ledger, name = started(keep_ended=keep_ended)
        again = msgspec.structs.replace(ledger.records[-1], seq=50)
        assert fold.apply(again) == ()
        fold.apply(ledger.add(ALICE, control(RUN_CANCEL, {"run": name, "reason": "enough"})))
        assert fold.apply(again) == ()
        fold.apply(ledger.command(one(fold, name)))

        assert fold.apply(again) == (name,)
        assert fold.runs[name].status == "running"


def test_a_new_version_replaces_the_old_one() -> None:
    """For new runs; a run that is under way keeps the version that it started with."""
    old, new = blueprint(on="repo.commit"), blueprint(on="repo.tag", version=2)
    fold, ledger = registered(old)
    assert not fold.needs_registration(old)
    assert fold.needs_registration(new)
    (first,) = fold.apply(ledger.add("git.hook", Envelope.new("repo.commit")))

    register(fold, ledger, new)
    assert not fold.needs_registration(new)
    assert fold.apply(ledger.add("git.hook", Envelope.new("repo.commit"))) == ()
    (second,) = fold.apply(ledger.add("git.hook", Envelope.new("repo.tag")))

    assert [fold.runs[name].blueprint.version for name in (first, second)] == [1, 2]
    assert fold.blueprints == {old.digest: old, new.digest: new}


def test_going_back_to_a_version_is_no_duplicate() -> None:
    """Each registration has an id of its own, and the same one when it is repeated."""
    first, second = blueprint(), blueprint(version=2)
    fold, ledger = registered()
    ids: list[str] = []
    for version in (first, second, first, second):
        ids.append(fold.registration_id(version))
        assert ids[-1] == fold.registration_id(version)
        register(fold, ledger, version)
        assert not fold.needs_registration(version)

    assert len(set(ids)) == 4
    assert all(record.verdict is Verdict.ALLOW for record in ledger.records)
    assert ids[0] == f"blueprint:{first.digest}:0"


def test_a_version_that_is_registered_twice_stays_as_it_is() -> None:
    """The record that activated it is the first one."""
    fold, ledger = registered(blueprint())
    seq = fold.active["b"].seq
    register(fold, ledger, blueprint())

    assert fold.active["b"].seq == seq


def test_only_the_coordinator_registers_blueprints() -> None:
    """Whatever policy says."""
    fold, ledger = registered()
    fold.apply(ledger.add(ALICE, control(BLUEPRINT_REGISTER, {"document": blueprint().canonical})))

    assert (fold.active, fold.ignored) == ({}, 0)


def about_attempt(**changes: Any) -> Envelope:
    """A result about an attempt of a run, with faults."""
    values: dict[str, Any] = {"runid": "r", "stepid": "a", "attempt": 1, "subject": "0", **changes}
    return Envelope.new(values.pop("type", RESULT), 1, kind="result", to=US, **values)


@pytest.mark.parametrize(
    ("by", "envelope"),
    [
        (AGENT, control(IDENTITY_REGISTER, None)),
        (AGENT, control(IDENTITY_REGISTER, {**AGENT_DATA, "principal": "Crew.worker"})),
        (AGENT, control(IDENTITY_REGISTER, {"principal": "crew.worker"})),
        (AGENT, control(IDENTITY_REGISTER, {**AGENT_DATA, "capabilities": "do.it"})),
        (US, control(BLUEPRINT_REGISTER, {})),
        (US, control(BLUEPRINT_REGISTER, {"document": 1})),
        (US, control(BLUEPRINT_REGISTER, {"document": {"blueprint": "b"}})),
        (US, control(BLUEPRINT_REGISTER, {"document": {**blueprint().canonical, "steps": {}}})),
        (ALICE, control(RUN_START, {"blueprint": "nope"})),
        (ALICE, control(RUN_START, {"blueprint": 1})),
        (ALICE, control(RUN_START, "b")),
        (ALICE, control(RUN_CANCEL, {})),
        (AGENT, about_attempt(runid=None)),
        (AGENT, about_attempt(stepid=None)),
        (AGENT, about_attempt(attempt=None)),
        (AGENT, about_attempt(subject=None)),
        (AGENT, about_attempt(subject="-1")),
        (AGENT, about_attempt(subject="\N{SUPERSCRIPT TWO}")),
        (AGENT, about_attempt(subject="\N{ARABIC-INDIC DIGIT TWO}")),
        (AGENT, about_attempt(type="tidegate.other")),
        (AGENT, about_attempt(type=DEADLETTER)),
        (US, Envelope.new("task", kind="task", to="do.it")),
        (US, Envelope.new(RUN_FINISHED)),
    ],
)
def test_what_cannot_be_used_is_counted_and_left_out(by: object, envelope: Envelope) -> None:
    """Malformed data never raises: a coordinator that dies of a record would die of it for ever."""
    fold, ledger, name = started()
    before = fold.runs[name]

    assert fold.apply(ledger.add(by, envelope)) == ()
    assert (fold.ignored, fold.runs) == (1, {name: before})


@pytest.mark.parametrize(
    "changes",
    [
        {"envelope": msgspec.UNSET},
        {"envelope": msgspec.Raw(b"{}")},
        {"envelope": msgspec.Raw(b"\xff")},
        {"time": "yesterday"},
        {"time": "9999-99-99T00:00:00Z"},
    ],
)
def test_a_record_without_a_readable_message_is_counted(changes: dict[str, Any]) -> None:
    """It cannot happen with a gateway of ours; it does no harm either."""
    fold, ledger, _ = started()
    record = ledger.add(ALICE, control(RUN_START, {"blueprint": "b"}))

    assert fold.apply(msgspec.structs.replace(record, **changes)) == ()
    assert fold.ignored == 1


def test_a_record_of_no_interest_is_not_read() -> None:
    """Its envelope is not even decoded."""
    fold, ledger = registered(blueprint(on="repo.commit"))
    record = ledger.add(ALICE, Envelope.new("other"))
    for changes in (
        {"kind": Kind.EVENT},
        {"kind": Kind.TASK},
        {"kind": Kind.TASK, "by": US, "verdict": Verdict.DUPLICATE},
        {"kind": Kind.RESULT},
        {"kind": Kind.CONTROL},
        {"kind": Kind.UNKNOWN},
        {"to": "repo.commit", "verdict": Verdict.DUPLICATE},
    ):
        unreadable = {"envelope": msgspec.Raw(b"?"), **changes}
        assert fold.apply(msgspec.structs.replace(record, **unreadable)) == ()
    assert fold.ignored == 0


STEPS = {
    "a": {"task": "do.it", "foreach": "input", "retry": {"attempts": 2, "delay": "1s"}},
    "b": {"task": "do.it", "when": "size(input) > 1"},
    "c": {
        "task": "do.it",
        "needs": ["a", "b"],
        "with": {"all": "${ steps.a.output }", "b": "${ steps.b.status }"},
        "retry": {"attempts": 3},
    },
}
ITEMS = st.lists(st.sampled_from(["x", 1, None]), max_size=3)
numbers = st.integers(0, 1000)


class Restarts(RuleBasedStateMachine):
    """A coordinator that sends what is due, late, twice, or never, and is killed at any moment.

    Its agents answer, give up, stay silent, or answer what nobody asked. The gateway admits,
    holds or refuses.
    """

    @initialize(items=ITEMS)
    def begin(self, items: list[Any]) -> None:
        """A ledger with two blueprints, and an event that starts both."""
        plan = {"steps": STEPS, "output": "steps"}
        self.fold, self.ledger = registered(
            blueprint("one", on="repo.commit", **plan), blueprint("two", on="repo.commit")
        )
        self.halfway = self.replayed()
        self.tasks: list[Dispatch] = []
        self.started = 0
        self.finished: list[str] = []
        self.event(items)

    def replayed(self) -> Fold:
        """What a coordinator knows that has just been started."""
        fold = Fold(COORDINATOR)
        for record in self.ledger.records:
            fold.apply(record)
        return fold

    def apply(self, record: Record) -> tuple[str, ...]:
        """The live coordinators read a record; one of them only what may concern it."""
        self.halfway.apply(record)
        if not self.fold.concerns(ledger_subject(0, record.verdict, record.kind, record.to)):
            return ()
        return self.fold.apply(record)

    def commands(self) -> list[Command]:
        """What is due."""
        return [*self.fold.pending()]

    def send(self, command: Command, verdict: Verdict) -> None:
        """What is due goes into the ledger."""
        if isinstance(command, Dispatch):
            self.tasks.append(command)
        else:
            verdict = Verdict.ALLOW
        if isinstance(command, Announce):
            self.finished.append(command.run_id)
        self.apply(self.ledger.command(command, verdict))

    @rule(items=ITEMS)
    def event(self, items: list[Any]) -> None:
        """Something starts two runs."""
        self.started += len(self.apply(self.ledger.add(ALICE, Envelope.new("repo.commit", items))))

    @rule(
        type=st.sampled_from(["other", "repo.commit", RUN_FINISHED]),
        kind=st.sampled_from(["event", "task", "result", "control"]),
        verdict=st.sampled_from([*Verdict]),
    )
    def something_else(self, type: str, kind: str, verdict: Verdict) -> None:
        """Others say something, of which nothing starts a run."""
        if (type, kind, verdict) != ("repo.commit", "event", Verdict.ALLOW):
            self.apply(self.ledger.add(ALICE, Envelope.new(type, kind=kind, to=type), verdict))

    @rule(
        choice=numbers,
        verdict=st.sampled_from([*[Verdict.ALLOW] * 7, Verdict.DENY]),
        twice=st.booleans(),
    )
    def do(self, choice: int, verdict: Verdict, twice: bool) -> None:
        """The coordinator sends something that is due; killed in between, it sends it again."""
        commands = self.commands()
        if not commands:
            return
        command = commands[choice % len(commands)]
        self.send(command, verdict)
        assert command.id not in [other.id for other in self.commands()]
        if twice:
            before = dict(self.fold.runs)
            assert self.apply(self.ledger.command(command)) == ()
            assert before == self.fold.runs

    @rule(
        choice=numbers,
        type=st.sampled_from([RESULT, RESULT, RESULT, DEADLETTER]),
        by=st.sampled_from([str(AGENT), str(AGENT), "crew.other"]),
    )
    def answer(self, choice: int, type: str, by: str) -> None:
        """An answer to any task that was ever sent: in time, late, again, or from a stranger."""
        if not self.tasks:
            return
        task = self.tasks[choice % len(self.tasks)]
        asked = f"{task.id}:timeout" in [command.id for command in self.commands()]
        touched = self.apply(self.ledger.answer(task, type, {"error": f"e{choice}"}, by))
        assert touched == ((task.run_id,) if asked and by == str(AGENT) else ())

    @rule(choice=numbers, really=st.sampled_from([True] + [False] * 9))
    def cancel(self, choice: int, really: bool) -> None:
        """Somebody stops a run, seldom."""
        names = [*self.fold.runs]
        if really and names:
            data = {"run": names[choice % len(names)]}
            self.apply(self.ledger.add(ALICE, control(RUN_CANCEL, data)))

    @rule()
    def restart(self) -> None:
        """Another coordinator starts from the ledger and goes on from here."""
        self.halfway = self.replayed()

    @invariant()
    def a_fresh_start_changes_nothing(self) -> None:
        """From the first record or from any other: the same runs, and the same is due."""
        fresh = self.replayed()
        for other in (fresh, self.halfway):
            assert self.fold.runs == other.runs
            assert self.commands() == [*other.pending()]
            assert self.fold.ignored == other.ignored == 0

    @invariant()
    def no_attempt_is_sent_twice(self) -> None:
        """Of all tasks ever due no two were the same, and none had an attempt too many."""
        ids = [task.id for task in self.tasks]
        assert len(set(ids)) == len(ids)
        attempts = {"a": 2, "b": 1, "c": 3}
        assert all(task.attempt <= attempts[task.step] for task in self.tasks)

    def teardown(self) -> None:
        """Left alone every run ends, is announced once, and is gone."""
        for _ in self.until_nothing_is_due():
            self.no_attempt_is_sent_twice()
        assert self.fold.runs == {}
        assert len(self.finished) == len(set(self.finished)) == self.started

    def until_nothing_is_due(self) -> Iterator[None]:
        """Send what is due; every timer runs out."""
        while commands := self.commands():
            for command in commands:
                self.send(command, Verdict.ALLOW)
            yield


Restarts.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRestarts = Restarts.TestCase


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_records_of_other_runs_do_not_matter(data: st.DataObject) -> None:
    """Runs that share a ledger end as they would alone, in whatever order their records mix."""
    fold, ledger = registered(blueprint("one", steps=STEPS))
    outputs: dict[str, Any] = {}
    for number in range(3):
        start = control(RUN_START, {"blueprint": "one", "input": [number] * number})
        (name,) = fold.apply(ledger.add(ALICE, start))
        outputs[name] = number
    while waiting := [name for name in fold.runs if fold.runs[name].status == "running"]:
        name = data.draw(st.sampled_from(waiting))
        command = data.draw(st.sampled_from(fold.due_for(name)))
        if isinstance(command, Dispatch):
            fold.apply(ledger.command(command))
        else:
            assert isinstance(command, Timer)
            answer = f"{outputs[name]}/{command.step}/{command.index}"
            fold.apply(ledger.answer(command, RESULT, answer))

    for name, number in outputs.items():
        run = fold.runs[name]
        assert run.output == f"{number}/c/0"
        assert run.steps["a"].output == [f"{number}/a/{index}" for index in range(number)]
