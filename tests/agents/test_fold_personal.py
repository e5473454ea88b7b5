"""Runs with personal data, as a fold of the ledger: opened, erased, or not for who looks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegate_agents.fold import Fold
from tidegate_agents.run import ERASED, Announce, Dispatch, Run
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Unopened
from tidegate_schemas.record import Record
from tidegate_schemas.vocabulary import (
    COORDINATOR,
    DEADLETTER,
    PRIVACY_ERASE,
    RESULT,
    RUN_FINISHED,
    RUN_START,
)

from .test_fold import AGENT, ALICE, US, Ledger, blueprint, control, message, registered, result

ANN, BOB = "a" * 32, "b" * 32
GONE = Unopened(Unopened.ERASED, "it was")


def sealed(envelope: Envelope, who: str = ANN) -> Envelope:
    """As it stands in the ledger; what it holds, nobody here can tell."""
    return msgspec.structs.replace(
        envelope,
        dataclassification="personal",
        datasubject=f"{who}.2026-01",
        dataenc="v1",
        data=msgspec.UNSET,
        data_base64="AQ==",
    )


def opened(envelope: Envelope, who: str = ANN) -> Envelope:
    """The same with its data."""
    return msgspec.structs.replace(
        envelope, dataclassification="personal", datasubject=f"{who}.2026-01"
    )


def erase(ledger: Ledger, who: str = ANN) -> Record:
    """An operator erases somebody."""
    return ledger.add(ALICE, control(PRIVACY_ERASE, {"subject": who}))


class Scene:
    """A fold with one run that an event about Ann has started."""

    def __init__(self, opens: Any = "all", *, keep_ended: bool = False) -> None:
        known, self.ledger = registered(blueprint(on="order.created"))
        self.fold = Fold(COORDINATOR, keep_ended)
        for record in self.ledger.records:
            self.fold.apply(record)
        assert known.active == self.fold.active
        event = Envelope.new("order.created", {"card": "4111"}, id="e1")
        self.event = self.ledger.add(ALICE, sealed(event))
        found = opened(event) if opens == "all" else opens
        (self.name,) = self.fold.apply(self.event, found)

    @property
    def run(self) -> Run:
        """The run."""
        return self.fold.runs[self.name]

    def dispatched(self) -> Dispatch:
        """Its task, which is sent."""
        (command,) = self.fold.due_for(self.name)
        assert isinstance(command, Dispatch)
        self.fold.apply(self.ledger.add(US, sealed(message(command))))
        return command

    def answered(self, command: Dispatch, type: str, data: Any, who: str = ANN) -> Record:
        """The agent's answer, which is sealed too."""
        answer = result(command, type, data)
        record = self.ledger.add(AGENT, sealed(answer, who))
        self.fold.apply(record, opened(answer, who))
        return record


def test_a_run_goes_on_with_what_was_opened_and_knows_whom_it_is_about() -> None:
    """Also those whom only a result is about, each once."""
    scene = Scene()
    assert scene.fold.reads_sealed(scene.event)
    assert scene.run.about == {f"{ANN}.2026-01"}
    task = scene.dispatched()
    assert task.data == {"got": {"card": "4111"}}
    record = scene.answered(task, RESULT, {"paid": 1}, BOB)
    assert scene.fold.reads_sealed(record)
    assert scene.run.about == {f"{ANN}.2026-01", f"{BOB}.2026-01"}
    assert scene.fold.due_for(scene.name) == (Announce(scene.name, "succeeded", {"paid": 1}, None),)


def test_only_what_is_needed_is_opened() -> None:
    """Neither own tasks nor ends of runs, and nothing that is not for the coordinator."""
    scene = Scene()
    task = sealed(Envelope.new("t", kind="task", to="do.it", runid=scene.name))
    others = [
        scene.ledger.add(US, task),
        scene.ledger.add(US, sealed(Envelope.new(RUN_FINISHED, runid=scene.name))),
        scene.ledger.add(ALICE, sealed(Envelope.new("something.else"))),
        scene.ledger.add(ALICE, Envelope.new("order.created")),
        scene.ledger.add(AGENT, sealed(Envelope.new("r", kind="result", to="crew.other"))),
    ]
    assert [scene.fold.reads_sealed(record) for record in others] == [False] * 5


