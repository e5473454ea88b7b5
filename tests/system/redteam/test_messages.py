"""Submissions: no header and no byte of one does anything but end in a record of its sender."""

from __future__ import annotations

import pytest

from .attack import Attack
from .attacks_messages import MESSAGES
from .judge import Judge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("attack", MESSAGES, ids=str)
async def test_a_submission_is_recorded_under_its_sender_and_harms_nobody(
    judge: Judge, attack: Attack
) -> None:
    """Or the ingress refuses it; nobody else's message is moved, doubled or lost."""
    assert await judge.breaches(attack) == []
