"""One run of a blueprint, as a value.

    start(…)            the run at its first moment
    advance(run, fact)  the run after one more thing that the ledger says
    due(run)            what ought to happen and is not in the ledger yet

All three are pure and total: the same ledger gives the same run and the same commands in every
process, so a coordinator that was killed at any moment goes on from the ledger alone. The id of a
command follows from what it is for: sent twice, the second is a duplicate to the gateway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.errors import InvalidExpression

from .backoff import pause
from .expression import Scope, visible

MAX_UNITS = 1000
"""Elements of a `foreach`."""

ERASED = "the personal data that it is about was erased"


@dataclass(frozen=True, slots=True)
class Unit:
    """One task of a step: the only one, or that of one element of its `foreach`.

    Attributes:
        index: position in the list; 0 without `foreach`.
        attempt: which attempt this is, from 1.
        phase: `due` until its task is in the ledger, then `sent`, then `done` or `failed`; `held`
            while the gateway holds its task.
        not_before: when a due attempt may be sent, in nanoseconds since 1970.
        deadline: when a sent attempt is over, in nanoseconds since 1970.
        data: what the agent is given.
        output: what the agent gave back.
        error: why the last attempt that failed did.
        waits: for what the gateway held its task, also once it does not any more.
        provider: `team.name` of who was asked; no one else may answer.
    """

    index: int
    attempt: int = 1
    phase: Literal["due", "held", "sent", "done", "failed"] = "due"
    not_before: int = 0
    deadline: int = 0
    data: Any = None
    output: Any = None
    error: str | None = None
    waits: str | None = None
    provider: str = ""


@dataclass(frozen=True, slots=True)
class StepState:
    """How far a step is. A step that was skipped has ended, with output null."""

    status: Literal["waiting", "running", "succeeded", "skipped", "failed"] = "waiting"
    units: tuple[Unit, ...] = ()
    output: Any = None
    error: str | None = None
    foreach: bool = False

    @property
    def ended(self) -> bool:
        """Whether the steps that need this one may begin."""
        return self.status in ("succeeded", "skipped")


@dataclass(frozen=True, slots=True)
class Run:
    """A blueprint at work.

    Attributes:
        id: see `tidegate_agents.fold.run_id`.
        blueprint, digest: what is run, and its digest.
        correlation: the `correlationid` of all its messages.
        input, event: what it was started with and by, as expressions see it.
        started: nanoseconds since 1970.
        steps: every step of the blueprint, in the order in which they are written.
        status, output, error: how it stands, or how it ended.
        announced: whether the ledger says that it ended.
        about: ids of the keys of personal data in it; what it sends is about the same people.
        erased: that data is gone, so nothing more can be said of it.
        sealed: whoever folds cannot open that data; then only its end is known.
    """

    id: str
    blueprint: Blueprint
    digest: str
    correlation: str
    input: Any
    event: Mapping[str, Any]
    started: int
    steps: Mapping[str, StepState]
    status: Literal["running", "succeeded", "failed", "cancelled"] = "running"
    output: Any = None
    error: str | None = None
    announced: bool = False
    about: frozenset[str] = frozenset()
    erased: bool = False
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """What every fact about an attempt says: which one, and when (nanoseconds since 1970)."""

    step: str
    index: int
    attempt: int
    time: int


@dataclass(frozen=True, slots=True)
class Dispatched(Attempt):
    """Its task was admitted; `provider` has it."""

    provider: str


@dataclass(frozen=True, slots=True)
class Held(Attempt):
    """Its task waits at the gateway, for an approval or the end of a pause; `why` says which."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused(Attempt):
    """Its task was not admitted. Another attempt would meet the same policy, so there is none."""

    reason: str


@dataclass(frozen=True, slots=True)
class Succeeded(Attempt):
    """`by` gave a result."""

    by: str
    output: Any


@dataclass(frozen=True, slots=True)
class Failed(Attempt):
    """`by` gave up."""

    by: str
    error: str


@dataclass(frozen=True, slots=True)
class TimedOut(Attempt):
    """Its time was over before anything came back."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody stopped the run."""

    time: int
    reason: str


@dataclass(frozen=True, slots=True)
class Announced:
    """The end of the run is in the ledger; `status` says how, where the data of it is sealed."""

    time: int
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """Personal data in the run is gone."""

    time: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """Personal data in the run is not for whoever folds."""

    time: int


_ENDS: dict[str, Literal["succeeded", "failed", "cancelled"]] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}

