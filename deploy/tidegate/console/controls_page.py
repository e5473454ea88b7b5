"""Controls: what is stopped, and stopping more or letting it go on, each with a look before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate.deliveries import stops
from tidegate.stops import (
    DELIVERED,
    STOPPING,
    fed,
    known_targets,
    released,
    standing_stops,
    unknown,
    until_aligned,
    would_release,
)
from tidegate_bus.broker.pauses import Feed, feeds
from tidegate_policy.state import State
from tidegate_schemas import vocabulary
from tidegate_schemas.errors import InvalidEnvelope, TidegateError
from tidegate_schemas.governance import Order, Target, What

from .here import act, console_of, tell
from .outcome import Outcome
from .pages import is_part, render
from .security import own_path
from .session import session_of

_MAX_REASON = 500
_NAMES = 3


@dataclass(frozen=True, slots=True)
class Word:
    """A command, for people: what it is called, and what it does."""

    command: str
    name: str
    does: str


WORDS = {
    word.command: word
    for word in (
        Word(
            vocabulary.CONTROL_PAUSE,
            "Pause",
            "New tasks and events for it wait; what it works on, it may finish and answer. So an "
            "agent drains.",
        ),
        Word(
            vocabulary.CONTROL_QUARANTINE,
            "Quarantine",
            "Whatever it sends and whatever is sent to it waits, until it is released.",
        ),
        Word(
            vocabulary.CONTROL_KILL,
            "Kill",
            "Whatever it sends and whatever is sent to it is denied, until it is released. "
            "Connections of agents are cut; runs are cancelled.",
        ),
        Word(
            vocabulary.CONTROL_RESUME, "Resume", "The pause ends. What it held goes on, in order."
        ),
        Word(
            vocabulary.CONTROL_RELEASE,
            "Release",
            "The quarantine or the kill ends. What a quarantine held goes on, in order.",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Preview:
    """What a command would touch.

    Attributes:
        word: the command.
        target: of it.
        fault: why it would be refused; empty where it would not.
        hint: what is said where nothing is known of the target; empty where something is.
        delivered: whether it is about deliveries too.
        agents: of those, who would get nothing any more, or something again; each with whether
            something else stops it.
        releases: messages that would go on.
    """

    word: Word
    target: Target
    fault: str
    hint: str
    delivered: bool
    agents: tuple[tuple[Feed, str], ...]
    releases: int

    @property
    def title(self) -> str:
        """In a few words."""
        return _title(self.word, self.target)

    @property
    def stopping(self) -> bool:
        """Whether it stops something."""
        return self.word.command in STOPPING


def _title(word: Word, target: Target) -> str:
    drains = word.command == vocabulary.CONTROL_PAUSE and target.what is What.AGENT
    return f"{'Drain' if drains else word.name} {target}"


def preview(state: State, found: Iterable[Feed], word: Word, target: Target) -> Preview:
    """Look at a command before it is said.

    Args:
        state: what the ledger says now.
        found: what the broker delivers.
        word: the command.
        target: of it.
    """
    fault, releases, after = "", 0, state.controls
    try:
        after = state.controls.after(word.command, target)
        releases = would_release(state, word.command, target)
    except InvalidEnvelope as error:
        fault = error.detail
    delivered = target.what in DELIVERED
    agents: list[tuple[Feed, str]] = []
    for feed in fed(target, found) if delivered else ():
        other = stops(after, feed.principal)
        agents.append((feed, str(other[1]) if other and other[1] != target else ""))
    meant = unknown(state, target)
    hint = ""
    if meant is not None:
        hint = f"The ledger knows nothing of {target}. {meant[:1].upper()}{meant[1:]}".strip()
    return Preview(word, target, fault, hint, delivered, tuple(agents), releases)


async def _page(request: Request) -> Response:
    here = console_of(request)
    found = await standing_stops(here.ledger, here.registrar)
    if is_part(request):
        return render(request, "controls/standing.html", stops=found)
    return render(
        request,
        "controls.html",
        stops=found,
        words=[WORDS[command] for command in STOPPING],
        targets=_targets(await here.state()),
        given=request.query_params.get("target", ""),
        chosen=request.query_params.get("command", vocabulary.CONTROL_PAUSE),
        problem="",
    )


def _targets(state: State) -> list[str]:
    """Suggestions for a target."""
    found = [str(What.BUS)]
    for what in (What.TEAM, What.AGENT, What.CAPABILITY, What.BLUEPRINT):
        known = known_targets(state, what) or frozenset()
        found += sorted(known - {t for t in known if t.partition(":")[2].startswith("tidegate")})
    return found


async def _confirm(request: Request) -> Response:
    """What a command would touch, and the form that says it."""
    here, query = console_of(request), request.query_params
    word = WORDS.get(query.get("command", ""))
    back = own_path(query.get("back", "/controls"))
    try:
        target = Target.parse(query.get("target", "").strip())
    except InvalidEnvelope as error:
        return await _again(request, error.detail)
    if word is None:
        return await _again(request, "Choose what to do.")
    look = preview(await here.state(), await feeds(here.registrar), word, target)
    return render(request, "controls/confirm.html", look=look, back=back)


async def _again(request: Request, problem: str) -> Response:
    here, query = console_of(request), request.query_params
    return render(
        request,
        "controls.html",
        400,
        stops=await standing_stops(here.ledger, here.registrar),
        words=[WORDS[command] for command in STOPPING],
        targets=_targets(await here.state()),
        given=query.get("target", ""),
        chosen=query.get("command", ""),
        problem=problem,
    )


async def _say(request: Request) -> Response:
    """Say the command, and wait until deliveries follow it."""
    form, session = request.state.form, session_of(request)
    back = own_path(form.get("back", "/controls"))
    word = WORDS.get(form.get("command", ""))
    try:
        target = Target.parse(form.get("target", ""))
    except InvalidEnvelope as error:
        return tell(session, Outcome("No such target", "", 0, f"{error.detail}."), back)
    if word is None:
        return tell(session, Outcome("No such command", "", 0, ""), back)
    title = _title(word, target)
    order = Order(str(target), form.get("reason", "").strip()[:_MAX_REASON])
    outcome = await act(request, title, word.command, order)
    if outcome.done:
        outcome = await _followed(request, outcome, target)
    return tell(session, outcome, back)


async def _followed(request: Request, outcome: Outcome, target: Target) -> Outcome:
    """The same, with what came of it where messages are delivered."""
    here = console_of(request)
    try:
        go_on = released(await here.state_at(outcome.seq))
        found = await until_aligned(here.ledger, here.registrar, target, outcome.seq)
    except TidegateError as error:
        return outcome.with_words(f"{error}.")
    words = [outcome.says]
    for paused, says in ((True, "Nothing is delivered to"), (False, "Deliveries go to")):
        if names := [str(feed.principal) for feed in found if feed.paused is paused]:
            words.append(f"{says} {_some(names)} now.")
    if go_on:
        words.append(f"{go_on} {'message goes' if go_on == 1 else 'messages go'} on.")
    return outcome.with_words(" ".join(filter(None, words)))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES])
    return f"{shown} and {len(names) - _NAMES} more" if len(names) > _NAMES else shown


routes = [
    Route("/controls", _page),
    Route("/controls/confirm", _confirm),
    Route("/controls", _say, methods=["POST"]),
]
