"""Scripts: what agents got in a part of the ledger, and what they said to it."""

from __future__ import annotations

import pytest

from tidegate.replay import script as module
from tidegate.replay.script import Script
from tidegate_policy.personal.privacy import NOTHING
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import DEADLETTER

from .kit import BEGIN, Ledger, manifest

ADDER = manifest("adder", tasks=("math.add",), events=("day.begun",))
OTHER = manifest("other", events=("day.begun",))


def made(last: int = 100, correlation: str | None = None) -> tuple[Script, Ledger]:
    """An empty one, and what fills it."""
    script = Script((ADDER, OTHER), last, correlation)
    return script, Ledger(script)


def test_agents_get_what_was_admitted_for_them() -> None:
    """Tasks of their capabilities, events of their topics; everything else is for others."""
    script, ledger = made()
    ledger.task("math.add")
    ledger.task("math.multiply")
    ledger.task("math.add", verdict=Verdict.DENY)
    ledger.task("math.add", verdict=Verdict.HOLD)
    ledger.add("x.y", "day.begun")
    ledger.add("x.y", "run.start", kind="control", to="run.start")

    assert [(d.seq, d.agents) for d in script.deliveries] == [
        (1, ("work.adder",)),
        (5, ("work.adder", "work.other")),
    ]
    assert script.deliveries[0].time == BEGIN + 10**9
    assert script.deliveries[0].subject == "ledger.0.allow.task.math.add"
    assert script.others == 1


def test_what_they_said_names_its_cause() -> None:
    """Results, events and what was refused; not what others said, nor what came again."""
    script, ledger = made()
    task = ledger.task("math.add")
    ledger.add("work.adder", "note.taken", causationid=task.id)
    ledger.add("work.adder", "note.refused", causationid=task.id, verdict=Verdict.DENY)
    ledger.add("work.adder", "note.taken", causationid=task.id, verdict=Verdict.DUPLICATE)
    ledger.add("work.adder", "note.taken", causationid=task.id, n=1)
    ledger.add("work.adder", "note.taken")
    ledger.answer("work.other", task)
    ledger.answer("work.adder", task, 3)

    assert [(s.seq, s.cause.kind, s.verdict) for s in script.said] == [
        (2, Kind.EVENT, Verdict.ALLOW),
        (3, Kind.EVENT, Verdict.DENY),
        (8, Kind.RESULT, Verdict.ALLOW),
    ]


def test_answers_are_looked_for_after_the_part() -> None:
    """Until each task has one; a denied result is none, the dead letter after it is."""
    script, ledger = made(last=2)
    one, two = ledger.task("math.add"), ledger.task("math.add")
    ledger.task("math.add")
    ledger.answer("work.adder", one)
    assert (script.open, script.over) == (1, False)
    ledger.answer("work.adder", two, verdict=Verdict.DENY)
    assert not script.over
    ledger.answer("work.adder", two, type=DEADLETTER)

    assert (script.over, script.late, len(script.deliveries)) == (True, 3, 2)


def test_nobody_knows_when_the_handler_of_an_event_ended() -> None:
    """So all of the rest may hold what it said."""
    script, ledger = made(last=1)
    ledger.add("x.y", "day.begun")

    assert (script.open, script.over) == (0, False)


def test_one_correlation_is_that_of_the_first_message_too() -> None:
    """Which bears none itself."""
    script, ledger = made(correlation="story")
    ledger.task("math.add", id="story")
    ledger.task("math.add", correlationid="story")
    ledger.task("math.add", correlationid="another")

    assert [d.seq for d in script.deliveries] == [1, 2]


def test_what_cannot_be_read_is_not_delivered() -> None:
    """Personal data is encrypted in the ledger; what is redacted there was so for agents too."""
    script, ledger = made()
    ledger.task("math.add", dataclassification="personal", dataenc="v1", data_base64="AAAA")
    ledger.task("math.add", {"a": "[redacted]"}, obligations=("redact:/a#rule",))
    ledger.task("math.add", {"b": 1}, obligations=("redact:/a#rule",))

    assert (script.sealed, script.redacted) == ([1], 1)
    assert [d.seq for d in script.deliveries] == [2, 3]


def test_what_nobody_can_read_any_more_is_erased() -> None:
    """Where the vault is at hand, which knows the keys that are left."""
    sealed = {"dataclassification": "personal", "dataenc": "v1", "data_base64": "AAAA"}
    for opener, erased in ((None, 0), (NOTHING, 1)):
        script = Script((ADDER,), 100, opener=opener)
        Ledger(script).task("math.add", **sealed)
        assert (len(script.sealed), script.erased) == (1, erased)


def test_a_part_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what would make it smaller."""
    monkeypatch.setattr(module, "MOST", 1)
    _, ledger = made()
    ledger.task("math.add")
    with pytest.raises(InvalidInput, match="--since"):
        ledger.task("math.add")