@pytest.mark.parametrize("sent", [False, True])
def test_an_erasure_ends_the_runs_it_concerns_and_no_others(sent: bool) -> None:
    """They fail, with nothing of the data left in them; late answers change nothing."""
    scene = Scene()
    task = scene.dispatched() if sent else None
    assert scene.fold.apply(erase(scene.ledger, BOB)) == ()
    assert scene.run.status == "running"
    assert scene.fold.apply(erase(scene.ledger)) == (scene.name,)
    run = scene.run
    assert (run.status, run.error, run.erased) == ("failed", ERASED, True)
    assert "4111" not in repr(run)
    if task:
        scene.fold.apply(scene.ledger.add(AGENT, result(task, DEADLETTER, {"error": "late"})))
    assert scene.fold.due_for(scene.name) == (Announce(scene.name, "failed", None, ERASED),)


def test_a_run_that_had_ended_is_announced_without_its_output() -> None:
    """It has succeeded, and what came of it is gone."""
    scene = Scene()
    scene.answered(scene.dispatched(), RESULT, {"card": "4111"})
    scene.fold.apply(erase(scene.ledger))
    (end,) = scene.fold.due_for(scene.name)
    assert end == Announce(scene.name, "succeeded", None, ERASED)


@pytest.mark.parametrize("erased_before_it_was_announced", [False, True])
def test_a_restart_after_an_erasure_comes_to_the_same_end(
    erased_before_it_was_announced: bool,
) -> None:
    """What cannot be opened any more is begun and has failed; the announcement ends it."""
    scene = Scene()
    scene.answered(scene.dispatched(), RESULT, {"card": "4111"})
    (end,) = scene.fold.due_for(scene.name)
    if erased_before_it_was_announced:
        scene.fold.apply(erase(scene.ledger))
    else:
        scene.fold.apply(scene.ledger.add(US, sealed(message(end))))
        scene.fold.apply(erase(scene.ledger))

    again = Fold(COORDINATOR)
    for record in scene.ledger.records:
        again.apply(record, GONE if again.reads_sealed(record) else None)
    assert again.ignored == 0
    if erased_before_it_was_announced:
        assert again.due_for(scene.name) == (Announce(scene.name, "failed", None, ERASED),)
    else:
        assert again.runs == scene.fold.runs == {}


def test_a_result_that_is_gone_fails_its_run() -> None:
    """It could not go on without it."""
    scene = Scene()
    task = scene.dispatched()
    record = scene.ledger.add(AGENT, sealed(result(task, RESULT, {}), BOB))
    assert scene.fold.apply(record, GONE) == (scene.name,)
    assert (scene.run.status, scene.run.error) == ("failed", ERASED)


def test_who_may_not_open_sees_that_there_is_a_run_and_how_it_ended() -> None:
    """The end says so outside of its data; what happens in between is not known."""
    scene = Scene(None, keep_ended=True)
    assert (scene.run.status, scene.run.sealed) == ("running", True)
    assert {state.status for state in scene.run.steps.values()} == {"waiting"}
    end = sealed(Envelope.new(RUN_FINISHED, runid=scene.name, subject="cancelled"))
    scene.fold.apply(scene.ledger.add(US, end))
    assert (scene.run.status, scene.run.announced) == ("cancelled", True)


def test_a_sealed_start_names_its_blueprint_outside_of_its_data() -> None:
    """So that it is known which run was begun, also when its data is gone."""
    scene = Scene()
    start = control(RUN_START, {"blueprint": "b", "input": 1}, "s1")
    named = msgspec.structs.replace(sealed(start), subject="b")
    (name,) = scene.fold.apply(scene.ledger.add(ALICE, named), GONE)
    assert scene.fold.runs[name].error == ERASED
    assert (
        scene.fold.apply(scene.ledger.add(ALICE, sealed(control(RUN_START, 1, "s2"))), GONE) == ()
    )
