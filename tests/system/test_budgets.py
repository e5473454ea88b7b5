"""Budgets in a whole stack: over a fan-out of 100, never more than there is, whatever is lost."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support import until
from system.governed import Governed, governed, kill, write_project
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import COORDINATOR, DEADLETTER

POLICY = """
@id("do")
@budget("usd:20 per run reserve 0.2; usd:45/1d per team reserve 0.2")
permit (principal, action in Action::"task", resource == Capability::"work.do");

@id("dear")
@budget("usd:20 per run reserve 0.5")
permit (principal, action in Action::"task", resource == Capability::"work.dear");
"""
CODE = """
import os, signal, time
from pathlib import Path
from tidegate import Agent, Context, Permanent

agent = Agent()

def once(name):
    path = Path(__file__).parent / name
    if path.exists():
        return False
    path.touch()
    return True

@agent.task("work.do")
def do(data: dict, context: Context) -> dict:
    n, trouble = data["n"], data["trouble"]
    context.spend("usd", "0.05")
    if trouble and n % 40 == 7 and once(f"killed.{context.envelope.runid}.{n}"):
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble and n % 20 == 3 and context.envelope.attempt == 1:
        raise Permanent("this attempt fails, and it was not for nothing")
    if trouble and n % 25 == 11 and context.envelope.attempt == 1:
        time.sleep(60)  # nobody waits so long
    context.spend("usd", f"0.0{n % 10}")
    return {"n": n}

@agent.task("work.dear")
def dear(data: dict, context: Context) -> dict:
    context.spend("usd", "0.5")
    return {}
"""
_FAN_OUT = """
    blueprint: {name}
    version: 1
    on: {{ event: {name}.asked }}
    steps:
      each:
        foreach: input.items
        task: work.{name}
        with: {{ n: "${{ item }}", trouble: "${{ input.trouble }}" }}
        retry: {{ attempts: 3, delay: 1s }}
        timeout: 5s
    """
NANO = 10**9
Key = tuple[str, str, str]
"""Capability, scope, and whose."""
LIMITS = {  # by capability: what is shared by whom, its limit, and what a task reserves
    "work.do": (("run", 20 * NANO, NANO // 5), ("team", 45 * NANO, NANO // 5)),
    "work.dear": (("run", 20 * NANO, NANO // 2),),
}


def usd(costs: str | None) -> int | None:
    """Billionths; None where nothing is said of it."""
    for part in (costs or "").split(","):
        unit, _, number = part.partition(":")
        if unit == "usd":
            whole, _, fraction = number.partition(".")
            return int(whole) * NANO + int(fraction.ljust(9, "0"))
    return None


@dataclass
class Books:
    """Who may spend what, kept by somebody who knows the ledger and nothing of meters.

    Attributes:
        spent: by limit and whose it is: what results say.
        reserved: so too: what open tasks may still cost.
        most: the highest sum that ever was.
        admitted: tasks, by capability.
    """

    spent: dict[Key, int] = field(default_factory=lambda: defaultdict[Key, int](int))
    reserved: dict[Key, int] = field(default_factory=lambda: defaultdict[Key, int](int))
    most: int = 0
    admitted: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    open: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    over: set[str] = field(default_factory=set[str])

    def add(self, made: Record) -> None:
        """Take in the next record, and check that nobody has spent what is not there."""
        message = made.message()
        if message is None:
            return
        if made.kind is Kind.TASK and made.to in LIMITS and made.by == str(COORDINATOR):
            run = message.runid or ""
            room = all(
                self.spent[key] + self.reserved[key] + more <= limit
                for key, limit, more in self._keys(made.to, run)
            )
            if made.verdict is Verdict.ALLOW:
                assert room, f"record {made.seq} spends what is not there"
                self.admitted[made.to] += 1
                self.open[message.id] = (made.to, run)
                for key, _, more in self._keys(made.to, run):
                    self.reserved[key] += more
            elif made.verdict is Verdict.DENY:
                assert made.why.reason == "over_budget"
                assert not room, f"record {made.seq} leaves unused what is there"
                self.over.add(run)
        elif made.kind is Kind.RESULT and made.verdict is Verdict.ALLOW:
            self._settle(message.causationid or "", usd(message.costs), message.type)
        for key, sum_ in self.spent.items():
            self.most = max(self.most, sum_ + self.reserved[key])

    def _keys(self, to: str, run: str) -> Iterable[tuple[Key, int, int]]:
        for scope, limit, reserve in LIMITS[to]:
            yield (to, scope, run if scope == "run" else "pay"), limit, reserve

    def _settle(self, task: str, cost: int | None, type_: str) -> None:
        to, run = self.open.pop(task, ("", ""))
        for key, _, reserve in self._keys(to, run) if to else ():
            silent = 0 if type_ == DEADLETTER else reserve
            self.reserved[key] -= reserve
            self.spent[key] += silent if cost is None else cost


async def _kill_now_and_then(at: Governed, chance: random.Random, times: int) -> None:
    """SIGKILL the gateway when some more records were written."""
    for _ in range(times):
        target = len(await at.records()) + chance.randrange(20, 100)

        async def grown(target: int = target) -> bool:
            return len(await at.records()) >= target

        await until(grown, seconds=120)
        await kill(at.gateway)


@pytest.mark.timeout(300)
async def test_a_fan_out_of_100_never_overspends(tmp_path: Path) -> None:
    """With failures, timeouts, lost results, a killed worker and a killed gateway; nor too little.

    Judged record by record by books of their own: what was spent and what is reserved is never
    more than the limit, and nothing is denied that would have fitted. Three runs of 100 need more
    than the team has, unless what they did not spend can be used again.
    """
    project = write_project(
        tmp_path / "project",
        policy=POLICY,
        code=CODE,
        capabilities=["work.do", "work.dear"],
        blueprints={name: _FAN_OUT.format(name=name) for name in ("do", "dear")},
    )
    chance = random.Random(6)
    async with governed(project, tmp_path / "state") as at:
        killing = asyncio.create_task(_kill_now_and_then(at, chance, 4))
        for trouble in (True, False, False):
            data = {"items": list(range(100)), "trouble": trouble}
            ended = await at.ended(await at.begin("do.asked", data), seconds=120)
            if not trouble:
                assert ended["status"] == "succeeded", ended
        data = {"items": list(range(100)), "trouble": False}
        ended = await at.ended(await at.begin("dear.asked", data), seconds=120)
        assert "refused: over_budget" in ended["error"]
        await killing
        records = await at.finish()

    books = Books()
    for made in records:
        books.add(made)
    assert books.admitted["work.do"] >= 300
    assert books.admitted["work.dear"] == 40
    assert books.most <= 45 * NANO
    assert len(books.over) >= 1
