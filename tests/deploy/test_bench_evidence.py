"""The benchmark of evidence, run small."""

from __future__ import annotations

import json
import sys

import pytest

from support.broker import IN_CONTAINER
from tidegate.cli import main


@pytest.mark.long
@pytest.mark.skipif(IN_CONTAINER, reason="it starts brokers of its own")
def test_the_benchmark_measures_writer_notary_auditor_and_exporter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All parts in one run, each step of the gateway beside a plain hash; nothing is zero."""
    small = ("--records", "1000", "--leaves", "1000", "--rate", "500", "--seconds", "1")
    monkeypatch.setattr(sys, "argv", ["tidegate", "bench", "evidence", *small, "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    report = json.loads(capsys.readouterr().out)
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}

    assert end.value.code == 0
    assert report["bench"] == "evidence"
    assert list(figures) == [
        "gateway: a hash of its bytes",
        "gateway: its leaf",
        "gateway: leaf and tree",
        "gateway: leaf, tree, journal, heads",
        "gateway: all of it",
        "proof of 1 of 1,000: p50",
        "proof of 1 of 1,000: slowest of 200",
        "written",
        "checkpoint behind its record: p50",
        "checkpoint behind its record: p99",
        "checkpoint behind its record: most",
        "checkpoints",
        "export as jsonl",
        "export as jsonl: peak memory",
        "verified, one core",
        "verified: peak memory",
        "export as parquet",
        "export as parquet: peak memory",
        "export as ocsf",
        "export as ocsf: peak memory",
    ]
    assert all(value > 0 for value in figures.values())
    assert figures["checkpoint behind its record: most"] < 60
