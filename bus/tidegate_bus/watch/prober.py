"""Probing again and again, and the alarm when something gets through."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge

from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.ledger import LedgerReader
from tidegate_schemas.subjects import Principal

from .probe import Report, probe

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.prober")

_OUTCOMES = {True: "through", False: "refused", None: "inconclusive"}

_attempts = Counter(
    "tidegate_probe_attempts_total", "Attempts to get past the gateway", ["attempt", "outcome"]
)
_bypass = Gauge("tidegate_bypass", "1 if an attempt to get past the gateway has worked")


class Prober:
    """Probes again and again.

    Args:
        url: of one broker.
        secret: of the principal `tidegate.probe`: its seed, the text of a `.creds` file, or the
            path of either, which is read again in each round.
        victim: see `probe`.
        reader: see `probe`.
        tls: see `probe`.
        interval: seconds between rounds, and before the first.
        timeout: see `probe`.
        tell: called with each report.
    """

    def __init__(
        self,
        url: str,
        secret: str | Path,
        *,
        victim: Principal,
        reader: LedgerReader | None,
        tls: ssl.SSLContext | None = None,
        interval: float = 60.0,
        timeout: float = 5.0,
        tell: Callable[[Report], object] | None = None,
    ) -> None:
        self._url = url
        self._secret = secret
        self._victim = victim
        self._reader = reader
        self._tls = tls
        self._interval = interval
        self._timeout = timeout
        self._tell = tell
        self._ended: float | None = -math.inf  # None while a round is under way

    def is_recent(self, seconds: float) -> bool:
        """Whether a round is under way, or ended less than so long ago."""
        return self._ended is None or time.monotonic() - self._ended < seconds

    async def run(self) -> None:
        """Probe, for ever. Nothing but a cancellation ends it."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.once()
            except Exception:  # an alarm that has died is worse than one that complains
                _log.exception("cannot probe")

    async def once(self) -> Report:
        """Probe once, count what came of it, and say so where it is no good.

        Raises:
            InvalidInput: no address, or no credentials.
        """
        self._ended = None
        try:
            report = await probe(
                self._url,
                Credentials.of(self._secret),
                victim=self._victim,
                reader=self._reader,
                tls=self._tls,
                timeout=self._timeout,
            )
        finally:
            self._ended = time.monotonic()
        for attempt in report.attempts:
            _attempts.labels(attempt.name, _OUTCOMES[attempt.through]).inc()
        if report.through:
            _bypass.set(1)
            _log.error(
                "the gateway can be bypassed",
                attempts={a.name: a.detail for a in report.attempts if a.through},
                record=report.alarm,
            )
        elif not report.inconclusive:  # as long as something is not proven, an alarm stays
            _bypass.set(0)
        else:
            open_ = {a.name: a.detail for a in report.attempts if a.through is None}
            _log.warning("the probe proved nothing", attempts=open_)
        if self._tell:
            self._tell(report)
        return report
