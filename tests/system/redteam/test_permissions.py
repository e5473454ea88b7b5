"""The broker refuses every subject that is not the attacker's own, and says so in its log."""

from __future__ import annotations

import pytest

from .attack import Attack
from .attacks_permissions import PUBLISHING, SUBSCRIBING
from .judge import Judge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("attack", PUBLISHING, ids=str)
async def test_nobody_publishes_where_only_others_may(judge: Judge, attack: Attack) -> None:
    """It reaches no stream and nobody; the log names the key and the subject."""
    assert await judge.breaches(attack) == []


@pytest.mark.parametrize("attack", SUBSCRIBING, ids=str)
async def test_nobody_hears_what_is_for_others(judge: Judge, attack: Attack) -> None:
    """Nothing is overheard while others work; the log names the key and the subject."""
    assert await judge.breaches(attack) == []
