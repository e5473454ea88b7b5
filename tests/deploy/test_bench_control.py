"""The benchmark of controls: it measures what it says, and what must not happen does not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tidegate.bench.control import control


@pytest.mark.timeout(180)
async def test_controls_in_a_small_flow(tmp_path: Path) -> None:
    """Nothing is admitted after a command, and what was parked goes on once and in order."""
    steps: list[int] = []
    found = {f.name: f.value for f in await control(tmp_path, 1, 200.0, steps.append)}

    never = [name for name in found if "after the command" in name or name.startswith("release: l")]
    assert len(never) == 3
    assert {found[name] for name in (*never, "release: the same of deliveries")} == {0.0}
    assert found["quarantine: parked"] > 0
    assert not [name for name, value in found.items() if math.isnan(value)]
    assert steps == [1, 2, 3]
