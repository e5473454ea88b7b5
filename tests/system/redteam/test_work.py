"""Answers and acks: whatever is aimed at others, no stream and no library takes it for its own."""

from __future__ import annotations

import pytest

from .attack import Attack
from .attacks_replies import ANSWERS
from .attacks_work import WORK
from .judge import Judge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("attack", ANSWERS, ids=str)
async def test_no_answer_reaches_a_stream_or_fools_whom_it_reaches(
    judge: Judge, attack: Attack
) -> None:
    """It stays in the account of the agents, where our own library believes nothing by place."""
    assert await judge.breaches(attack) == []


@pytest.mark.parametrize("attack", WORK, ids=str)
async def test_nobody_settles_or_takes_the_work_of_others(judge: Judge, attack: Attack) -> None:
    """What a worker holds it still holds, and nothing is delivered twice or not at all."""
    assert await judge.breaches(attack) == []
