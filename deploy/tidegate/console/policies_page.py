"""The policies: which are in force, their past, and what those of the project's folder would do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tidegate.policies import demands, history, put_in_force
from tidegate_policy.bundle import Bundle, Rule, load_bundle
from tidegate_policy.replay import Outcome as Change
from tidegate_schemas.errors import InvalidInput, InvalidPolicy

from .here import console_of, perform, tell
from .outcome import Outcome
from .pages import is_part, render
from .session import session_of
from .trials import Trial
from .words import short

_MAX_REASON = 500
_GROUPS = 25
_CHANGES = (Change.NEWLY_ALLOWED, Change.NEWLY_DENIED, Change.NEWLY_HELD, Change.INDETERMINATE)
_SPANS = (("1h", "the last hour"), ("1d", "the last day"), ("7d", "the last week"), ("", "all"))


@dataclass(frozen=True, slots=True)
class Folder:
    """The policies as they stand in the project's folder: their digest, or why there is none."""

    digest: str
    faults: tuple[str, ...] = ()


async def _page(request: Request) -> Response:
    here = console_of(request)
    known = here.bundles.shelf
    return render(
        request,
        "policies.html",
        bundle=here.bundles.bundle(known.active),
        since=known.activations[-1][0],
        folder=await asyncio.to_thread(_folder, request),
        changes=(await history(here.ledger))[::-1],
        demands=demands,
        spans=_SPANS,
    )


def _folder(request: Request) -> Folder:
    try:
        return Folder(load_bundle(console_of(request).project.policy).digest)
    except InvalidPolicy as error:
        return Folder("", tuple(error.problems))
    except InvalidInput as error:
        return Folder("", (str(error),))


async def _bundle(request: Request) -> Response:
    """A bundle of the ledger, whole."""
    bundles = console_of(request).bundles
    bundle = bundles.bundle(request.path_params["digest"])
    return render(
        request,
        "policies/bundle.html",
        bundle=bundle,
        active=bundle.digest == bundles.shelf.active,
        demands=demands,
    )


async def _try(request: Request) -> Response:
    """Begin a what-if."""
    try:
        trial = await console_of(request).trials.start(request.state.form.get("since", ""))
    except InvalidInput as error:
        told = Outcome("What if", "", 0, str(error))
        return tell(session_of(request), told, "/policies")
    return RedirectResponse(f"/policies/what-if/{trial.id}", 303)


async def _trial(request: Request) -> Response:
    """How a what-if is getting on, or what it found."""
    trial = _found(request)
    known = console_of(request).bundles.shelf
    template = "policies/found.html" if is_part(request) else "policies/what_if.html"
    return render(
        request,
        template,
        trial=trial,
        known=known,
        shown=_CHANGES,
        groups=trial.found.groups[:_GROUPS] if trial.found else (),
        spans=dict(_SPANS),
    )


async def _confirm(request: Request) -> Response:
    """What activating the bundle of a what-if would change, and the form that does it."""
    trial, bundles = _found(request), console_of(request).bundles
    known = bundles.shelf
    if trial.found is None or trial.bundle.digest == known.active:
        return RedirectResponse(f"/policies/what-if/{trial.id}", 303)
    return render(
        request,
        "policies/confirm.html",
        trial=trial,
        known=known,
        stale=trial.found.before != known.active,
        changes=rule_changes(bundles.bundle(known.active), trial.bundle),
        shown=_CHANGES,
        spans=dict(_SPANS),
    )


def rule_changes(before: Bundle, after: Bundle) -> list[tuple[str, list[str]]]:
    """Ids of the rules that are new, that are not any more, and that say something else."""
    old, new = before.rules, after.rules
    both = [id for id in new if id in old]
    return [
        ("New", [id for id in new if id not in old]),
        ("Gone", [id for id in old if id not in new]),
        ("Changed", [id for id in both if _says(old[id]) != _says(new[id])]),
    ]


def _says(rule: Rule) -> tuple[object, ...]:
    """What a rule says, wherever it stands."""
    return rule.effect, rule.annotations, rule.policy


async def _activate(request: Request) -> Response:
    """Put the bundle of a what-if in force, with its report, by somebody who saw what changes."""
    trial, session, form = _found(request), session_of(request), request.state.form
    known = console_of(request).bundles.shelf
    title = f"Activate policies {short(trial.bundle.digest)}"
    found = trial.found
    if found is None or trial.bundle.digest == known.active:
        told = Outcome(title, "", 0, "They are in force already, or the what-if is not done.")
        return tell(session, told, "/policies")
    if (form.get("before"), form.get("after")) != (found.before, found.after):
        told = Outcome(
            title, "", 0, "It was not confirmed.", "Look at what changes, and confirm it."
        )
        return tell(session, told, f"/policies/what-if/{trial.id}/confirm")
    if found.before != known.active:
        says = "Other policies came into force since this what-if was made."
        told = Outcome(title, "", 0, says, "Do it again, so that you know what changes.")
        return tell(session, told, "/policies")
    reason = form.get("reason", "").strip()[:_MAX_REASON]
    outcome = await perform(
        request,
        title,
        lambda bus: put_in_force(bus, trial.bundle, known, reason=reason, report=found.summary()),
    )
    return tell(session, outcome, "/policies")


def _found(request: Request) -> Trial:
    trial = console_of(request).trials.get(request.path_params["id"])
    if trial is None:
        raise HTTPException(404)
    return trial


routes = [
    Route("/policies", _page),
    Route("/policies/bundles/{digest}", _bundle),
    Route("/policies/what-if", _try, methods=["POST"]),
    Route("/policies/what-if/{id}", _trial),
    Route("/policies/what-if/{id}/confirm", _confirm),
    Route("/policies/what-if/{id}", _activate, methods=["POST"]),
]
