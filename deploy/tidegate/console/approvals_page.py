"""What waits for people to agree, and their word on it."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate.approvals import described, opinion, waiting
from tidegate.governance import missing
from tidegate.timeline import brief
from tidegate_policy.commands import objection
from tidegate_policy.holds import Hold
from tidegate_policy.state import State
from tidegate_schemas import vocabulary
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.governance import Opinion

from .here import act, console_of, tell
from .message import of_envelope
from .pages import error_page, render
from .runs_page import reached
from .session import session_of

_MOST = 200
_MAX_REASON = 1_000
_WORDS = {
    "grant": ("Approve", vocabulary.APPROVAL_GRANT),
    "refuse": ("Deny", vocabulary.APPROVAL_REFUSE),
}


def told(state: State, hold: Hold, who: str, now: int) -> dict[str, Any]:
    """A message that waits, for a person.

    Args:
        state: as of now.
        hold: of the message.
        who: looks at it.
        now: ns since 1970.

    Returns:
        See `approvals.described`; and `asked`, what must still be agreed to; `objection`, why this
        person cannot approve; `against`, why they cannot deny; `brief`, the data in a line.
    """
    said = opinion(state, hold, "")
    return described(state, hold) | {
        "asked": [rule.asks for rule in missing(state, hold)],
        "objection": objection(state, who, vocabulary.APPROVAL_GRANT, said, now),
        "against": objection(state, who, vocabulary.APPROVAL_REFUSE, said, now),
        "run": hold.envelope.runid,
        "correlation": hold.envelope.correlationid or hold.envelope.id,
        "chain": hold.envelope.chain,
        "brief": brief(hold.envelope),
    }


async def _list(request: Request) -> Response:
    here, who, now = console_of(request), session_of(request).principal, time.time_ns()
    state = await here.state()
    holds = list(waiting(state))
    others = sum(not hold.approvals for hold in state.holds)
    found = [told(state, hold, str(who), now) for hold in holds[:_MOST]]
    found.sort(key=lambda hold: bool(hold["objection"]))  # what this person can do is first
    return render(
        request, "approvals.html", holds=found, others=others, left=max(len(holds) - _MOST, 0)
    )


async def _one(request: Request) -> Response:
    here, seq = console_of(request), request.path_params["seq"]
    state = await here.state()
    hold = state.holds.get(seq)
    if hold is None or not hold.approvals:
        row = here.index.row(seq)
        if row is None:
            return error_page(request, 404, f"There is no record {seq}", "")
        ends = [r for r in here.index.following(seq) if r.verdict in ("allow", "deny")]
        return render(request, "approval_over.html", row=row, ends=ends, stopped=hold is not None)
    who = str(session_of(request).principal)
    return render(
        request,
        "approval.html",
        hold=told(state, hold, who, time.time_ns()),
        message=of_envelope(hold.envelope),
    )


async def _say(request: Request) -> Response:
    here, seq, form = console_of(request), request.path_params["seq"], request.state.form
    if form.get("decision") not in _WORDS:
        raise InvalidInput("approve or deny; nothing was done")
    word, command = _WORDS[form["decision"]]
    said = Opinion(
        seq,
        form.get("message", ""),
        form.get("bundle", ""),
        form.get("blueprint", ""),
        form.get("reason", "").strip()[:_MAX_REASON],
    )
    outcome = await act(request, f"{word} record {seq}", command, said)
    if outcome.done:  # what follows from it is right behind it
        await reached(here, outcome.seq)
    return tell(session_of(request), outcome, f"/approvals/{seq}")


routes = [
    Route("/approvals", _list),
    Route("/approvals/{seq:seq}", _one),
    Route("/approvals/{seq:seq}", _say, methods=["POST"]),
]
