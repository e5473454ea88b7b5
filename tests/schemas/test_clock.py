"""Times and durations: what is written is read back, and what is no time is a ValueError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_schemas.clock import MAX_SECONDS, parse_duration, parse_rfc3339, rfc3339

FIRST = -62_135_596_800_000_000_000
LAST = 253_402_300_799_999_999_999

moments = st.integers(FIRST, LAST)


@given(moments)
def test_a_time_comes_back_to_the_nanosecond(ns: int) -> None:
    """Writing and reading a time loses no digit, from the year 1 to the year 9999."""
    assert parse_rfc3339(rfc3339(ns)) == ns


@given(moments, moments)
def test_times_sort_as_text(one: int, other: int) -> None:
    """The text of the earlier time is the smaller text."""
    assert (rfc3339(one) < rfc3339(other)) == (one < other)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_769_860_800_123_456_789, "2026-01-31T12:00:00.123456789Z"),
        (FIRST, "0001-01-01T00:00:00.000000000Z"),
        (LAST, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_a_time_is_written_with_four_and_nine_digits(ns: int, text: str) -> None:
    """The year always has four digits and the fraction nine."""
    assert rfc3339(ns) == text


@pytest.mark.parametrize("ns", [FIRST - 1, LAST + 1, 10**40, -(10**40)])
def test_a_time_outside_the_calendar_overflows(ns: int) -> None:
    """There is no text for a time before the year 1 or after the year 9999."""
    with pytest.raises(OverflowError):
        rfc3339(ns)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T01:30:00+01:30", 0),
        ("1969-12-31T00:01:00-23:59", 0),
        ("1970-01-01T00:00:00.5Z", 500_000_000),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("1970-01-01T00:00:00.000000001+00:00", 1),
        ("1970-01-01T00:00:00.0000000019Z", 1),
        ("1970-01-01T00:00:00." + "0" * 5000 + "1Z", 0),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000_000),
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str, ns: int) -> None:
    """Small letters, any offset and any number of digits are read; digits past the ninth go."""
    assert parse_rfc3339(text) == ns


@given(moments, st.integers(-1439, 1439))
def test_the_offset_does_not_move_the_moment(ns: int, minutes: int) -> None:
    """The same moment written with an offset is the same number, or outside the calendar."""
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    text = f"{rfc3339(ns)[:-1]}{sign}{hours:02d}:{rest:02d}"
    moment = ns - minutes * 60_000_000_000
    if FIRST <= moment <= LAST:
        assert parse_rfc3339(text) == moment
    else:
        with pytest.raises(ValueError, match="outside the years 1 to 9999"):
            parse_rfc3339(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "T",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00:00 Z",
        "2026-01-31T12:00Z",
        "2026-01-31T12Z",
        "20260131T120000Z",
        "2026-W05-1T00:00:00Z",
        "2026-031T00:00:00Z",
        "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00,5Z",
        "2026-01-31T12:00:00+01",
        "2026-01-31T12:00:00+0100",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31T12:00:00+00:60",
        "2026-01-31T12:00:00+99:99",
        "2026-01-31T12:00:00+01:00:00",
        "2026-01-31T12:00:00+01:00:00.5",
        "2026-01-31T12:00:00Z\n",
        "\ufeff2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\0",
        "2026-02-30T12:00:00Z",
        "2023-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:60:00Z",
        "2026-01-31T12:00:60Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
        "99999999999-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "\uff12026-01-31T12:00:00Z",
        "2026-01-31T12:00:00.1\u0663Z",
        "\ud800",
        "T" * 1_000_000,
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """Other notations, days that do not exist and look-alike digits are no time."""
    with pytest.raises(ValueError):
        parse_rfc3339(text)


@given(
    st.text(st.sampled_from("0123456789-+:.TtZz \n\u0663\uff12"), max_size=40)
    | st.text(max_size=40)
)
def test_reading_a_time_raises_nothing_but_value_errors(text: str) -> None:
    """Whatever the text is, it is a time that can be written again, or a ValueError."""
    try:
        ns = parse_rfc3339(text)
    except ValueError:
        return
    assert parse_rfc3339(rfc3339(ns)) == ns


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("3300ms", 3.3),
        ("30s", 30.0),
        ("1.5m", 90.0),
        ("1.1h", 3960.0),
        ("1d", 86_400.0),
        ("0s", 0.0),
        ("36500d", MAX_SECONDS),
    ],
)
def test_a_duration_is_read_without_rounding(text: str, seconds: float) -> None:
    """Every unit is exact: 3300ms and 3.3s are one number, not neighbours."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "s", "5", "5 s", " 5s", "5s\n", "-1s", "+1s", "1e3s", "1_0s", "5.s", ".5s", "1.5.5s"),
        *("5sm", "5S", "infs", "nans", "\u0663s", "\uff15s", "\ud800s"),
        *("9" * 400 + "s", "9" * 5000 + "d", "36500.1d"),
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Signs, exponents, other digits, blanks and more than a hundred years are refused."""
    with pytest.raises(ValueError, match=r"is not a duration|too long"):
        parse_duration(text)


def test_the_refusal_of_a_duration_names_the_forms() -> None:
    """Who writes a wrong duration learns how to write a right one."""
    with pytest.raises(ValueError, match=r"'soon' is not .*; write 250ms, 30s, 5m, 2h or 1d"):
        parse_duration("soon")


@given(st.text(st.sampled_from("0123456789.msdh-e\u0663"), max_size=12) | st.text(max_size=12))
def test_reading_a_duration_raises_nothing_but_value_errors(text: str) -> None:
    """Whatever the text is, it is a finite number of seconds from 0 up, or a ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= MAX_SECONDS


def test_the_longest_duration_fits_the_broker() -> None:
    """A hundred years in nanoseconds fit the 64 bits in which the broker keeps durations."""
    assert MAX_SECONDS * 1e9 < 2**63
