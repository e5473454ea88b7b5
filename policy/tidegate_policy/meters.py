"""Meters: what was used of rate limits and budgets. A fold of what the records say they oblige to.

A task reserves before it is dispatched; its result settles what it cost, its failure gives the rest
back. A result that never comes leaves the reservation as it is: nobody knows what was spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidegate_schemas.record import Reason

from .obligations import NANO, Budget, RateLimit, Scope, amount_text

_SECOND = 1_000_000_000
_SWEEP = 10_000
"""After so many changes what no window holds any more is forgotten."""

Limit = RateLimit | Budget
Key = tuple[str, str, int, Scope, str]
"""Policy, unit (empty for a rate), window in seconds, scope, and whose."""


@dataclass(frozen=True, slots=True)
class Charged:
    """Whom a message is charged to.

    Attributes:
        sender: `team.name` of who sends it.
        worker: who does the work, for a task; otherwise the sender.
        run: id of its run; empty outside of one.
    """

    sender: str
    worker: str
    run: str

    def whose(self, limit: Limit) -> str:
        """Who shares what is left. A rate is of who sends, a budget of who does the work."""
        who = self.worker if isinstance(limit, Budget) else self.sender
        match limit.scope:
            case Scope.AGENT:
                return who
            case Scope.TEAM:
                return who.partition(".")[0]
            case Scope.RUN:
                return self.run or f"-{self.sender}"  # what is in no run is as one, of its sender
            case Scope.BUS:
                return ""


@dataclass(slots=True)
class _Used:
    """`amount` since `start`."""

    start: int
    amount: int


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What an open task has reserved: keys with window and amount. `worker` may settle it.

    `seq` is of the record of the task: its sender may use the same id again, later.
    """

    seq: int
    worker: str
    time: int
    parts: tuple[tuple[Key, int, int], ...]


class Meters:
    """What was used so far."""

    def __init__(self) -> None:
        self._used: dict[Key, _Used] = {}
        self._open: dict[tuple[str, str], _Reservation] = {}
        self._changes = 0

    def __len__(self) -> int:
        return len(self._used) + len(self._open)

    def used(self, limit: Limit, charged: Charged, now: int) -> int:
        """What was used of a limit, in billionths (a rate: messages)."""
        used = self._current(_key(limit, charged), now)
        return used.amount if used else 0

    def exceeded(
        self, limits: Iterable[Limit], charged: Charged, costs: Mapping[str, int], now: int
    ) -> tuple[str, str] | None:
        """Reason and sentence, if one more message does not fit."""
        for limit in limits:
            used = self.used(limit, charged, now)
            if isinstance(limit, RateLimit):
                if used + 1 > limit.count:
                    return Reason.RATE_LIMITED, f"{used} of {limit}"
            elif used + (more := _asked(limit, costs)) > limit.limit:
                left = amount_text(max(limit.limit - used, 0))
                return Reason.OVER_BUDGET, f"{left} left, {amount_text(more)} needed, of {limit}"
        return None

    def charge(
        self,
        limits: Iterable[Limit],
        charged: Charged,
        costs: Mapping[str, int],
        now: int,
        task: tuple[str, str] | None = None,
        seq: int = 0,
    ) -> None:
        """Take what an admitted or held message needs.

        Args:
            limits: what its record obliges to.
            charged: to whom.
            costs: what the message itself says that it costs, in billionths.
            now: time of its record.
            task: sender and envelope id, for one that a result will settle.
            seq: of its record.
        """
        parts: list[tuple[Key, int, int]] = []
        for limit in limits:
            key = _key(limit, charged)
            more = 1 if isinstance(limit, RateLimit) else _asked(limit, costs)
            used = self._current(key, now)
            if used is None:
                used = self._used[key] = _Used(_start(key, now), 0)
            used.amount += more
            if isinstance(limit, Budget) and limit.unit != "messages":
                parts.append((key, used.start, more))
        if task and parts:
            self._open[task] = _Reservation(seq, charged.worker, now, tuple(parts))
        self._changes += 1
        if self._changes % _SWEEP == 0:
            self._sweep(now)

    def settle(
        self, task: tuple[str, str], by: str, costs: Mapping[str, int], now: int, *, failed: bool
    ) -> None:
        """A result has come. Nothing, unless it is of who was asked.

        Args:
            task: sender and envelope id of the task.
            by: who sent the result.
            costs: what it says that it cost.
            now: time of its record.
            failed: it is a dead letter: what it does not say was not spent.
        """
        reservation = self._open.get(task)
        if reservation is None or reservation.worker != by:
            return
        del self._open[task]
        for key, start, reserved in reservation.parts:
            if key[1] == "seconds":
                spent = max(now - reservation.time, 0) * NANO // _SECOND
            else:
                spent = costs.get(key[1], 0 if failed else reserved)
            self._give_back(key, start, reserved - spent)

    def refund(self, task: tuple[str, str], seq: int) -> None:
        """What the record `seq` held is not dispatched after all."""
        reservation = self._open.get(task)
        if reservation is None or reservation.seq != seq:
            return
        del self._open[task]
        for key, start, reserved in reservation.parts:
            self._give_back(key, start, reserved)

    def forget_run(self, run: str) -> None:
        """The run is over: nothing is counted in it any more."""
        for key in [key for key in self._used if key[3:] == (Scope.RUN, run)]:
            del self._used[key]

    def _current(self, key: Key, now: int) -> _Used | None:
        """What was used in the window of now.

        A clock that is set back does not begin an earlier window anew: what was used in the later
        one counts until then, unless that is further away than a window is long.
        """
        used, start = self._used.get(key), _start(key, now)
        if used and start <= used.start <= start + key[2] * _SECOND:
            return used
        return None

    def _give_back(self, key: Key, start: int, amount: int) -> None:
        used = self._used.get(key)
        if used and used.start == start:
            used.amount -= amount

    def _sweep(self, now: int) -> None:
        for key, used in list(self._used.items()):
            if key[2] and used.start + key[2] * _SECOND <= now:
                del self._used[key]
        for task, reservation in list(self._open.items()):
            windows = ((self._used.get(key), start) for key, start, _ in reservation.parts)
            if not any(used and used.start == start for used, start in windows):
                del self._open[task]


def _key(limit: Limit, charged: Charged) -> Key:
    unit = limit.unit if isinstance(limit, Budget) else ""
    return (limit.policy, unit, limit.seconds, limit.scope, charged.whose(limit))


def _start(key: Key, now: int) -> int:
    return now - now % (key[2] * _SECOND) if key[2] else 0


def _asked(budget: Budget, costs: Mapping[str, int]) -> int:
    """What a message takes of a budget. Who sends it may say more than the rule, never less."""
    if budget.unit == "messages":
        return NANO
    return max(costs.get(budget.unit, 0), budget.reserve)
