"""Paces: when each message is delivered again."""

from __future__ import annotations

import pytest

from tidegate.replay.pace import Pace
from tidegate_schemas.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("original", 10.0), ("1x", 10.0), ("10x", 1.0), ("0.5x", 20.0), ("max", 0)],
)
def test_time_is_divided(text: str, seconds: float) -> None:
    """Ten seconds of then; nothing comes before the beginning."""
    assert Pace.parse(text).after(10 * 10**9) == seconds
    assert Pace.parse(text).after(-1) == 0


@pytest.mark.parametrize("text", ["", "x", "10", "0x", "0.000x", "-1x", "1e3x", "fast", "٣x"])
def test_what_is_no_pace_is_refused(text: str) -> None:
    """With the forms that are understood."""
    with pytest.raises(InvalidInput, match="original, max"):
        Pace.parse(text)
