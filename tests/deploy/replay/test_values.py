"""Differences of JSON texts: of values, not of how they are written."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.replay.values import differences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1,"b":[true]}', b' { "b" : [ true ], "a" : 1.0 }'),
        (b"", b"null"),
        (b"1e2", b"100"),
        (b'"\\u00e9"', '"é"'.encode()),
        (b"[18446744073709551616]", b"[18446744073709551616.0]"),
    ],
)
def test_the_same_value_may_be_written_in_many_ways(before: bytes, after: bytes) -> None:
    """White space, order, escapes and forms of numbers do not count."""
    assert list(differences(before, after)) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (b"1", b"true", "the data is true, was 1"),
        (b"0", b"false", "the data is false, was 0"),
        (b"0.1", b"0.10000000000000001", "the data is 0.1, was 0.1"),
        (b'{"a":{"b/c":1}}', b'{"a":{"b/c":2}}', "/a/b~1c is 2, was 1"),
        (b'{"a":1}', b"{}", "/a is missing, was 1"),
        (b"{}", b'{"a":null}', "/a is new: null"),
        (b"[1,2]", b"[1]", "the list has 1 entries, had 2"),
        (b'{"l":[1,2]}', b'{"l":[3,2]}', "/l/0 is 3, was 1"),
        (b"[]", b"{}", "the data is {}, was []"),
    ],
)
def test_each_difference_names_its_place(before: bytes, after: bytes, told: str) -> None:
    """As a JSON pointer, with what was and what is."""
    assert list(differences(before, after)) == [told]


def test_long_values_are_cut() -> None:
    """And numbers beyond all reason are compared as they are written."""
    (told,) = differences(b'"' + b"a" * 500 + b'"', b'"' + b"b" * 500 + b'"')
    assert len(told) < 150
    (told,) = differences(b"1" * 5000, b"2" * 5000)
    assert told.startswith("the data is 2222")
    (told,) = differences(b"1e9999999999999999999", b"1e9999999999999999998")
    assert "9999999999999999998" in told


@given(JSON, JSON)
def test_values_differ_exactly_where_their_canonical_forms_do(one: object, other: object) -> None:
    """Whatever they are."""
    before, after = (json.dumps(v).encode() for v in (one, other))
    assert list(differences(before, before)) == []
    found = list(differences(before, after))
    same = json.dumps(_plain(one), sort_keys=True) == json.dumps(_plain(other), sort_keys=True)
    assert (found == []) is same


def _plain(value: Any) -> Any:
    """Numbers in one form."""
    match value:
        case bool():
            return value
        case int() | float():
            return {"number": str(Decimal(json.dumps(value)).normalize() + 0)}
        case list():
            return [_plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return {k: _plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value
