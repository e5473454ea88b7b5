"""The benchmark of replay, run small, and the ledger that it makes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import pairwise

import pytest

from support.broker import IN_CONTAINER
from tidegate.bench.history import History
from tidegate.cli import main
from tidegate_schemas.record import decode_record


def test_a_history_is_the_same_each_time_and_has_everything_in_it() -> None:
    """All verdicts, the reasons that policies give, three bundles of about the same length."""
    leaves = [entry.payload for entry in History(2).entries(6_000)]
    records = [decode_record(leaf) for leaf in leaves]
    reasons = Counter(record.why.reason for record in records)
    bundles = Counter(record.why.bundle for record in records)

    assert [entry.payload for entry in History(2).entries(6_000)] == leaves
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert all(one.ingress.seq <= two.ingress.seq for one, two in pairwise(records))
    assert {record.verdict.value for record in records} == {
        *("allow", "deny", "hold", "reject", "duplicate"),
    }
    assert {
        *("permitted", "forbidden", "not_permitted", "learned", "rate_limited", "repeated"),
        *("expired", "malformed", "unknown_sender", "invalid_facts", "killed", "released"),
    } <= set(reasons)
    assert sorted(bundles.values())[0] == 2
    assert min(sorted(bundles.values())[1:]) > 1_900


@pytest.mark.skipif(IN_CONTAINER, reason="it starts a broker of its own")
def test_the_benchmark_reads_judges_and_verifies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number for each; one process and two find the same, and nothing differs from the ledger."""
    monkeypatch.setattr(sys, "argv", ["tidegate", "bench", "replay", "--records", "3000", "--json"])

    with pytest.raises(SystemExit) as end:
        main()
    figures = {f["name"]: f["value"] for f in json.loads(capsys.readouterr().out)["figures"]}
    for name in ("read, ledger reader", "read, in bulk", "what-if, 2 processes", "verified"):
        assert figures[name] > 0
    assert figures["what-if, 1 process: differ"] == figures["what-if, 2 processes: differ"] > 0
    assert figures["bundles in force"] == 4
    assert figures["differences"] == 0
    assert end.value.code == 0
