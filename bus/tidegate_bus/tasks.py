"""Ending tasks."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_SECONDS = 0.2


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and wait until it has ended; its error is dropped.

    Cancelled once it might go on: `asyncio.wait_for` of Python 3.11 swallows a cancellation that
    comes together with what it waits for.
    """
    while task and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN_SECONDS)
    if task and not task.cancelled():
        task.exception()
