"""The same attacks where the broker knows everybody by a token, and all agents share an account."""

from __future__ import annotations

import pytest

from .attacks_keys import KEYS
from .attacks_wildcards import WILDCARDS
from .catalogue import ATTACKS, BY_NAME
from .judge import Judge
from .layouts import BY_TOKENS

NAMES = (
    *("as another of the team", "as the gateway", "as a full wildcard", "as below the own subject"),
    *("on a record", "on a receipt of another", "on an own inbox", "on the tail"),
    *("ask $SYS.REQ.CLAIMS.UPDATE", "ask $SYS.REQ.USER.INFO", "ask $SYS.REQ.SERVER.PING.CONNZ"),
    *("ask STREAM.DELETE.LEDGER_0", "ask STREAM.PURGE.INGRESS_0", "ask DIRECT.GET.LEDGER_0"),
    *("ask CONSUMER.CREATE.LEDGER_0.x", "ask CONSUMER.MSG.NEXT.LEDGER_0.team_other"),
    *("subscribe to >", "subscribe to receipt.team.other", "subscribe to _INBOX_team_other.>"),
    *("subscribe to the exact inbox of a worker", "join queue q of >"),
    *("publish, answer to a record", "publish, answer to a submission of another"),
    *("publish, answer to a receipt of another", "pull nothing, answer to the tail"),
    *("pull, answer to the exact inbox of a worker", "publish, answer to another's inbox"),
    *("publish, answer to the exact inbox of a publisher", "acceptances for a publisher"),
    *("ack another's work", "term another's work", "ack in the second form"),
    *("ack another's sequence under the own consumer", "settle the own work in every way"),
    *("connect with no key", "connect with a signature over another nonce"),
    *("connect with a user and a password", "connect with a leaf of brokers"),
    *("name an account", "name permissions", "CONNECT twice", "a payload that is too large"),
    *("header: rollup of everything", "headers: those of a stored record", "replay a record"),
    *("submit a receipt", "lie: a task to oneself", "revoke another", "raise bus.bypassed"),
    *("two hundred connections", "copies that nobody reads"),
)

REST = [a.name for a in ATTACKS if a.name not in NAMES and a not in (*KEYS, *WILDCARDS)]
"""Those with keys are in `test_keys`. An answer to a wildcard does something here, see there."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), BY_TOKENS]


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_refused_by_a_list_is_refused_by_tokens(judge: Judge, name: str) -> None:
    """Others work on, nothing is forged, lost or overheard, and the attempt is visible."""
    assert await judge.breaches(BY_NAME[name]) == []


@pytest.mark.long
@pytest.mark.parametrize("name", REST)
async def test_so_is_everything_else(judge: Judge, name: str) -> None:
    """All attacks, as above."""
    assert await judge.breaches(BY_NAME[name]) == []
