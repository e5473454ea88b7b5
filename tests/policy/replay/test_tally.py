"""Counting what differs, and the document that says it."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES as SETTINGS
from tidegate_policy.replay import Diff, Finding, Outcome, Tally, diff_of
from tidegate_policy.replay import report as module
from tidegate_policy.replay.tally import EXAMPLES, Key

BEFORE, AFTER = "sha256:" + "0" * 64, "sha256:" + "1" * 64
DIFFERENT = [outcome for outcome in Outcome if outcome is not Outcome.SAME]

found = st.none() | st.builds(
    Finding,
    st.sampled_from(DIFFERENT),
    st.sampled_from([(), ("a",), ("a", "b")]),
    st.sampled_from(["", "why"]),
)
lines = st.lists(st.tuples(st.sampled_from(["t.x", "t.y"]), st.sampled_from(["task.a"]), found))


def tally_of(said: list[tuple[str, str, Finding | None]], first: int = 1) -> Tally:
    """The tally of these, from a sequence on."""
    tally = Tally()
    for seq, (agent, subject, finding) in enumerate(said, first):
        tally.records += 1
        if finding:
            tally.add(seq, agent, subject, finding)
    return tally


def report(tally: Tally) -> Diff:
    """The report of a tally."""
    return diff_of(
        tally, before=BEFORE, after=AFTER, since="2h", until="", first=1, last=tally.records
    )


@SETTINGS
@given(lines, st.integers(0, 40))
def test_pieces_make_the_whole(said: list[tuple[str, str, Finding | None]], cut: int) -> None:
    """Wherever it is cut, also with nothing on one side; the report is the same to the byte."""
    whole = tally_of(said)
    merged = tally_of(said[:cut])
    merged.merge(tally_of(said[cut:], len(said[:cut]) + 1))

    assert merged == whole
    assert report(merged).digest == report(whole).digest


@SETTINGS
@given(lines)
def test_every_record_is_counted_once(said: list[tuple[str, str, Finding | None]]) -> None:
    """By outcome, by agent and by subject; examples are the first of their group."""
    tally = tally_of(said)
    document = report(tally)
    changed = sum(finding is not None for *_, finding in said)

    assert sum(document.outcomes.values()) == document.records == len(said)
    assert document.outcomes[Outcome.SAME] == len(said) - changed
    for sums in (document.agents, document.subjects):
        assert sum(sum(counted.values()) for counted in sums.values()) == changed
    for group in document.groups:
        key = Key(group.outcome, group.policies, group.agent, group.subject, group.why)
        seqs = [
            seq
            for seq, (agent, subject, f) in enumerate(said, 1)
            if f and Key(f.outcome, f.policies, agent, subject, f.why) == key
        ]
        assert group.records == len(seqs)
        assert list(group.examples) == seqs[:EXAMPLES]


def test_a_policy_is_counted_with_each_record_that_it_decides() -> None:
    """Several may decide about one; what none permits has a line of its own."""
    tally = tally_of(
        [
            ("t.x", "task.a", Finding(Outcome.NEWLY_DENIED, ("a", "b"))),
            ("t.x", "task.a", Finding(Outcome.NEWLY_DENIED, ("b",))),
            ("t.x", "task.a", Finding(Outcome.NEWLY_DENIED, ())),
        ]
    )

    assert report(tally).policies == {
        "b": {Outcome.NEWLY_DENIED: 2},
        "(no policy permits it)": {Outcome.NEWLY_DENIED: 1},
        "a": {Outcome.NEWLY_DENIED: 1},
    }


def test_the_digest_can_be_computed_by_anybody() -> None:
    """SHA-256 over the document without it, members sorted, no white space."""
    tally = tally_of([("t.é", "task.a", Finding(Outcome.NEWLY_HELD, ("a",), "so"))])
    document = json.loads(msgspec.json.encode(report(tally).document()))
    said = document.pop("digest")
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert said == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert (document["from"], document["to"]) == (BEFORE, AFTER)
    assert (document["since"], document["first"], document["last"]) == ("2h", 1, 1)


@SETTINGS
@given(lines)
def test_a_report_is_read_back_as_it_was_written(
    said: list[tuple[str, str, Finding | None]],
) -> None:
    """Whoever has the file has the report, with the same digest."""
    written = report(tally_of(said))
    document = json.loads(msgspec.json.encode(written.document()))
    digest = document.pop("digest")
    again = msgspec.convert(document, Diff)

    assert again == written
    assert again.digest == digest


def test_an_activation_carries_the_sums_and_the_digest() -> None:
    """Its report says between which bundles, over which records, and how many differ how."""
    tally = tally_of([("t.x", "task.a", Finding(outcome, ())) for outcome in DIFFERENT[:3]])
    summary = report(tally).summary()

    assert (summary.before, summary.after) == (BEFORE, AFTER)
    assert (summary.first, summary.last) == (1, 3)
    assert summary.digest == report(tally).digest
    counts = (summary.newly_allowed, summary.newly_denied, summary.newly_held)
    assert (*counts, summary.indeterminate) == (1, 1, 1, 0)


def test_a_report_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest groups are listed, the others counted; the sums are of all."""
    monkeypatch.setattr(module, "MOST", 2)
    said = [(f"t.a{n % 3}", "task.a", Finding(Outcome.NEWLY_DENIED, ())) for n in range(8)]
    document = report(tally_of([*said]))

    assert [group.agent for group in document.groups] == ["t.a0", "t.a1"]
    assert document.left_out == 1
    assert document.outcomes[Outcome.NEWLY_DENIED] == 8
