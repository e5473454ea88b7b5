"""The benchmark of decisions, run small: what it counts."""

from __future__ import annotations

import json
import math
import sys

import pytest

from tidegate.bench.decide import decide, requests
from tidegate.cli import main


def test_both_ways_are_measured_for_both_sizes() -> None:
    """Every number is there; what is remembered is bounded by what was asked."""
    progress: list[int] = []

    figures = {figure.name: figure for figure in decide(300, 250, progress.append)}

    for rules in (20, 500):
        for what in ("by Cedar", "remembered", "first of a flow", "a message of the last third"):
            assert figures[f"{rules} rules: {what}"].value > 0
        assert 0 < figures[f"{rules} rules: hits of the last third"].value <= 100
        assert 0 < figures[f"{rules} rules: remembered decisions"].value <= 600
    for what in ("by Cedar", "remembered", "first of a flow"):
        assert figures[f"500 rules, most for others: {what}"].value > 0
    # 250 decisions, of 25 topics.
    assert figures["250 different: remembered at most"].value == 275
    assert all(math.isfinite(figure.value) for figure in figures.values())
    assert progress == sorted(progress)
    assert progress[-1] == requests(300, 250)


def test_it_prints_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures and the machine."""
    options = ["--messages", "30", "--keys", "10", "--json"]
    monkeypatch.setattr(sys, "argv", ["tidegate", "bench", "decide", *options])

    with pytest.raises(SystemExit) as end:
        main()

    body = json.loads(capsys.readouterr().out)
    assert not end.value.code
    assert body["bench"] == "decide"
    assert len(body["figures"]) == 20
