"""Runs of blueprints: a list, one run with its steps, and ending one."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate.runs import STATES
from tidegate.timeline import Line, timeline_of
from tidegate.timeline_page import LEGEND
from tidegate.timeline_picture import MOST, Picture, printable
from tidegate_agents.run import Run, Unit
from tidegate_schemas import vocabulary
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.record import Record

from .blueprint_picture import looks, picture
from .here import Here, act, console_of, tell
from .ledger_page import story
from .message import value_text
from .pages import error_page, render
from .session import session_of

PAGE = 50
_UNITS = 50
_REACH_SECONDS = 3.0
_LOOK_SECONDS = 0.02
_MAX_REASON = 1_000
_SKIP = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a step, as it is shown. `given` and `gave` are JSON, laid out; or empty."""

    index: int
    attempt: int
    phase: str
    provider: str
    error: str
    waits: str
    given: str
    gave: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A step, as it is shown.

    Attributes:
        name, task, look, words: see `blueprint_picture.Box`.
        needs: steps before it.
        error: why it failed.
        tasks: the first ones.
        left: how many more there are.
    """

    name: str
    task: str
    look: str
    words: str
    needs: tuple[str, ...]
    error: str
    tasks: tuple[Task, ...]
    left: int


def steps(run: Run) -> list[Shown]:
    """The steps of a run in the order in which they are written."""
    found: list[Shown] = []
    for name, step in run.blueprint.steps.items():
        state = run.steps[name]
        look, words = looks(run, state)
        found.append(
            Shown(
                name,
                step.task,
                look,
                words,
                step.needs,
                printable(state.error or ""),
                tuple(_task(unit) for unit in state.units[:_UNITS]),
                max(len(state.units) - _UNITS, 0),
            )
        )
    return found


def _task(unit: Unit) -> Task:
    return Task(
        unit.index,
        unit.attempt,
        unit.phase,
        unit.provider,
        printable(unit.error or ""),
        printable(unit.waits or "") if unit.phase == "held" else "",
        "" if unit.data is None else value_text(unit.data),
        "" if unit.output is None else value_text(unit.output),
    )


async def _runs(request: Request) -> Response:
    here, given = console_of(request), request.query_params
    status = given.get("status", "") if given.get("status", "") in STATES else ""
    fields = {"status": status} | {
        name: given.get(name, "").strip() for name in ("blueprint", "text")
    }
    skip = int(given["skip"]) if _SKIP.fullmatch(given.get("skip", "")) else 0
    found = here.runs.newest(**fields, skip=skip, most=PAGE + 1)
    kept = {name: value for name, value in fields.items() if value}
    return render(
        request,
        "runs.html",
        runs=found[:PAGE],
        more=skip + PAGE if len(found) > PAGE else None,
        skip=skip,
        fields=fields,
        query=urlencode(kept),
        filtered=bool(kept),
        counts=here.runs.counts(),
        states=STATES,
        blueprints=here.runs.blueprints(),
        reading=not here.follower.caught_up,
    )


async def _run(request: Request) -> Response:
    found = await _folded(console_of(request), request.path_params["id"])
    if found is None:
        return _no_run(request)
    run, records = found
    lines: list[Line] = timeline_of(records, run.correlation)
    return render(
        request,
        "run.html",
        run=run,
        drawn=picture(run),
        steps=steps(run),
        lines=lines,
        picture=Picture(lines[:MOST]) if lines else None,
        legend=LEGEND,
        most=MOST,
        **_around(run, records),
    )


def _around(run: Run, records: list[Record]) -> dict[str, Any]:
    """What began a run and what came of it."""
    ends = [
        record.seq
        for record in records
        if record.to == vocabulary.RUN_FINISHED and record.by == str(vocabulary.COORDINATOR)
    ]
    return {
        "begun": records[0].seq if records else None,
        "ended": ends[-1] if ends else None,
        "input": "" if run.input is None else value_text(run.input),
        "output": "" if run.output is None else value_text(run.output),
    }


async def _ask(request: Request) -> Response:
    here, name = console_of(request), request.path_params["id"]
    run = here.runs.get(name)
    if run is None:
        return _no_run(request)
    return render(request, "run_cancel.html", run=run)


async def _cancel(request: Request) -> Response:
    name = request.path_params["id"]
    here, reason = console_of(request), request.state.form.get("reason", "").strip()[:_MAX_REASON]
    if here.runs.get(name) is None:
        return _no_run(request)
    order = {"run": name, "reason": reason} if reason else {"run": name}
    outcome = await act(request, f"Cancel run {name}", vocabulary.RUN_CANCEL, order)
    if outcome.done:
        await reached(here, outcome.seq)
    return tell(session_of(request), outcome, f"/runs/{name}")


async def reached(here: Here, seq: int) -> None:
    """Wait until the console has read so far, but not for long."""
    try:
        async with asyncio.timeout(_REACH_SECONDS):
            while min(here.runs.seq, here.index.seq()) < seq:  # noqa: ASYNC110 - of other threads
                await asyncio.sleep(_LOOK_SECONDS)
    except (TimeoutError, Unavailable):
        pass


async def _folded(here: Here, name: str) -> tuple[Run, list[Record]] | None:
    """A run, and the records of its correlation."""
    known = here.runs.get(name)
    if known is None:
        return None
    records = await story(here.index, here.ledger, known.correlation)
    run = here.runs.folded(name, records)
    return (run, records) if run else None


def _no_run(request: Request) -> Response:
    detail = "Runs of long ago are found in the ledger, by their correlation id."
    return error_page(request, 404, "There is no such run", detail)


routes = [
    Route("/runs", _runs),
    Route("/runs/{id:str}", _run),
    Route("/runs/{id:str}/cancel", _ask),
    Route("/runs/{id:str}/cancel", _cancel, methods=["POST"]),
]
