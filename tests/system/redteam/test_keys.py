"""Keys: what was taken back, has ended or was made up opens nothing, and closes at once."""

from __future__ import annotations

import pytest

from .attack import Attack
from .attacks_keys import KEYS, LISTED, SIGNED
from .judge import Judge
from .layouts import BY_LIST, BY_TOKENS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@BY_LIST
@pytest.mark.parametrize("attack", [*KEYS, *LISTED], ids=str)
async def test_only_a_key_that_is_on_the_list_opens_anything(judge: Judge, attack: Attack) -> None:
    """A reload cuts who is not on it any more; others do not notice, and the log tells."""
    assert await judge.breaches(attack) == []


@BY_TOKENS
@pytest.mark.parametrize("attack", [*KEYS, *SIGNED], ids=str)
async def test_only_a_token_of_the_authority_opens_anything(judge: Judge, attack: Attack) -> None:
    """What is pushed cuts who was revoked; others do not notice, and the log tells."""
    assert await judge.breaches(attack) == []
