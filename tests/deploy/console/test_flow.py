"""Live figures: a fold of the ledger."""

from __future__ import annotations

import re

import msgspec
import pytest

from tidegate.console.bars import HEIGHT, bars
from tidegate.console.flow import NEWEST, SECONDS, Flow
from tidegate_bus.frames import Entry
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import LedgerError
from tidegate_schemas.record import Ingress, Record, Why, encode_record
from tidegate_schemas.subjects import Kind, Verdict

BEGIN = parse_rfc3339("2026-01-31T12:00:00Z")
SECOND = 1_000_000_000
MILLISECOND = 1_000_000
APPROVAL = ("require_approval:1 of ops.ann within never#some",)


def entry(
    seq: int,
    at: float,
    verdict: Verdict = Verdict.ALLOW,
    *,
    waited: int = 5,
    n: int = 0,
    first: int | None = None,
    obligations: tuple[str, ...] = (),
) -> Entry:
    """A record, decided `at` seconds after the beginning, `waited` ms after it was submitted."""
    time = BEGIN + int(at * SECOND)
    record = Record(
        v=1,
        log="hello/0",
        seq=seq,
        time=rfc3339(time),
        epoch=1,
        ingress=Ingress(seq, n, rfc3339(time - waited * MILLISECOND)),
        by="outside.website",
        kind=Kind.EVENT,
        to="metric",
        verdict=verdict,
        why=Why((), "permitted", "sha256:0", obligations),
        first=first,
        envelope=msgspec.Raw(b'{"id":"1"}'),
    )
    return Entry(seq, encode_record(record))


def test_each_record_is_counted_by_its_verdict_for_ever() -> None:
    """Totals forget nothing, however old; what is newest is listed, the newest first."""
    flow = Flow()
    verdicts = [Verdict.ALLOW] * 30 + [Verdict.DENY] * 3 + [Verdict.DUPLICATE]

    flow.add(entry(seq, seq * 60.0, verdict) for seq, verdict in enumerate(verdicts, 1))

    sample = flow.sample(BEGIN)
    assert (sample.seq, sum(sample.totals.values())) == (34, 34)
    assert sample.totals[Verdict.ALLOW] == 30
    assert sample.totals[Verdict.REJECT] == 0
    assert [line.seq for line in sample.newest] == list(range(34, 34 - NEWEST, -1))
    assert flow.seen["outside.website"] == (34, BEGIN + 34 * 60 * SECOND)


def test_rates_are_of_the_last_seconds_that_are_over() -> None:
    """Ten records a second are ten a second, and none once nothing has come for a while."""
    flow = Flow()
    flow.add(entry(seq, seq / 10) for seq in range(1, 101))

    now = flow.sample(BEGIN + 10 * SECOND)
    later = flow.sample(BEGIN + 20 * SECOND)

    assert now.rates[Verdict.ALLOW] == pytest.approx(10)
    assert [second.get(Verdict.ALLOW, 0) for second in now.series[-3:]] == [10, 10, 10]
    assert later.rates[Verdict.ALLOW] == 0
    assert len(later.series) == SECONDS


def test_latencies_are_of_what_was_decided_at_once() -> None:
    """Within 4 % of what they were; what went on later waited for somebody, not for the gateway."""
    flow = Flow()
    flow.add(entry(seq, 1, waited=4) for seq in range(1, 99))
    flow.add([entry(99, 1, waited=80), entry(100, 1, waited=90)])
    flow.add([entry(101, 1, waited=3_600_000, n=1)])

    sample = flow.sample(BEGIN + 2 * SECOND)

    assert sample.p50 == pytest.approx(4, rel=0.04)
    assert sample.p99 == pytest.approx(80, rel=0.04)
    assert flow.sample(BEGIN + 120 * SECOND).p50 is None


def test_what_waits_is_counted_until_it_goes_on_or_is_denied() -> None:
    """And of that, what waits for an approval."""
    flow = Flow()
    flow.add([entry(1, 1, Verdict.HOLD), entry(2, 1, Verdict.HOLD, obligations=APPROVAL)])
    flow.add([entry(3, 1, Verdict.HOLD, obligations=APPROVAL)])
    before = flow.sample(BEGIN)

    flow.add([entry(4, 2, n=1, first=2)])
    flow.add([entry(5, 2, Verdict.DUPLICATE, first=3), entry(6, 2, Verdict.DENY, n=1, first=1)])
    after = flow.sample(BEGIN)

    assert (before.waiting, before.asked) == (3, 2)
    assert (after.waiting, after.asked) == (1, 1)


def test_a_record_that_is_none_stops_it() -> None:
    """Figures that leave something out would be wrong without saying so."""
    with pytest.raises(LedgerError, match="ledger record 1 is not of a gateway"):
        Flow().add([Entry(1, b"{}")])


def test_bars_stand_on_each_other_below_a_round_number() -> None:
    """The scale changes seldom: its top is 1, 2 or 5 with noughts, and at least 10."""
    drawn = bars([[0, 0], [30, 10], [0, 70]])

    assert drawn.top == 100
    low, high = drawn.paths
    (top,) = re.findall(r"M\S+ ([\d.]+)h", low)
    assert float(top) == pytest.approx(HEIGHT * 0.7, abs=0.1)
    assert [float(y) for y in re.findall(r"M\S+ ([\d.]+)h", high)] == [
        pytest.approx(HEIGHT * 0.6, abs=0.1),
        pytest.approx(HEIGHT * 0.3, abs=0.1),
    ]
    assert [bars([[n]]).top for n in (0, 10, 11, 21, 51, 1_001)] == [10, 10, 20, 50, 100, 2_000]
