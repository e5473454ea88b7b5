"""The story of a correlation id, told from records alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegate.timeline import Line, timeline_of
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.record import Ingress, Reason, Record, Why
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import (
    COORDINATOR,
    DEADLETTER,
    IDENTITY_REGISTER,
    RESULT,
    RUN_FINISHED,
    RUN_START,
    RUN_TIMEOUT,
)

NOW = "2026-01-31T12:00:00.000000000Z"


class Ledger:
    """Makes records, one after the other."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(
        self,
        by: object,
        type: str,
        data: Any = None,
        *,
        verdict: Verdict = Verdict.ALLOW,
        reason: str = Reason.PERMITTED,
        policies: tuple[str, ...] = (),
        facts: dict[str, Any] | None = None,
        **attributes: Any,
    ) -> Envelope:
        """Record a message of the story `story`, unless it says otherwise."""
        attributes.setdefault("correlationid", "story")
        message = Envelope.new(type, data, **attributes)
        kind, to = message.destination()
        seq = len(self.records) + 1
        self.records.append(
            Record(
                v=1,
                log="test/0",
                seq=seq,
                time=NOW,
                epoch=1,
                ingress=Ingress(seq, 0, NOW),
                by=str(by),
                kind=kind,
                to=to,
                verdict=verdict,
                why=Why(policies, reason, "sha256:0", (), facts or {}),
                first=1 if verdict is Verdict.DUPLICATE else None,
                envelope=msgspec.Raw(encode(message)),
            )
        )
        return message

    def told(self, correlation: str = "story") -> list[str]:
        """The sentences."""
        return [line.text for line in timeline_of(self.records, correlation)]


def _run(ledger: Ledger, **about: Any) -> Envelope:
    about |= {"kind": "task", "to": "work.do", "runid": "r1", "stepid": "greet"}
    return ledger.add(COORDINATOR, "work.do", {"name": "Ada"}, **about)


def test_a_run_is_told_from_its_event_to_its_end() -> None:
    """Each record is one sentence that says who did what in which step."""
    ledger = Ledger()
    ledger.add("outside.web", "greeting.requested", {"name": "Ada", "none": None, "empty": []})
    task = _run(ledger, attempt=1, subject="0")
    ledger.add(
        "desk.greeter",
        RESULT,
        {"text": "Hello, Ada!"},
        kind="result",
        to=str(COORDINATOR),
        causationid=task.id,
    )
    end = {"run": "r1", "blueprint": "greet", "status": "succeeded", "output": "Hello, Ada!"}
    ledger.add(COORDINATOR, RUN_FINISHED, end, runid="r1")

    assert ledger.told() == [
        "outside.web reports greeting.requested: name=Ada",
        "tidegate.coordinator asks for work.do (step greet)",
        "desk.greeter answers step greet: text=Hello, Ada!",
        "tidegate.coordinator ends run r1 of greet: succeeded, output Hello, Ada!",
    ]


def test_lines_bear_what_programs_need() -> None:
    """Sequence, time, verdict, kind, sender and destination stand beside the sentence."""
    ledger = Ledger()
    ledger.add("outside.web", "greeting.requested", 7)

    (line,) = timeline_of(ledger.records, "story")

    assert line == Line(
        1,
        NOW,
        "allow",
        "event",
        "outside.web",
        "greeting.requested",
        "outside.web reports greeting.requested: 7",
    )


def test_attempts_and_elements_are_told_apart() -> None:
    """The index of an element and the number of an attempt are said where they matter."""
    ledger = Ledger()
    _run(ledger, attempt=1, subject="0")
    _run(ledger, attempt=3, subject="0")
    _run(ledger, attempt=1, subject="4")
    _run(ledger, attempt=2, subject="4")

    assert [text.partition(" (")[2] for text in ledger.told()] == [
        "step greet)",
        "step greet, attempt 3)",
        "step greet[4])",
        "step greet[4], attempt 2)",
    ]


def test_what_went_wrong_is_said() -> None:
    """Dead letters, times that were over and failed runs say why."""
    ledger = Ledger()
    task = _run(ledger, attempt=1, subject="0")
    letter = {"error": "ValueError: no\nway", "attempts": 3, "history": [1, 2, 3]}
    answer: dict[str, Any] = {"kind": "result", "to": str(COORDINATOR), "causationid": task.id}
    ledger.add("desk.greeter", DEADLETTER, letter, **answer)
    ledger.add("desk.greeter", DEADLETTER, "not a letter", **answer)
    about: dict[str, Any] = {"runid": "r1", "stepid": "greet", "attempt": 2, "subject": "0"}
    ledger.add(COORDINATOR, RUN_TIMEOUT, kind="control", to=RUN_TIMEOUT, **about)
    end = {"blueprint": "greet", "status": "failed", "error": "greet[0]: no way", "output": None}
    ledger.add(COORDINATOR, RUN_FINISHED, end, runid="r1")
    ledger.add(COORDINATOR, RUN_FINISHED, [1], runid="r1")

    assert ledger.told()[1:] == [
        "desk.greeter gives up step greet after 3 attempts: ValueError: no way",
        "desk.greeter gives up step greet: not a letter",
        "tidegate.coordinator finds the time over for step greet, attempt 2",
        "tidegate.coordinator ends run r1 of greet: failed, greet[0]: no way",
        "tidegate.coordinator ends run r1: [1]",
    ]


