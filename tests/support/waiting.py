"""Waiting for a condition, with a deadline; never for a length of time."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, seconds: float = 20.0
) -> None:
    """Poll until the condition holds; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if await held if inspect.isawaitable(held) else held:
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncGenerator[None]:
    """Whatever tasks are begun and sockets are opened inside have ended after it."""
    tasks, before = asyncio.all_tasks(), _sockets()
    yield
    await until(lambda: asyncio.all_tasks() <= tasks and _sockets() == before)


def _sockets() -> int:
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            found += str(link.readlink()).startswith("socket:")
    return found
