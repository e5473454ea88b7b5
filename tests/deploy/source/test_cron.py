"""A schedule, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support import until
from tidegate.source.cron import Cron, Schedule, Ticked
from tidegate.source.cursor import Cursor
from tidegate.source.shape import Shape
from tidegate_schemas.errors import InvalidInput

from .kit import Ledger

_NOON = int(datetime.fromisoformat("2026-01-31T12:00:00Z").timestamp())


class _Clock:
    """A clock that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = float(_NOON)
        self._moved = asyncio.Event()
        self._waited_for = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def go(self, seconds: float) -> None:
        """Some seconds later, at once, when somebody waits for it."""
        await self._waited_for.wait()
        self.now += seconds
        self._moved.set()

    async def pause(self, _: float) -> None:
        """Wait until the clock goes on."""
        self._moved.clear()
        self._waited_for.set()
        await self._moved.wait()
        self._waited_for.clear()


class _Crontab:
    """One schedule, and processes that keep it one after the other."""

    def __init__(self, folder: Path) -> None:
        self._kept = Cursor(folder / "kept", Ticked)
        self.clock = _Clock()

    def cron(self, expression: str, data: Any = None, **options: Any) -> Cron:
        """One more process."""
        return Cron(
            Schedule(expression),
            Shape("tick", "test"),
            data,
            self._kept,
            now=self.clock,
            pause=self.clock.pause,
            **options,
        )


@pytest.fixture
def crontab(tmp_path: Path) -> _Crontab:
    """A schedule that nobody has kept yet."""
    return _Crontab(tmp_path)


def _times(ledger: Ledger) -> list[str]:
    return [(event.time or "")[11:19] for event in ledger.events.values()]


async def test_each_tick_is_an_event_at_its_time(crontab: _Crontab) -> None:
    """Nothing before the first start, and nothing between ticks."""
    ledger = Ledger()
    async with ledger.fed(crontab.cron("*/5 * * * *")):
        for seconds in (299, 1, 60, 245):
            await crontab.clock.go(seconds)
            await until(lambda: len(ledger.events) == (crontab.clock.now - _NOON) // 300)

    assert _times(ledger) == ["12:05:00", "12:10:00"]
    assert ledger.data[0] == {
        "schedule": "*/5 * * * *",
        "timezone": "UTC",
        "tick": "2026-01-31T12:05:00.000000000Z",
    }


async def test_missed_ticks_are_caught_up_to_a_bound_and_that_is_said(
    crontab: _Crontab, capsys: pytest.CaptureFixture[str]
) -> None:
    """After an hour away: the last ones come late, how many do not is logged."""
    ledger, data = Ledger(), msgspec.Raw(b'{"job":1}')
    async with ledger.fed(crontab.cron("*/5 * * * *", data)):
        await crontab.clock.go(300)
        await until(lambda: len(ledger.events) == 1)
    crontab.clock.now += 3600 + 10
    await ledger.killed(crontab.cron("*/5 * * * *", data, catch_up=3), 4)
    async with ledger.fed(crontab.cron("*/5 * * * *", data, catch_up=3)):
        await until(lambda: ledger.repeats == 4)

    assert _times(ledger) == ["12:05:00", "12:50:00", "12:55:00", "13:00:00", "13:05:00"]
    assert ledger.data[-1] == {"job": 1}
    said = capsys.readouterr().out
    assert "ticks were missed" in said
    assert "caught_up=3" in said
    assert "left_out=8" in said


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/20 1-3 * * *", "0 0 1 * *"])
def test_ticks_counted_back_are_those_counted_on(expression: str, zone: str) -> None:
    """Over a whole year with its changes of the clock, none is missed or invented."""
    schedule = Schedule(expression, zone)
    tick, until_, forward = _NOON, _NOON + 366 * 86400, list[int]()
    while (tick := schedule.after(tick)) <= until_:
        forward.append(tick)

    assert (forward, False) == schedule.between(_NOON, until_, 10**6)
    assert (forward[-2:], True) == schedule.between(_NOON, until_, 2)


@pytest.mark.parametrize(
    ("expression", "zone", "why"),
    [
        ("* * *", "UTC", "is no schedule"),
        ("61 * * * *", "UTC", "is no schedule"),
        ("0 0 30 2 *", "UTC", "is no schedule|no such day"),
        ("* * * * *", "Mars/Olympus", "no time zone"),
        ("* * * * *", "../etc/passwd", "no time zone"),
    ],
)
def test_what_is_no_schedule_is_said(expression: str, zone: str, why: str) -> None:
    """Before anything begins."""
    with pytest.raises(InvalidInput, match=why):
        Schedule(expression, zone)
