"""Checkpoints on a notary's disk: which of them stay."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signer
from tidegate_policy.signing.checkpoints import Checkpoints, superfluous
from tidegate_schemas.errors import VerificationError

NOW = 1_800_000_000
DAY = 86_400
SIGNER = Signer.generate("n", Algorithm.COSIGNATURE)


def name(moment: int, size: int = 1) -> str:
    """Of a checkpoint of that time."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment)) + f"-{size}"


def note(size: int) -> Note:
    """A cosigned checkpoint."""
    text = Checkpoint("log", size, bytes(32)).text()
    return Note(text).signed(SIGNER.sign(text, NOW))


def test_the_newest_is_always_there_and_one_of_each_minute(tmp_path: Path) -> None:
    """However often it is published."""
    checkpoints = Checkpoints(tmp_path, 0.0)
    assert checkpoints.read() is None
    for second in range(0, 180, 2):
        checkpoints.publish(note(second), second, NOW + second)
        assert checkpoints.read() == (note(second), Checkpoint("log", second, bytes(32)))

    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [name(NOW + second, second) for second in (0, 60, 120)]


def test_of_days_that_are_over_one_is_kept_as_long_as_was_said() -> None:
    """Its last one; what is older than that goes, and files of others stay."""
    minutes = [NOW - minute * 60 for minute in range(5 * 24 * 60)]
    gone = superfluous([*map(name, minutes), "notes.txt"], NOW, 3.5 * DAY)

    kept = sorted(set(map(name, minutes)) - set(gone))
    days = kept[: -24 * 60]
    assert len(kept) - len(days) == 24 * 60
    assert "notes.txt" not in gone
    assert len({day[:8] for day in days}) == len(days)
    assert 3 <= len(days) <= 4


@given(st.lists(st.integers(NOW - 10 * DAY, NOW), max_size=200), st.integers(0, 20 * DAY))
def test_whoever_tidies_up_again_finds_nothing_to_do(moments: list[int], keep: int) -> None:
    """And the newest of those that may stay at all stays."""
    names = set(map(name, moments))
    gone = set(superfluous(names, NOW, keep))

    assert superfluous(names - gone, NOW, keep) == []
    young = [moment for moment in moments if NOW - moment < DAY]
    assert not young or name(max(young)) not in gone


@pytest.mark.parametrize("data", [b"", b"x", note(3).encode()[:-30], b"x\n\n" + bytes(9)])
def test_a_file_that_is_no_checkpoint_is_said(tmp_path: Path, data: bytes) -> None:
    """By its path; nothing else is looked at in its place."""
    (tmp_path / "checkpoint").write_bytes(data)

    with pytest.raises(VerificationError, match=str(tmp_path)):
        Checkpoints(tmp_path, 0.0).read()
