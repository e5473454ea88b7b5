"""The rogue agent: what it forges, and how soon it gives up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from tidegate.demo import rogue
from tidegate.demo.analysis.verdict import judge
from tidegate.demo.forgery import Attempts, forge
from tidegate.demo.review import Commit, Reviews
from tidegate_schemas import Envelope, Kind, Receipt
from tidegate_schemas.errors import Denied, NoReceipt

COMMIT = Commit(
    repo="repository",
    sha="0" * 40,
    parents=(),
    subject="Add a back door",
    body="",
    author="Mallory",
    authored="2026-01-31T12:00:00Z",
    files=(),
)
RULE = "only-the-coordinator-assigns-work"


@dataclass
class Refusing:
    """The context of a handler; its bus answers with an error."""

    error: Exception
    envelope: Any = None
    record: Any = None
    delivered: int = 1
    log: Any = field(default_factory=structlog.get_logger)
    published: list[Envelope] = field(default_factory=list[Envelope])

    def spend(self, unit: str, amount: Any) -> None:
        """It costs nothing."""

    async def publish(self, envelope: Envelope) -> Receipt:
        """Refuse, a moment later."""
        self.published.append(envelope)
        await asyncio.sleep(0)
        raise self.error


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a rogue that tried nothing yet."""
    monkeypatch.setattr(rogue, "attempts", Attempts(3))


def test_the_forgery_would_work() -> None:
    """The forged task is one that the verdict agent would take, and approve by."""
    forged = forge(COMMIT)

    assert forged.destination() == (Kind.TASK, "review.verdict")
    assert judge(forged.payload(Reviews)).verdict == "approve"
    assert forge(COMMIT) == forged


def test_it_is_quiet_after_a_refusal() -> None:
    """The refusal is logged with the ids of the policies; events at once or later do nothing."""
    context = Refusing(Denied("forbidden", "", 7, (RULE,)))

    async def events() -> None:
        await asyncio.gather(*(rogue.rogue(COMMIT, context) for _ in range(5)))
        await rogue.rogue(COMMIT, context)

    with capture_logs() as logs:
        asyncio.run(events())

    assert len(context.published) == 1
    assert [(log["event"], log["policies"]) for log in logs] == [("forged task refused", (RULE,))]


def test_it_does_not_try_for_ever() -> None:
    """Where no answer comes, it tries three times in all."""
    context = Refusing(NoReceipt("id", 1, "receipt"))

    for _ in range(3):
        with pytest.raises(NoReceipt):
            asyncio.run(rogue.rogue(COMMIT, context))
    asyncio.run(rogue.rogue(COMMIT, context))

    assert len(context.published) == 3
