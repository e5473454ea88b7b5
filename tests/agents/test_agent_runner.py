"""Handlers are called beside the bus, and whatever they do comes out as an ordinary error."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tidegate_agents.agent import Agent, Handler, Runner, describe
from tidegate_schemas.errors import Permanent
from tidegate_schemas.subjects import Kind


def _handler(function: Callable[..., Any]) -> Handler:
    agent = Agent()
    agent.task("order.take")(function)
    return agent.handlers[Kind.TASK, "order.take"]


async def _cancels_itself(data: Any) -> None:
    raise asyncio.CancelledError


def _exhausts(data: Any) -> Any:
    return next(iter(()))


def _exits(data: Any) -> None:
    sys.exit("enough")


async def _exits_async(data: Any) -> None:
    sys.exit("enough")


def _waits_for_a_cancelled_future(data: Any) -> None:
    raise concurrent.futures.CancelledError


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_cancels_itself, "the handler raised CancelledError"),
        (_exhausts, "the handler raised StopIteration"),
        (_exits, "the handler raised SystemExit: enough"),
        (_exits_async, "the handler raised SystemExit: enough"),
        (_waits_for_a_cancelled_future, "the handler raised CancelledError"),
    ],
)
async def test_whatever_a_handler_raises_is_an_ordinary_error(
    function: Callable[..., Any], said: str
) -> None:
    """`sys.exit`, an exhausted iterator, a cancellation: none stops the loops or hangs the call."""
    runner = Runner()
    async with asyncio.timeout(10):
        with pytest.raises(RuntimeError, match=said):
            await runner.run(_handler(function), (None,))
        assert await runner.run(_handler(_answer), (3,)) == 3
    await runner.close()


async def _answer(data: Any) -> Any:
    return data


async def test_closing_cancels_what_can_be_cancelled_and_leaves_what_cannot() -> None:
    """An `async` handler cleans up; a plain one that blocks does not hold up the end."""
    runner = Runner()
    cleaned, blocked = threading.Event(), threading.Event()

    async def cleans_up(data: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    def blocks(data: Any) -> None:
        blocked.wait(20)

    calls = [
        asyncio.create_task(runner.run(_handler(function), (None,)))
        for function in (cleans_up, blocks)
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await runner.close()
    blocked.set()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)

    assert cleaned.is_set()


def test_errors_are_described_in_one_printable_line() -> None:
    """Line breaks, control characters and halves of surrogate pairs do not get into records."""
    assert describe(ValueError("a\n  b")) == "ValueError: a b"
    assert describe(ValueError("\x1b[31m \udcff")) == r"ValueError: \x1b[31m \xdcff"
    assert describe(KeyError()) == "KeyError"
    assert describe(Permanent("never")) == "Permanent: never"
    assert len(describe(ValueError("x" * 5000))) <= 1000
