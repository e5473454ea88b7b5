"""Connections: a key is who one is, and no protocol error of one connection is felt on another."""

from __future__ import annotations

import pytest

from .attack import Attack
from .attacks_connections import CONNECTIONS
from .judge import Judge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("attack", CONNECTIONS, ids=str)
async def test_a_connection_is_worth_its_key_and_harms_only_itself(
    judge: Judge, attack: Attack
) -> None:
    """Others work on, the broker's memory stays bounded, and its log tells."""
    assert await judge.breaches(attack) == []
