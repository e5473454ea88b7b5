"""Forgetting submissions that the ledger has records of, so that the ingress never stays full."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from tidegate_bus.ingress import IngressReader
from tidegate_schemas.errors import Unavailable

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.trimmer")

_EVERY = 10_000
_SECONDS = 1.0


class Trimmer:
    """Trims the ingress every second, and sooner when much was recorded.

    By time and not by number alone: a few large messages fill the ingress as well, and the quota
    of a sender may be small. Whoever is refused sends nothing more that could be counted.
    """

    def __init__(self, ingress: IngressReader) -> None:
        self._ingress = ingress
        self._recorded = 0
        self._trimmed = 0
        self._enough = asyncio.Event()

    def recorded(self, seq: int) -> None:
        """The ledger has stored the record of every submission up to `seq`."""
        self._recorded = seq
        if seq - self._trimmed >= _EVERY:
            self._enough.set()

    async def run(self) -> None:
        """Work until cancelled. A trim that fails is tried again later; nothing waits for it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    await self._enough.wait()
            self._enough.clear()
            seq = self._recorded
            if seq > self._trimmed:
                try:
                    await self._ingress.trim(seq)
                except Unavailable as error:
                    _log.warning("cannot trim the ingress", error=str(error))
                else:
                    self._trimmed = seq
