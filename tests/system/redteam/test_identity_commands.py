"""Who takes part is said by those whom policy lets, and never of the bus's own."""

from __future__ import annotations

import pytest

from support.broker import PERMIT_ALL

from .attack import Attack
from .attacks_identity import FORBIDDEN, FUTILE
from .judge import Judge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("attack", FORBIDDEN, ids=str)
async def test_an_agent_has_no_say_in_who_takes_part(judge: Judge, attack: Attack) -> None:
    """Nor does it raise alarms: it is denied on the record, and the roster stays as it is."""
    assert await judge.breaches(attack) == []


@pytest.mark.parametrize("judge", [{"policies": PERMIT_ALL}], indirect=True, ids=["all permitted"])
@pytest.mark.parametrize("attack", FUTILE, ids=str)
async def test_whatever_policy_permits_the_bus_itself_is_not_for_sale(
    judge: Judge, attack: Attack
) -> None:
    """A command that nobody can follow is not admitted, and the roster stays as it is."""
    assert await judge.breaches(attack) == []
