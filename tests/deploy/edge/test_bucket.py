"""The bucket: what a rate lets through, exactly, and when the next one may come."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.edge.bucket import Bucket
from tidegate_schemas.rate import Rate

EXAMPLES = settings(database=None, deadline=None, derandomize=True, max_examples=200)
SECOND = 1_000_000_000
rates = st.builds(Rate, st.integers(1, 10**9), st.sampled_from([0.001, 0.3, 1.0, 60.0, 86_400.0]))
small = st.builds(Rate, st.integers(1, 7), st.sampled_from([0.001, 1.0]))
gaps = st.lists(st.integers(0, 2 * SECOND) | st.integers(0, 10**6), max_size=60)


@EXAMPLES
@given(small, st.integers(0, 10**18), gaps)
def test_it_lets_through_what_a_bucket_that_fills_evenly_would(
    rate: Rate, start: int, gaps: list[int]
) -> None:
    """Compared with one that is filled in exact fractions, at every moment."""
    bucket, now = Bucket(rate), start
    speed = Fraction(rate.count, round(rate.seconds * SECOND))
    there = Fraction(rate.count)
    for gap in gaps:
        now += gap
        there = min(Fraction(rate.count), there + gap * speed)
        wait = bucket.take(now)
        assert (wait == 0.0) == (there >= 1)
        if wait:
            assert wait == pytest.approx(float((1 - there) / speed) / SECOND)
        else:
            there -= 1


@EXAMPLES
@given(rates, st.integers(0, 10**18))
def test_who_waits_as_long_as_is_said_is_let_through(rate: Rate, now: int) -> None:
    """And a nanosecond sooner is too soon, where a float can say so."""
    bucket = Bucket(rate)
    for _ in range(min(rate.count, 50)):
        assert bucket.take(now) == 0.0
    if rate.count <= 50:
        wait = bucket.take(now)
        assert wait > 0.0
        assert bucket.take(now + ceil(wait * SECOND * 1.000001)) == 0.0


RATES = {"100/1s": Rate(100, 1.0), "5/1m": Rate(5, 60.0), "1/250ms": Rate(1, 0.25)}


def test_rates_are_read_as_people_write_them() -> None:
    """And what lets nothing through, or is no rate, is refused with what to write."""
    assert {text: Rate.parse(text) for text in RATES} == RATES
    for text in ("", "1", "/1s", "1/", "0/1s", "1/0s", "-1/1s", "1.5/1s", "1/1s/1s", "1e3/1s"):
        with pytest.raises(ValueError, match=r"write 100/1s|write 250ms"):
            Rate.parse(text)
