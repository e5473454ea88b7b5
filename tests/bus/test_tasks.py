"""Ending tasks that do not want to."""

from __future__ import annotations

import asyncio

from tidegate_bus.tasks import end


async def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same() -> None:
    """It is cancelled until it gives in."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.wait({task}, timeout=0)
    await end(task)

    assert task.cancelled()
    assert swallowed == 3


async def test_what_has_ended_already_is_left_alone() -> None:
    """Nothing, a result and an error: none is raised, none is reported as never retrieved."""

    async def fail() -> None:
        raise ValueError

    for work in (fail(), asyncio.Event().wait()):
        task = asyncio.create_task(work)
        await asyncio.wait({task}, timeout=0)
        await end(task)
        await end(task)
    await end(None)


async def test_whoever_ends_a_task_can_be_cancelled() -> None:
    """A task that never ends does not hold up the one that waits for it."""

    async def immortal() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    released = asyncio.Event()
    task = asyncio.create_task(immortal())
    await asyncio.wait({task}, timeout=0)
    ending = asyncio.create_task(end(task))
    await asyncio.wait({ending}, timeout=0)
    ending.cancel()
    await asyncio.wait({ending})
    assert ending.cancelled()
    released.set()
    await task
