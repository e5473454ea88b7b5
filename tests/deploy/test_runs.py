"""Runs as people are shown them: in brief as the ledger grows, and whole from a story."""

from __future__ import annotations

from collections.abc import Iterable

from agents.test_fold import AGENT, AGENT_DATA, ALICE, Ledger, blueprint, control
from tidegate.index.glance import glance
from tidegate.index.keeper import Batch
from tidegate.runs import Runs, spans
from tidegate_agents.fold import Fold
from tidegate_agents.run import Run
from tidegate_bus.frames import Entry
from tidegate_schemas import vocabulary
from tidegate_schemas.record import Record, encode_record
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import COORDINATOR, RESULT


def batch(records: Iterable[Record]) -> Batch:
    """These records, as the keeper of the index gives them."""
    entries = [Entry(record.seq, encode_record(record)) for record in records]
    return Batch(entries, [glance(entry.payload) for entry in entries])


def worked() -> tuple[Ledger, dict[str, Run]]:
    """A ledger with a run of each state, one that waits, and what nobody looks at."""
    fold, ledger = Fold(COORDINATOR, keep_ended=True), Ledger()
    agent = {**AGENT_DATA, "version": "1", "owner": "crew"}
    fold.apply(ledger.add(AGENT, control(vocabulary.IDENTITY_REGISTER, agent)))
    document = {"document": blueprint("b").canonical}
    fold.apply(ledger.add(COORDINATOR, control(vocabulary.BLUEPRINT_REGISTER, document)))
    for number, word in enumerate(("done", "failed", "cancelled", "waits")):
        order = {"blueprint": "b", "input": number}
        (name,) = fold.apply(ledger.add(ALICE, control(vocabulary.RUN_START, order, id=word)))
        (task,) = fold.due_for(name)
        verdict = {"failed": Verdict.DENY, "waits": Verdict.HOLD}.get(word, Verdict.ALLOW)
        fold.apply(ledger.command(task, verdict))
        if word == "done":
            (timer,) = fold.due_for(name)
            fold.apply(ledger.answer(timer, RESULT, {"got": number}))  # type: ignore[arg-type]
        if word == "cancelled":
            fold.apply(ledger.add(ALICE, control(vocabulary.RUN_CANCEL, {"run": name})))
        if word != "waits":
            (end,) = fold.due_for(name)
            fold.apply(ledger.command(end))
    return ledger, dict(fold.runs)


def test_runs_are_listed_by_state_the_newest_first() -> None:
    """The same states as the coordinator's fold has, however the records come in batches."""
    ledger, runs = worked()
    whole, pieces = Runs(), Runs()
    whole(batch(ledger.records))
    for record in ledger.records:
        pieces(batch([record]))

    found = whole.newest(most=10)
    assert [(one.id, one.status) for one in found] == [
        (run.id, run.status) for run in reversed(runs.values())
    ]
    assert pieces.newest(most=10) == found
    assert whole.counts() == {"running": 1, "succeeded": 1, "failed": 1, "cancelled": 1}
    assert [one.waits for one in found] == [True, False, False, False]
    assert whole.newest(status="failed", most=10) == [found[2]]
    assert whole.newest(text=found[1].id[:9], skip=0, most=1) == [found[1]]
    assert whole.newest(blueprint="other", most=10) == []
    assert whole.seq == len(ledger.records)


def test_a_run_that_has_ended_is_folded_again_from_its_story() -> None:
    """With outputs and errors as they were; commands that name it from elsewhere count too."""
    ledger, runs = worked()
    shown = Runs()
    shown(batch(ledger.records))

    for run in runs.values():
        story = [
            record
            for record in ledger.records
            if (message := record.message())
            and (run.correlation in (message.id, message.correlationid) or message.runid == run.id)
        ]
        assert shown.folded(run.id, story) == run
    assert shown.folded("no such run", ledger.records) is None


def test_records_that_are_near_each_other_are_read_together() -> None:
    """Stretches hold every sequence, and no gap longer than what is said."""
    assert list(spans([], 5)) == []
    assert list(spans([3, 4, 9, 30, 31], 5)) == [(3, 9), (30, 31)]
