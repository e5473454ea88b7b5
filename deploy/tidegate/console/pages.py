"""Making pages: templates, and what all of them show."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import HTMLResponse

from .outcome import Outcome
from .words import FILTERS

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


class _Sequence(Convertor[int]):
    """A sequence of the ledger, `{seq:seq}` in a path: what is larger is no page."""

    regex = "[1-9][0-9]{0,17}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("seq", _Sequence())


@dataclass(frozen=True, slots=True)
class Place:
    """A page in the navigation: its path, its name, and its picture in `icons.html`."""

    path: str
    name: str
    icon: str


PLACES = (
    Place("/", "Flow", "flow"),
    Place("/runs", "Runs", "runs"),
    Place("/approvals", "Approvals", "approvals"),
    Place("/agents", "Agents", "agents"),
    Place("/ledger", "Ledger", "ledger"),
    Place("/policies", "Policies", "policies"),
    Place("/controls", "Controls", "controls"),
)


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one.

    Args:
        request: that it answers.
        template: in `templates`.
        status: of the answer.
        values: for the template. It has besides: `session` (None where nobody is logged in),
            `project`, `places`, `here` (path of the place that is shown), `told` (what came of
            actions; they are shown once), `now` (ns since 1970), `asked` (messages that wait for
            an approval), `behind` (why searches do not find the newest records; empty if they do).
    """
    session = request.state.session
    told: list[Outcome] = []
    if session and not is_part(request):
        told, session.told = session.told, []
    return HTMLResponse(fill(request, template, told=told, **values), status)


def fill(request: Request, template: str, **values: Any) -> str:
    """The text of a part of a page, see `render`; without `told`."""
    path = request.url.path
    here = max((p.path for p in PLACES if _within(path, p.path)), key=len, default="")
    return (
        _environment()
        .get_template(template)
        .render(
            session=request.state.session,
            project=request.state.console.name,
            asked=request.state.console.follower.sample.asked,
            behind=request.state.console.follower.behind,
            places=PLACES,
            here=here,
            now=time.time_ns(),
            **values,
        )
    )


def is_part(request: Request) -> bool:
    """Whether a page asks for a part of itself, to replace it."""
    return "hx-request" in request.headers


def error_page(request: Request, status: int, title: str, detail: str) -> HTMLResponse:
    """A page that says what was wrong."""
    return render(request, "error.html", status, title=title, detail=detail)


def _within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= FILTERS
    made.globals["static"] = _static
    return made


@cache
def _static(name: str) -> str:
    """Where a static file is; its address changes with its content, so it can be kept."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"
