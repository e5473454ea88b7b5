"""The start page: what moves, live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tidegate_schemas.subjects import Verdict

from .bars import Bars, bars
from .flow import SECONDS, Sample
from .follower import Follower, Process
from .here import Here, console_of
from .pages import fill, render
from .session import Session, session_of

_SAMPLE_SECONDS = 0.25
_STREAMS = 4
"""Live views of a session; a browser has six connections to a host. The oldest ends."""
_OVER = "event: over\ndata:\n\n"
_STACK = ("stack", "gateway", "coordinator", "notary")
_FACES = ("edge", "console")
SHOWN = (Verdict.ALLOW, Verdict.HOLD, Verdict.DENY, Verdict.REJECT, Verdict.DUPLICATE)


@dataclass(frozen=True, slots=True)
class Part:
    """A process that should be there, or is: `well`, `ill`, or `away`."""

    name: str
    state: str
    detail: str
    workers: int = 1


def parts(processes: tuple[Process, ...], agents: tuple[str, ...]) -> list[Part]:
    """How the parts of the stack are.

    Args:
        processes: those that run.
        agents: those that the project has.
    """
    by_name: dict[str, list[Process]] = {}
    for process in processes:
        by_name.setdefault(process.name, []).append(process)
    faces = (face for face in _FACES if face in by_name)  # a stack may do without them
    names = (*_STACK, *faces, *agents)
    others = (name for name in by_name if name not in names)
    return [_part(name, by_name.get(name, [])) for name in (*names, *others)]


def _part(name: str, found: list[Process]) -> Part:
    if not found:
        return Part(name, "away", "not running", 0)
    ill = [process for process in found if not process.vital.healthy]
    if ill:
        return Part(name, "ill", _trouble(ill[0]), len(found))
    beat = max(float(process.vital.facts.get("beat_seconds", 0)) for process in found)
    return Part(name, "well", f"beat {beat:.1f} s", len(found))


def _trouble(process: Process) -> str:
    return process.vital.trouble or str(process.vital.facts.get("status", "not well"))


async def _page(request: Request) -> Response:
    return render(request, "flow.html", **_values(console_of(request)))


async def _live(request: Request) -> Response:
    session, here = session_of(request), console_of(request)
    if request.method == "HEAD":  # an answer that never ends would keep its connection
        return Response(media_type="text/event-stream")
    return StreamingResponse(
        _events(request, session, here),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _events(request: Request, session: Session, here: Here) -> AsyncIterator[str]:
    """Parts of the page whenever they have changed, four times a second at most."""
    own = object()
    session.streams = [*session.streams[1 - _STREAMS :], own]
    sent: dict[str, str] = {}
    try:
        while own in session.streams and here.goes_on(session):
            values = _values(here)
            for name in ("figures", "newest", "health"):
                text = fill(request, f"flow/{name}.html", **values)
                if sent.get(name) != text:
                    sent[name] = text
                    yield _event(name, text)
            await _next(here.follower, here.stopping)
        yield _OVER
    finally:
        if own in session.streams:
            session.streams.remove(own)


async def _next(follower: Follower, stopping: asyncio.Event) -> None:
    """Wait for the next look, but at least for the time between two samples."""
    try:
        async with asyncio.timeout(_SAMPLE_SECONDS):
            await stopping.wait()
    except TimeoutError:
        async with follower.looked:
            await follower.looked.wait()


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"


def _values(here: Here) -> dict[str, Any]:
    follower = here.follower
    sample = follower.sample
    agents = tuple(str(manifest.principal) for manifest in here.project.manifests)
    return {
        "sample": sample,
        "shown": SHOWN,
        "bars": _bars(sample),
        "seconds": SECONDS,
        "backlog": follower.backlog,
        "trouble": follower.trouble,
        "counting": not follower.caught_up,
        "parts_": parts(follower.processes, agents),
    }


def _bars(sample: Sample) -> Bars:
    series = [[second.get(verdict, 0) for verdict in SHOWN] for second in sample.series]
    return bars(series)


routes = [Route("/", _page), Route("/live", _live)]