@pytest.mark.parametrize(
    ("verdict", "reason", "policies", "facts", "expected"),
    [
        (
            Verdict.DENY,
            "forbidden",
            ("p1", "p2"),
            {},
            ": not delivered, forbidden by policy p1, p2",
        ),
        (Verdict.DENY, "not_permitted", (), {"detail": "nobody"}, ": not delivered, nobody"),
        (Verdict.DENY, "expired", (), {}, ": not delivered, expired"),
        (
            Verdict.DENY,
            "over_budget",
            ("p1",),
            {"detail": "10 left, 20 needed"},
            ": not delivered, over_budget by policy p1: 10 left, 20 needed",
        ),
        (
            Verdict.DENY,
            "approval_refused",
            (),
            {"detail": "by ops.cy"},
            ": not delivered, refused by ops.cy",
        ),
        (Verdict.DUPLICATE, "repeated", (), {}, " (again; counted once, see record 1)"),
        (Verdict.HOLD, "paused", ("p1",), {"detail": "bus is paused"}, " (waits: bus is paused)"),
    ],
)
def test_what_was_not_delivered_says_why(
    verdict: Verdict, reason: str, policies: tuple[str, ...], facts: dict[str, Any], expected: str
) -> None:
    """Verdict and grounds are part of the sentence."""
    ledger = Ledger()
    ledger.add("a.b", "it", 1, verdict=verdict, reason=reason, policies=policies, facts=facts)

    assert ledger.told() == [f"a.b reports it: 1{expected}"]


def test_for_whom_a_task_is_asked_for_is_said() -> None:
    """Policies decide about all of them, so who only sees the sender would not understand why."""
    ledger = Ledger()
    ledger.add("a.b", "do", 1, kind="task", to="do", onbehalfof="c.d,e.f")

    assert ledger.told() == ["a.b asks for do on behalf of c.d, e.f"]


def test_only_records_of_the_story_are_told() -> None:
    """A message without correlation id begins a story under its own; unreadable ones have none."""
    ledger = Ledger()
    first = ledger.add("a.b", "one", 1, correlationid=None)
    ledger.add("a.b", "two", 2, correlationid=first.id)
    ledger.add("a.b", "three", 3, correlationid="another")
    unreadable = msgspec.structs.replace(
        ledger.records[0], seq=4, verdict=Verdict.REJECT, kind=Kind.UNKNOWN, envelope=msgspec.UNSET
    )
    damaged = msgspec.structs.replace(ledger.records[0], seq=5, envelope=msgspec.Raw(b'{"id":1}'))
    ledger.records += [unreadable, damaged]

    assert ledger.told(first.id) == ["a.b reports one: 1", "a.b reports two: 2"]
    assert ledger.told("nobody") == []


def test_commands_are_told_and_long_data_is_cut() -> None:
    """A line stays a line, whatever the data is."""
    ledger = Ledger()
    ledger.add("tidegate.operator", RUN_START, {"blueprint": "x"}, kind="control", to=RUN_START)
    ledger.add("a.b", IDENTITY_REGISTER, {"many": [1] * 9}, kind="control", to=IDENTITY_REGISTER)
    ledger.add("a.b", "long", "word " * 100)
    ledger.add("a.b", "wide", {f"key{n}": "x" * 100 for n in range(9)})
    ledger.add("a.b", "bytes", None, data_base64="AAEC")
    ledger.add("a.b", RUN_FINISHED, {"status": "succeeded"})

    start, register, long, wide, raw, pretended = ledger.told()

    assert start == "tidegate.operator starts a run: blueprint=x"
    assert register == "a.b commands identity.register: many=9 entries"
    assert long.endswith("word…")
    assert wide.endswith("…")
    assert all(len(text) < 200 and "\n" not in text for text in ledger.told())
    assert raw == "a.b reports bytes: (binary data)"
    assert pretended == "a.b reports run.finished: status=succeeded"


def test_events_of_the_same_id_are_told_apart_by_their_source() -> None:
    """By whoever names it; a result that names none answers the task of that id."""
    ledger = Ledger()
    for name in ("one", "two"):
        ledger.add("outside.website", "greeting.requested", id="same", source=f"/{name}")
    _run(ledger, id="a", causationid="same", causationsource="/one")
    _run(ledger, id="b", causationid="same", causationsource="/two")
    answer: dict[str, Any] = {"kind": "result", "to": "outside.website", "causationid": "same"}
    ledger.add("team.agent", DEADLETTER, {"error": "no"}, causationsource="/one", **answer)
    ledger.add("team.agent", RESULT, {"text": "hi"}, **answer)

    causes = [line.cause for line in timeline_of(ledger.records, "story")]
    assert causes == [None, None, 1, 2, 1, None]


def test_each_line_names_what_it_follows_from() -> None:
    """What it answers, or repeats, or lets go; of an id that several have used, whom it answers."""
    ledger = Ledger()
    start = ledger.add("outside.website", "greeting.requested", id="same")
    task = _run(ledger, id="same", causationid=start.id)
    ledger.add("team.agent", "note.taken", causationid="nobody")
    answer: dict[str, Any] = {"kind": "result", "to": str(COORDINATOR), "causationid": task.id}
    ledger.add("team.agent", RESULT, {"text": "hi"}, **answer)
    ledger.add("team.agent", DEADLETTER, {"error": "no"}, **answer)
    ledger.add("outside.website", "greeting.requested", verdict=Verdict.DUPLICATE)
    lines = timeline_of(ledger.records, "story")

    assert [line.cause for line in lines] == [None, 1, None, 2, 2, 1]
    assert [line.step for line in lines] == ["", "greet", "", "greet", "greet", ""]
    assert [line.gave_up for line in lines] == [False] * 4 + [True, False]
