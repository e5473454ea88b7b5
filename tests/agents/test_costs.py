"""What handlers say that their work costs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tidegate_agents.costs import Costs
from tidegate_policy.obligations import NANO, costs_of
from tidegate_schemas.envelope import Envelope


def test_costs_are_summed_by_unit_as_an_envelope_says_them() -> None:
    """Exactly, whatever they are written as."""
    costs = Costs()
    for amount in ("0.02", Decimal("0.000000001"), 3, "1e2"):
        costs.add("usd", amount)
    costs.add("tokens", 431)

    assert costs.text() == "tokens:431,usd:103.020000001"
    envelope = Envelope.new("a", costs=costs.text())
    assert costs_of(envelope.costs)["tokens"] == 431 * NANO


def test_who_says_nothing_has_no_costs() -> None:
    """That is something else than costs of nothing."""
    costs = Costs()
    assert costs.text() is None
    costs.add("usd", 0)
    assert costs.text() == "usd:0"


@pytest.mark.parametrize(
    ("unit", "amount"),
    [
        ("USD", 1),
        ("", 1),
        ("usd", "-1"),
        ("usd", 0.1),
        ("usd", "0.0000000001"),
        ("usd", 10**15),
        ("usd", "NaN"),
        ("usd", "Infinity"),
        ("usd", "much"),
    ],
)
def test_what_an_envelope_cannot_say_is_an_error(unit: str, amount: Any) -> None:
    """In the handler, where it can be mended."""
    costs = Costs()
    with pytest.raises(ValueError, match=r"unit|float|number|between"):
        costs.add(unit, amount)
    assert costs.text() is None


def test_there_is_room_for_all_units() -> None:
    """Sixteen of the longest fit; one more is refused."""
    costs = Costs()
    for n in range(16):
        costs.add("a" * 31 + chr(ord("a") + n), "999999999999999.999999999")
    assert Envelope.new("a", costs=costs.text())
    with pytest.raises(ValueError, match="16 units"):
        costs.add("usd", 1)
