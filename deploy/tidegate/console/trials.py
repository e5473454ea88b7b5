"""Trials: what the policies in the project's folder would have said of what was recorded."""

from __future__ import annotations

import asyncio
import secrets
import threading
from dataclasses import dataclass

from tidegate.audit import Audit
from tidegate.project import Project
from tidegate_bus.tasks import end
from tidegate_policy.bundle import Bundle, load_bundle
from tidegate_policy.replay import Diff
from tidegate_schemas.errors import InvalidInput, TidegateError, Unavailable
from tidegate_schemas.vocabulary import CONSOLE

_KEPT = 16


@dataclass(slots=True)
class Trial:
    """One of them, while it works and after.

    Attributes:
        id: in its address.
        bundle: that is tried.
        since: how far back, e.g. `1h`; empty for the whole ledger.
        total, done: records to look at, and looked at.
        found: what would change, once it is known.
        fault: why it is not, once that is known.
    """

    id: str
    bundle: Bundle
    since: str
    total: int = 0
    done: int = 0
    found: Diff | None = None
    fault: str = ""

    @property
    def over(self) -> bool:
        """Whether it works no more."""
        return self.found is not None or bool(self.fault)


class Trials:
    """The last ones. One works at a time: each takes all cores.

    Args:
        project: whose ledger, and whose policies.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._trials: dict[str, Trial] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = threading.Event()

    def get(self, id: str) -> Trial | None:
        """One of them, if it is kept."""
        return self._trials.get(id)

    async def start(self, since: str) -> Trial:
        """Begin one with the policies that are in the folder now.

        Raises:
            InvalidPolicy: they do not load.
            InvalidInput: another one works.
        """
        bundle = await asyncio.to_thread(load_bundle, self._project.policy)
        if self._task and not self._task.done():
            raise InvalidInput("Another what-if is at work; try again when it is done")
        trial = Trial(secrets.token_hex(8), bundle, since)
        self._trials[trial.id] = trial
        while len(self._trials) > _KEPT:
            del self._trials[next(iter(self._trials))]
        self._task = asyncio.create_task(self._work(trial))
        return trial

    async def close(self) -> None:
        """Break off what is at work."""
        self._stopping.set()
        await end(self._task)

    async def _work(self, trial: Trial) -> None:
        try:
            trial.found = await asyncio.to_thread(self._compare, trial)
        except TidegateError as error:
            trial.fault = str(error)
        finally:
            if not trial.over:
                trial.fault = "It was broken off."

    def _compare(self, trial: Trial) -> Diff:
        def progress(done: int) -> None:
            trial.done = done
            if self._stopping.is_set():
                raise Unavailable("the console ends")

        root, state = self._project.root, self._project.state.folder
        with Audit(root, state, CONSOLE) as audit:
            span = audit.span(trial.since or None, None)
            trial.total = max(span.last - span.first + 1, 0)
            return audit.what_if(trial.bundle, audit.shelf(), span, on_progress=progress)
