"""The agents: how they are, and what can be done about it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate_bus.broker.pauses import feeds

from .agents import agents
from .here import console_of
from .pages import is_part, render


async def _page(request: Request) -> Response:
    here = console_of(request)
    found = agents(
        await here.state(),
        await feeds(here.registrar),
        here.follower.processes,
        {str(m.principal): m.version for m in here.project.manifests},
        here.follower.seen,
    )
    template = "agents/rows.html" if is_part(request) else "agents.html"
    return render(request, template, agents=found)


routes = [Route("/agents", _page)]
