"""What the ledger is told of exports and replays."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate_schemas.audit import Export, Format, Mode, Replay
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope

DIGEST = "sha256:" + "0" * 64
EXPORT = {"first": 1, "last": 9, "size": 9, "formats": ["jsonl"], "manifest": DIGEST}
REPLAY = {"first": 1, "last": 9, "mode": "redelivery", "report": DIGEST}


def read(data: dict[str, Any], into: type[Export] | type[Replay]) -> Any:
    """As the gateway reads it."""
    found = Envelope.new("audit.x", data).payload(into)
    found.check()
    return found


def test_both_are_read_as_they_are_written() -> None:
    """What is left out is empty."""
    assert read(EXPORT, Export) == Export(1, 9, 9, (Format.JSONL,), DIGEST)
    replay = {**REPLAY, "query": {"since": "1h"}, "counts": {"same": 3}}
    assert read(replay, Replay) == Replay(
        1, 9, Mode.REDELIVERY, DIGEST, {"since": "1h"}, {"same": 3}
    )


def test_of_a_part_without_records_the_end_is_before_the_beginning() -> None:
    """By one, and by no more."""
    assert read({**REPLAY, "first": 5, "last": 4}, Replay).last == 4
    with pytest.raises(InvalidEnvelope, match="records 5 to 3 are no part"):
        read({**REPLAY, "first": 5, "last": 3}, Replay)


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 0},
        {"mode": "guess"},
        {"report": "sha256:0"},
        {"counts": {"same": -1}},
        {"counts": {str(n): n for n in range(21)}},
        {"query": {"": "x"}},
        {"query": {"since": "x" * 1001}},
        {"more": 1},
    ],
)
def test_what_is_not_written_so_is_refused(wrong: dict[str, Any]) -> None:
    """Counts and queries are bounded, so that nobody keeps a library in them."""
    with pytest.raises(InvalidEnvelope, match="data"):
        read({**REPLAY, **wrong}, Replay)
