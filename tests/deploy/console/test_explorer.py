"""What the pages of ledger and runs make of records, without a browser."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from deploy.test_runs import worked
from tidegate.console.blueprint_picture import boxes, layers, picture
from tidegate.console.ledger_page import wanted
from tidegate.console.message import laid_out, of_envelope, shown
from tidegate.console.proof import standing
from tidegate.index import Filter
from tidegate.project import State
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.subjects import Kind, Verdict

NOON = 1_769_860_800 * 10**9


def test_a_form_says_what_is_looked_for() -> None:
    """Empty fields do not count; times are so long ago, or RFC 3339."""
    given = {
        "by": " a.b ",
        "to": "",
        "kind": "task",
        "since": "2h",
        "until": "2026-01-31T12:00:00Z",
    }

    assert wanted(given | {"more": "x"}, NOON) == Filter(
        by="a.b", kind=Kind.TASK, since=NOON - 7200 * 10**9, until=NOON
    )
    assert wanted({}, NOON) == Filter()


@pytest.mark.parametrize("given", [{"kind": "fish"}, {"verdict": "perhaps"}, {"since": "soon"}])
def test_a_form_that_cannot_be_meant_is_an_error(given: dict[str, str]) -> None:
    """It is said which field, not passed over."""
    with pytest.raises(InvalidInput, match=next(iter(given.values()))):
        wanted(given, NOON)


def test_data_is_laid_out_and_hides_nothing() -> None:
    """JSON in the order of the sender; what could reorder the page is shown by its number."""
    message = of_envelope(Envelope.new("a.b", {"z": 1, "a": "\u202e<b>"}, subject="x\u2066y"))

    assert message.data == '{\n  "z": 1,\n  "a": "\\x202e<b>"\n}'
    assert dict(message.attributes)["subject"] == "x\\x2066y"
    assert laid_out(b"") == ""
    assert laid_out(b"not JSON \xff") == "not JSON \\xff"


def test_what_could_not_be_read_is_shown_as_its_bytes() -> None:
    """A rejected message has no envelope; it is shown all the same, if it was kept."""
    ledger, _ = worked()
    raw = base64.b64encode(b"\x1b[31m{").decode()
    changed = {"envelope": msgspec.UNSET, "verdict": Verdict.REJECT, "raw": raw}
    record = msgspec.structs.replace(ledger.records[0], **changed)

    assert shown(record).data == "\\x1b[31m{"
    large = msgspec.structs.replace(record, raw=None)
    assert "larger than the bus takes" in shown(large).note


def test_steps_are_placed_after_what_they_need() -> None:
    """As far left as can be, in the order of what they need."""
    needs = {"a": (), "b": (), "c": ("b",), "d": ("a",), "e": ("c", "d"), "f": ("a",)}

    assert layers(needs) == [["a", "b"], ["d", "f", "c"], ["e"]]


def test_a_picture_says_each_state_in_words_too() -> None:
    """One box a step, with a class for its look; no style, no script, nothing from outside."""
    _, runs = worked()
    said = {run.status: [box.words for box in boxes(run).values()] for run in runs.values()}
    assert said == {
        "succeeded": ["succeeded"],
        "failed": ["failed"],
        "cancelled": ["left"],
        "running": ["held"],
    }
    for run in (*runs.values(), replace(next(iter(runs.values())), sealed=True)):
        drawn = picture(run)
        assert len(re.findall("<a ", drawn)) == len(run.blueprint.steps)
        assert not re.search(r"style=|<script|https?:|\bon\w+=", drawn)


def test_without_a_checkpoint_nothing_is_said_to_be_proven(tmp_path: Path) -> None:
    """Not yet is no alarm; tiles that are not those of the checkpoint are one."""
    state = State(tmp_path)
    assert standing(state, 1, b"{}").word == "not yet"

    state.notary.mkdir(parents=True)
    (state.notary / "checkpoint").write_bytes(b"no note")
    found = standing(state, 1, b"{}")
    assert (found.word, found.looks) == ("NOT PROVEN", "deny")
