"""Ticks of a schedule. Those that were missed are caught up, and that is said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import structlog
from cronsim import CronSim, CronSimError

from tidegate_schemas.clock import rfc3339
from tidegate_schemas.errors import InvalidInput

from .cursor import Cursor, event_id
from .pump import Item
from .shape import Shape

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.source")

_LATE_SECONDS = 30
_LONGEST_PAUSE = 10.0
"""So soon a clock that was set is noticed, or a machine that slept."""
_SECOND = 10**9


class Ticked(msgspec.Struct, frozen=True):
    """The last tick that was published, or when the schedule was first kept: seconds since 1970."""

    tick: int


class Schedule:
    """A cron expression in a time zone.

    Args:
        expression: five fields as in crontab(5), or six with seconds first.
        zone: name of a time zone, e.g. `Europe/Berlin`.

    Raises:
        InvalidInput: it is none.
    """

    def __init__(self, expression: str, zone: str = "UTC") -> None:
        self.expression = " ".join(expression.split())
        self.zone = zone
        try:
            self._zone = ZoneInfo(zone)
            next(CronSim(self.expression, datetime.now(self._zone)))
        except CronSimError as error:
            raise InvalidInput(f"{expression!r} is no schedule: {error}") from None
        except (OSError, KeyError, ValueError):
            raise InvalidInput(f"{zone!r} is no time zone that this machine knows") from None
        except StopIteration:
            raise InvalidInput(f"{expression!r}: there is no such day") from None

    def after(self, moment: float) -> int:
        """The first tick after a moment; both in seconds since 1970."""
        return int(next(CronSim(self.expression, self._at(moment))).timestamp())

    def between(self, after: int, until: float, most: int) -> tuple[list[int], bool]:
        """The last ticks after one and until another moment, and whether there are more of them."""
        found: list[int] = []
        for tick in CronSim(self.expression, self._at(int(until) + 1), reverse=True):
            if tick.timestamp() <= after:
                break
            if len(found) == most:
                return found[::-1], True
            found.append(int(tick.timestamp()))
        return found[::-1], False

    def _at(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment, UTC).astimezone(self._zone)


class Cron:
    """A schedule whose ticks are events.

    Args:
        schedule: when.
        shape: of the events.
        data: of each; by default the schedule and the tick.
        kept: where the last tick is kept.
        catch_up: how many missed ticks are published at most, the last ones.
        now: seconds since 1970.
        pause: waits some seconds.
    """

    def __init__(
        self,
        schedule: Schedule,
        shape: Shape,
        data: msgspec.Raw | None,
        kept: Cursor[Ticked],
        *,
        catch_up: int = 10,
        now: Callable[[], float] = time.time,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._schedule = schedule
        self._shape = shape
        self._data = data
        self._kept = kept
        self._catch_up = catch_up
        self._now = now
        self._pause = pause
        self._settled = 0

    async def items(self) -> AsyncGenerator[Item[int] | None]:
        """See `feed.Source`."""
        found = self._kept.read()
        self._settled = last = found.tick if found else int(self._now())
        if not found:
            self.save()
        while True:
            for tick in self._due(last):
                yield self._item(tick)
                last = tick
            soon = self._schedule.after(max(last, self._now())) - self._now()
            await self._pause(min(max(soon, 0.001), _LONGEST_PAUSE))

    def settled(self, position: int) -> None:
        """See `feed.Source`."""
        self._settled = position

    def save(self) -> None:
        """See `feed.Source`."""
        self._kept.save(Ticked(self._settled))

    def facts(self) -> dict[str, Any]:
        """See `feed.Source`."""
        return {
            "last": rfc3339(self._settled * _SECOND),
            "next": rfc3339(self._schedule.after(self._now()) * _SECOND),
        }

    def _due(self, last: int) -> list[int]:
        """The ticks since the last one; says which of them come late, and which not at all."""
        now = self._now()
        ticks, more = self._schedule.between(last, now, self._catch_up + _LATE_SECONDS + 1)
        late = [tick for tick in ticks if now - tick > _LATE_SECONDS]
        if not late:
            return ticks
        caught_up = late[max(0, len(late) - self._catch_up) :]
        _log.warning(
            "ticks were missed",
            since=rfc3339(last * _SECOND),
            caught_up=len(caught_up),
            left_out=f"more than {len(late)}" if more else len(late) - len(caught_up),
        )
        return caught_up + ticks[len(late) :]

    def _item(self, tick: int) -> Item[int]:
        schedule, zone, at = self._schedule.expression, self._schedule.zone, rfc3339(tick * _SECOND)
        data = self._data or {"schedule": schedule, "timezone": zone, "tick": at}
        id = event_id(schedule, zone, self._shape.type, tick)
        return self._shape.item(tick, id, data, what=f"the tick of {at}", now=tick * _SECOND)
