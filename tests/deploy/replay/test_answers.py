"""What agents say now beside what they said then, and what they are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegate.replay.answers import Answers, Outcome
from tidegate.replay.redelivery import Played
from tidegate.replay.report import digest, redelivery_of
from tidegate.replay.script import Script
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import DEADLETTER, RESULT

from .kit import Ledger, answering, manifest

ADDER = manifest("adder", tasks=("math.add",))
ME = "work.adder"


class Then:
    """A task, and what was said to it then."""

    def __init__(self) -> None:
        self.script = Script((ADDER,), 100)
        self.ledger = Ledger(self.script)
        self.asked = self.ledger.task("math.add", [1, 2])
        self._answers: Answers | None = None

    @property
    def answers(self) -> Answers:
        """Listening."""
        if self._answers is None:
            self._answers = Answers(self.script.said, {(ME, self.asked.id): 1})
        return self._answers

    def result(self, data: Any, **more: Any) -> None:
        """It was answered."""
        self.ledger.answer(ME, self.asked, data, id="answer", **more)

    def event(self, data: Any, **more: Any) -> None:
        """Something was told."""
        self.ledger.add(ME, "note", data, causationid=self.asked.id, **more)

    def now(self, type: str, data: Any, **more: Any) -> Any:
        """It is said now; the receipt."""
        if type in (RESULT, DEADLETTER):
            more = {"id": "answer", **answering(self.asked), **more}
        else:
            more = {"causationid": self.asked.id, **more}
        return self.answers.hear(ME, Envelope.new(type, data, **more), 7)

    def outcomes(self) -> list[tuple[str, int]]:
        """Each finding, with the record of then."""
        return [(f.outcome.value, f.record) for f in self.answers.finish()]


def test_the_same_is_the_same_in_other_bytes_too() -> None:
    """Whether the bytes are, is told besides."""
    then = Then()
    then.result({"a": 1, "b": 2})
    receipt = then.now(RESULT, {"b": 2, "a": 1})
    (found,) = then.answers.finish()

    assert (found.outcome, found.exact, found.what) == (Outcome.SAME, False, ())
    assert (found.agent, found.to_record, found.record) == (ME, 1, 2)
    assert (receipt.verdict, receipt.seq, receipt.ingress) == (Verdict.ALLOW, 2, 7)


@pytest.mark.parametrize(
    ("was", "is_", "outcome", "what"),
    [
        ((RESULT, 1), (RESULT, 2), Outcome.DIFFERENT, "the data is 2, was 1"),
        ((RESULT, 1), (DEADLETTER, {"error": "x"}), Outcome.FAILED, "x"),
        ((DEADLETTER, {"error": "x"}), (RESULT, 1), Outcome.MENDED, None),
        ((DEADLETTER, {"error": "x", "at": 1}), (DEADLETTER, {"error": "x"}), Outcome.SAME, None),
        (
            (DEADLETTER, {"error": "x"}),
            (DEADLETTER, {"error": "y"}),
            Outcome.DIFFERENT,
            "the error is y, was x",
        ),
    ],
)
def test_results_and_dead_letters(
    was: tuple[str, Any], is_: tuple[str, Any], outcome: Outcome, what: str | None
) -> None:
    """Of two dead letters the error counts, the rest tells of times."""
    then = Then()
    then.result(was[1], type=was[0])
    then.now(*is_)
    (found,) = then.answers.finish()

    assert found.outcome is outcome
    assert found.what == ((what,) if what else ())


def test_other_attributes_count_too() -> None:
    """What it cost, for whom it was said."""
    then = Then()
    then.result(1, costs="usd:1")
    then.now(RESULT, 1, costs="usd:2")
    (found,) = then.answers.finish()

    assert found.what == ("`costs` is 'usd:2', was 'usd:1'",)


def test_agents_are_told_what_they_were_told_then() -> None:
    """A refusal too; of what nobody said then nobody knows."""
    then = Then()
    then.event(1, verdict=Verdict.DENY)
    denied, extra = then.now("note", 1), then.now("other", 1)

    assert (denied.verdict, denied.seq) == (Verdict.DENY, 2)
    assert (extra.verdict, extra.seq) == (Verdict.ALLOW, 0)
    assert then.outcomes() == [("same", 2), ("extra", 0)]


def test_events_are_paired_by_id_then_by_data_then_in_order() -> None:
    """Ids are often random."""
    then = Then()
    for name, data in (("a", 1), ("b", 2), ("c", 3), ("d", 4)):
        then.event(data, id=name)
    then.now("note", 9, id="c")
    then.now("note", 4)
    then.now("note", 7)
    then.now("note", 2)

    assert then.outcomes() == [("different", 2), ("same", 3), ("different", 4), ("same", 5)]


def test_what_is_sent_twice_counts_once() -> None:
    """And takes nothing that something else is paired with."""
    then = Then()
    then.event(1, id="a")
    then.event(1, id="b")
    then.now("note", 1, id="z")
    again = then.now("note", 1, id="z")
    then.now("extra", 1, id="y")
    then.now("extra", 1, id="y")

    assert (again.verdict, again.was, again.seq) == (Verdict.DUPLICATE, Verdict.ALLOW, 2)
    assert then.outcomes() == [("extra", 0), ("same", 2), ("missing", 3)]


def test_what_the_ledger_does_not_hold_is_not_compared() -> None:
    """Redacted fields, and data that is sealed."""
    then = Then()
    then.event({"a": "[redacted]", "b": 1}, id="a", obligations=("redact:/a#rule",))
    then.ledger.add(
        ME,
        "secret",
        causationid=then.asked.id,
        dataclassification="personal",
        dataenc="v1",
        data_base64="AAAA",
    )
    then.now("note", {"a": "hush", "b": 1})
    then.now("secret", None, dataclassification="personal", dataenc="v1", data_base64="BBBB")

    assert then.outcomes() == [("same", 2), ("sealed", 3)]


def test_the_report_counts_and_says_what_was_not_captured() -> None:
    """Its digest is of all but itself; the ledger is told the counts."""
    then = Then()
    then.result(1)
    then.ledger.task("math.add")
    then.ledger.task("other.thing")
    then.now(RESULT, 2)
    report = redelivery_of(then.script, Played(then.answers.finish(), 1), first=1, query={"a": "b"})
    told = report.summary()

    assert not report.same
    assert report.agents == {ME: {"delivered": 2, "different": 1}}
    assert {gap.what: gap.count for gap in report.not_captured} == {
        "unanswered": 1,
        "for others": 1,
    }
    assert (told.first, told.last, told.query) == (1, 100, {"a": "b"})
    assert told.counts["different"] == told.counts["unsettled"] == 1
    assert told.report == digest(msgspec.to_builtins(report))
    settled = redelivery_of(then.script, Played([], 0), first=1, query={})
    assert settled.same
