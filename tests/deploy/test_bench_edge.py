"""The benchmark of the HTTP edge, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.bench.edge import edge


@pytest.mark.long
async def test_both_are_measured_by_the_same_requests(tmp_path: Path) -> None:
    """Rates, latencies and what the edge has of the rate of an application that does nothing."""
    told: list[int] = []
    found = {f.name: f.value for f in await edge(tmp_path, 100, 2, 10, 64, told.append)}

    assert told == [100, 200, 300, 400, 500, 600]
    for name in ("bare", "edge, accepted", "edge, verdict"):
        assert 0 < found[f"{name}, p50"] <= found[f"{name}, p99"]
        assert found[name] > 0
        assert found[f"{name}, server's time"] > 0
    assert found["edge, accepted / bare"] == found["edge, accepted"] / found["bare"]
