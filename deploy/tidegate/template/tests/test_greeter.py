"""Tests of the project: the agent as a function, and the whole way with a real broker."""

import asyncio
from pathlib import Path

import greeter
import pytest

from tidegate import Denied, Envelope
from tidegate.testing import running_project

PROJECT = Path(__file__).parent.parent


def test_greets_by_name() -> None:
    """A handler is an ordinary function."""
    greeting = asyncio.run(greeter.greet(greeter.Visitor(name="Ada")))

    assert greeting.text == "Hello, Ada!"


def test_a_request_is_answered_and_recorded(tmp_path: Path) -> None:
    """A request becomes a run whose end stands in the ledger."""

    async def main() -> object:
        async with (
            running_project(PROJECT, tmp_path) as project,
            await project.bus("outside.website") as website,
            await project.bus() as operator,
        ):
            with pytest.raises(Denied) as refusal:
                await website.publish(
                    Envelope.new("x", {"name": "Eve"}, kind="task", to="greeting.write")
                )
            assert refusal.value.policies == ("only-the-coordinator-assigns-tasks",)

            receipt = await website.publish(Envelope.new("greeting.requested", {"name": "Ada"}))
            async with asyncio.timeout(30):
                async for record in operator.records(receipt.seq, follow=True):
                    if record.to == "run.finished":
                        message = record.message()
                        return message.payload() if message else None
        return None

    end = asyncio.run(main())

    assert isinstance(end, dict)
    assert (end["status"], end["output"]) == ("succeeded", "Hello, Ada!")
