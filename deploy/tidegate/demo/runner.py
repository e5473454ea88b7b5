"""Runs the demo: a stack, commits published as from outside, and a look at the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidegate.bus import Bus
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_policy.invariants import Checker
from tidegate_schemas import subjects
from tidegate_schemas.vocabulary import OPERATOR

from . import PROJECT
from .commits import as_event
from .report import Report
from .review import Commit

OUTSIDE = "outside.git"

_SECONDS_A_COMMIT = 5.0
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the demo is; `step` is a word or two for people."""

    step: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo leaves: the report, the checked ledger, and whether all of it holds.

    Attributes:
        violations: what the invariants found; empty when they hold.
        start_seconds: from nothing to everything ready.
    """

    report: Report
    checker: Checker
    violations: list[str]
    start_seconds: float

    @property
    def holds(self) -> bool:
        """Every commit has its verdict, the rogue was stopped, the ledger is as promised."""
        reviewed = all(r.status == "succeeded" for r in self.report.reviews.values())
        return reviewed and self.report.rogue_denied and not self.violations


async def run_demo(
    commits: list[Commit],
    state: Path,
    on_progress: Callable[[Progress], None],
    on_line: Callable[[str, str], None],
) -> Outcome:
    """Review commits on a stack of their own.

    Args:
        commits: what to review, at least one.
        state: empty folder for the stack's state.
        on_progress: called as it goes.
        on_line: called with the log lines of the processes.

    Raises:
        TidegateError: something does not start or is refused; says what.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    on_progress(Progress("starting"))
    async with Stack(load_project(PROJECT, state), on_line=on_line) as stack:
        start_seconds = loop.time() - began
        report, checker = Report(), Checker()
        deadline = _SECONDS + _SECONDS_A_COMMIT * len(commits)
        async with (
            await Bus.of_project(OUTSIDE, PROJECT, state) as outside,
            await Bus.of_project(str(OPERATOR), PROJECT, state) as operator,
            asyncio.TaskGroup() as tasks,
        ):
            publishing = [tasks.create_task(outside.publish(as_event(c))) for c in commits]
            try:
                async with asyncio.timeout(deadline):
                    async for stored in operator.ledger.read(follow=True):
                        record = checker.add(stored)
                        if record is None:
                            continue
                        report.add(record)
                        on_progress(Progress("reviewing", report.ended, len(commits)))
                        over = report.ended >= len(commits) and all(p.done() for p in publishing)
                        if over and report.rogue_denied and not checker.open_tasks:
                            break
            except TimeoutError:
                pass  # the report says what is missing
            for task in publishing:
                task.cancel()
        async with await stack.connect(REGISTRAR) as connection:
            ingress = await connection.stream_state(subjects.ingress_stream(0))
        on_progress(Progress("checking", report.ended, len(commits)))
        violations = checker.finish(ingress_last=ingress.last_seq)
        return Outcome(report, checker, violations, start_seconds)