Fact = (
    Dispatched
    | Held
    | Refused
    | Succeeded
    | Failed
    | TimedOut
    | Cancelled
    | Announced
    | Erased
    | Sealed
)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the task of an attempt, not before `not_before` (nanoseconds since 1970)."""

    run_id: str
    step: str
    index: int
    attempt: int
    task: str
    data: Any
    not_before: int

    @property
    def id(self) -> str:
        """The envelope id, also the name of the attempt."""
        return _name(self.run_id, self.step, self.index, self.attempt)


@dataclass(frozen=True, slots=True)
class Timer:
    """Say that the time of an attempt is over, at `at` (nanoseconds since 1970)."""

    run_id: str
    step: str
    index: int
    attempt: int
    at: int

    @property
    def id(self) -> str:
        """The envelope id."""
        return f"{_name(self.run_id, self.step, self.index, self.attempt)}:timeout"


@dataclass(frozen=True, slots=True)
class Announce:
    """Say that the run ended, and how."""

    run_id: str
    status: str
    output: Any
    error: str | None

    @property
    def id(self) -> str:
        """The envelope id."""
        return f"{self.run_id}:finished"


Command = Dispatch | Timer | Announce


def start(
    run_id: str,
    blueprint: Blueprint,
    correlation: str,
    input: Any,
    event: Mapping[str, Any],
    time: int,
    about: frozenset[str] = frozenset(),
) -> Run:
    """A run at its first moment, with the steps that need no other already begun."""
    return _settle(unread(run_id, blueprint, correlation, input, event, time, about), time)


def unread(
    run_id: str,
    blueprint: Blueprint,
    correlation: str,
    input: Any,
    event: Mapping[str, Any],
    time: int,
    about: frozenset[str] = frozenset(),
) -> Run:
    """A run before its first moment: nothing of it was looked at yet."""
    steps = dict.fromkeys(blueprint.steps, StepState())
    digest = blueprint.digest
    return Run(run_id, blueprint, digest, correlation, input, event, time, steps, about=about)


def advance(run: Run, fact: Fact) -> Run:
    """The run after a fact; the same object when the fact does not count.

    A fact about an attempt counts while that attempt is the current one of its unit, stands where
    the fact can follow, and is answered by who was asked. So a result that comes after a timeout
    or a cancellation, twice, or from somebody else changes nothing.
    """
    match fact:
        case Announced() if run.announced:
            return run
        case Announced() if run.sealed:
            return replace(run, announced=True, status=_ENDS.get(fact.status or "", run.status))
        case Announced():
            return run if run.status == "running" else replace(run, announced=True)
        case Erased():
            return run if run.announced or run.erased else _forget(run)
        case Sealed():
            return replace(run, sealed=True)
        case _:
            pass
    if run.status != "running":
        return run
    if isinstance(fact, Cancelled):
        return replace(run, status="cancelled", error=fact.reason)
    state = run.steps.get(fact.step)
    if run.sealed or state is None or not 0 <= fact.index < len(state.units):
        return run
    unit = state.units[fact.index]
    if unit.attempt != fact.attempt:
        return run
    timeout = run.blueprint.steps[fact.step].timeout
    match unit.phase, fact:
        case "due" | "held", Dispatched():
            deadline = fact.time + int(timeout * 1e9)
            sent = replace(unit, phase="sent", deadline=deadline, provider=fact.provider)
            return _with_unit(run, fact.step, sent)
        case "due", Held():
            return _with_unit(run, fact.step, replace(unit, phase="held", waits=fact.why))
        case "due" | "held", Refused():
            return _give_up(run, fact, unit, f"refused: {fact.reason}")
        case "sent", Succeeded() if fact.by == unit.provider:
            done = replace(unit, phase="done", output=fact.output)
            return _complete(_with_unit(run, fact.step, done), fact)
        case "sent", Failed() if fact.by == unit.provider:
            return _again(run, fact, unit, fact.error)
        case "sent", TimedOut():
            return _again(run, fact, unit, f"no result within {timeout:g} s")
        case _:
            return run


def due(run: Run) -> tuple[Command, ...]:
    """What ought to happen and is not in the ledger yet.

    It follows from where the run stands and not from what happened last: nothing is lost with a
    coordinator that is killed between a fact and its command.
    """
    if run.status == "running":
        return tuple(_outstanding(run))
    return () if run.announced else (Announce(run.id, run.status, run.output, run.error),)


def behalf(run: Run) -> str | None:
    """`onbehalfof` of its tasks: that of what started it, behind who did where it delegates."""
    chain = [run.event["by"]] if run.blueprint.delegate else []
    if given := run.event["onbehalfof"]:
        chain.append(given)
    return ",".join(chain) or None


def _outstanding(run: Run) -> Iterator[Command]:
    for name, state in run.steps.items():
        if state.status != "running":
            continue
        task = run.blueprint.steps[name].task
        for unit in state.units:
            at = (run.id, name, unit.index, unit.attempt)
            if unit.phase == "due":
                yield Dispatch(*at, task, unit.data, unit.not_before)
            elif unit.phase == "sent":
                yield Timer(*at, unit.deadline)


def _forget(run: Run) -> Run:
    """The run without any data; it has failed, unless it had ended before."""
    steps = {
        name: replace(
            state,
            units=tuple(replace(unit, data=None, output=None, error=None) for unit in state.units),
            output=None,
            error=None,
        )
        for name, state in run.steps.items()
    }
    return replace(
        run,
        input=None,
        event={**run.event, "data": None},
        steps=steps,
        status="failed" if run.status == "running" else run.status,
        output=None,
        error=ERASED,
        erased=True,
    )


def _with_step(run: Run, name: str, state: StepState) -> Run:
    return replace(run, steps={**run.steps, name: state})


def _with_unit(run: Run, name: str, unit: Unit) -> Run:
    state = run.steps[name]
    units = (*state.units[: unit.index], unit, *state.units[unit.index + 1 :])
    return _with_step(run, name, replace(state, units=units))


def _complete(run: Run, fact: Attempt) -> Run:
    """End the step if no unit of it is left, and begin what waited for it."""
    state = run.steps[fact.step]
    if any(unit.phase != "done" for unit in state.units):
        return run
    outputs = [unit.output for unit in state.units]
    output = outputs if state.foreach else outputs[0]
    ended = replace(state, status="succeeded", output=output)
    return _settle(_with_step(run, fact.step, ended), fact.time)


def _again(run: Run, fact: Attempt, unit: Unit, reason: str) -> Run:
    """Make the next attempt due, or give up when there is none."""
    retry = run.blueprint.steps[fact.step].retry
    if unit.attempt >= retry.attempts:
        return _give_up(run, fact, unit, reason)
    name = _name(run.id, fact.step, fact.index, fact.attempt)
    later = fact.time + pause(retry, name, fact.attempt)
    following = Unit(unit.index, unit.attempt + 1, not_before=later, data=unit.data, error=reason)
    return _with_unit(run, fact.step, following)


def _give_up(run: Run, fact: Attempt, unit: Unit, reason: str) -> Run:
    run = _with_unit(run, fact.step, replace(unit, phase="failed", error=reason))
    error = f"{fact.step}[{fact.index}]: {reason}"
    failed = replace(run.steps[fact.step], status="failed", error=error)
    return replace(_with_step(run, fact.step, failed), status="failed", error=error)


def _name(run_id: str, step: str, index: int, attempt: int) -> str:
    return f"{run_id}:{step}:{index}:{attempt}"


def _settle(run: Run, time: int) -> Run:
    """Begin every step that is ready until none is; end the run when all steps have ended."""
    steps = dict(run.steps)
    begun = True
    while begun:
        begun = False
        for name, step in run.blueprint.steps.items():
            if steps[name].status != "waiting" or not all(steps[n].ended for n in step.needs):
                continue
            begun = True
            state = steps[name] = _begin(run, name, steps, time)
            if state.status == "failed":
                return replace(run, steps=steps, status="failed", error=state.error)
    run = replace(run, steps=steps)
    return _finish(run) if all(state.ended for state in steps.values()) else run


def _begin(run: Run, name: str, steps: Mapping[str, StepState], time: int) -> StepState:
    """A step at its first moment. This is the only time that its expressions are evaluated."""
    step = run.blueprint.steps[name]
    scope = Scope(_variables(run, {n: steps[n] for n in visible(run.blueprint, name)}))
    at = ""
    try:
        if step.when is not None and not scope.truth(step.when):
            return StepState("skipped")
        if step.foreach is None:
            return StepState("running", (Unit(0, not_before=time, data=scope.render(step.with_)),))
        items = scope.elements(step.foreach)
        if len(items) > MAX_UNITS:
            raise InvalidExpression(step.foreach, f"{len(items)} elements, at most {MAX_UNITS}")
        units: list[Unit] = []
        for index, item in enumerate(items):
            at = f"[{index}]"
            scope.bind({"index": index, "item": item})
            units.append(Unit(index, not_before=time, data=scope.render(step.with_)))
    except InvalidExpression as error:
        return StepState("failed", error=f"{name}{at}: {error}", foreach=step.foreach is not None)
    if not units:
        return StepState("succeeded", output=[], foreach=True)
    return StepState("running", tuple(units), foreach=True)


def _finish(run: Run) -> Run:
    expression = run.blueprint.output
    if expression is None:
        return replace(run, status="succeeded", output=[*run.steps.values()][-1].output)
    try:
        output = Scope(_variables(run, run.steps)).evaluate(expression)
    except InvalidExpression as error:
        return replace(run, status="failed", error=f"output: {error}")
    return replace(run, status="succeeded", output=output)


def _variables(run: Run, steps: Mapping[str, StepState]) -> dict[str, Any]:
    return {
        "input": run.input,
        "event": run.event,
        "run": {
            "id": run.id,
            "blueprint": run.blueprint.blueprint,
            "version": run.blueprint.version,
            "started": rfc3339(run.started),
        },
        "steps": {n: {"output": s.output, "status": s.status} for n, s in steps.items()},
    }
