"""`tidegate control`: stop what goes wrong, and let it go on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.bus import Bus
from tidegate.deliveries import misaligned, stops
from tidegate.governance import held_by, missing, standing, state_of
from tidegate_bus.broker.pauses import Feed, feeds
from tidegate_policy.bundle.faults import meant
from tidegate_policy.controls import Controls
from tidegate_policy.state import State
from tidegate_schemas import vocabulary
from tidegate_schemas.errors import InvalidEnvelope, InvalidInput, Unavailable
from tidegate_schemas.governance import Order, Target, What
from tidegate_schemas.record import Receipt
from tidegate_schemas.vocabulary import OPERATOR

from .commands import buses, registrar, say
from .console import (
    AsOption,
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    err,
    group,
    out,
    print_json,
    run,
    table,
)

_TARGETS = "bus, team:NAME, agent:TEAM.NAME, capability:NAME, blueprint:NAME or run:ID"

app = group(f"Stop what goes wrong, and let it go on. A TARGET is {_TARGETS}.")

_APPLY_SECONDS = 15.0
_POLL_SECONDS = 0.02
_DONE = {
    vocabulary.CONTROL_PAUSE: "paused",
    vocabulary.CONTROL_RESUME: "resumed",
    vocabulary.CONTROL_QUARANTINE: "quarantined",
    vocabulary.CONTROL_KILL: "killed",
    vocabulary.CONTROL_RELEASE: "released",
}
_STOPPING = (vocabulary.CONTROL_PAUSE, vocabulary.CONTROL_QUARANTINE, vocabulary.CONTROL_KILL)
_STYLES = {"paused": "yellow", "quarantined": "yellow", "killed": "red"}

TargetArgument = Annotated[str, typer.Argument(metavar="TARGET", help=f"What: {_TARGETS}.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it stands in the ledger.")]


@app.command()
def pause(
    target: TargetArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold new tasks and events for TARGET until `resume`; it may go on answering.

    An agent gets nothing that was admitted before either, what it works on it may finish. Of a
    capability, a blueprint or a run, what was admitted before is still delivered; to stop that
    too, stop the agents.
    """
    _command(vocabulary.CONTROL_PAUSE, target, reason, principal, project, state, as_json)


@app.command()
def resume(
    target: TargetArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a pause. What it held goes on, in order."""
    _command(vocabulary.CONTROL_RESUME, target, reason, principal, project, state, as_json)


@app.command()
def quarantine(
    target: TargetArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold what TARGET sends and what is sent to it, until `release`.

    An agent gets nothing that was admitted before either. Of a capability, a blueprint or a run,
    what was admitted before is still delivered, and its results are let through.
    """
    _command(vocabulary.CONTROL_QUARANTINE, target, reason, principal, project, state, as_json)


@app.command()
def kill(
    target: TargetArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deny what TARGET sends and what is sent to it, until `release`.

    An agent gets nothing that was admitted before either, and its connections are cut; it may come
    back, and gets and sends nothing. A run is cancelled, of a blueprint all of them. Of these and
    of a capability, what was admitted before is still delivered.
    """
    _command(vocabulary.CONTROL_KILL, target, reason, principal, project, state, as_json)


@app.command()
def release(
    target: TargetArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a quarantine or a kill. What a quarantine held goes on, in order."""
    _command(vocabulary.CONTROL_RELEASE, target, reason, principal, project, state, as_json)


@app.command()
def show(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show what is stopped, since when and by whom, and what waits because of it."""
    stopped = run(_stopped(project, state))
    if as_json:
        print_json(stopped)
        return
    if not stopped:
        out.print("nothing is stopped; `tidegate control pause TARGET` holds new work")
        return
    rows = (
        (
            clean(s["target"]),
            f"[{_STYLES[s['level']]}]{s['level']}[/]",
            f"{s['since'][:19].replace('T', ' ')}",
            s["by"],
            clean(s["reason"]) or None,
            s["held"],
            "\n".join(d["agent"] for d in s["deliveries"]) or None,
            sum(d["waiting"] for d in s["deliveries"]) if s["deliveries"] else None,
        )
        for s in stopped
    )
    columns = ("target", "is", "since (UTC)", "by", "reason", "held", "not delivered to", "waiting")
    out.print(table("", columns, rows))


def _command(
    command: str,
    text: str,
    reason: str,
    principal: str,
    project: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    try:
        target = Target.parse(text)
    except InvalidEnvelope as error:
        raise InvalidInput(error.detail) from None
    done = run(_order(command, target, reason, principal, project, state))
    if as_json:
        print_json(done)
        return
    by = f" by {', '.join(done['policies'])}" if done["policies"] else ""
    out.print(f"[green]{_DONE[command]}[/green] {clean(text)}{by}; ledger record {done['record']}")
    if not done["known"]:
        later = "; it holds once there is something" if command in _STOPPING else ""
        hint = f"; {clean(done['meant'])}" if done["meant"] else ""
        err.print(f"nothing is known of {clean(text)}{later}{hint}")
    for feed in done["deliveries"]:
        words = "gets nothing" if feed["paused"] else "gets what was admitted"
        out.print(f"{feed['agent']} {words}; {feed['waiting']} wait, {feed['out']} in work")
    if done["released"]:
        out.print(f"messages that go on: {done['released']}")
    if done["held"]:
        out.print(f"messages that it holds: {done['held']}")


async def _order(
    command: str,
    target: Target,
    reason: str,
    principal: str,
    project: Path | None,
    state: Path | None,
) -> dict[str, Any]:
    """Give the command, and wait until deliveries follow it too."""
    async with buses(principal, project, state) as (operator, sender):
        receipt = await say(sender, command, Order(str(target), reason))
        now = await state_of(operator.ledger, receipt.seq)
        found = await _until_aligned(operator, target, receipt, project, state)
        known = _known(now, target.what)
        released = sum(
            not missing(now, hold) and not now.stopped(hold.by, hold.kind, hold.to, hold.envelope)
            for hold in now.holds
        )
        held = held_by(await state_of(operator.ledger), [target])[target]
    return {
        "record": receipt.seq,
        "command": command,
        "target": str(target),
        "policies": list(receipt.policies),
        "known": known is None or str(target) in known,
        "meant": meant(str(target), known or ()),
        "released": released,
        "held": held,
        "deliveries": [_row(feed) for feed in found],
    }


async def _until_aligned(
    operator: Bus, target: Target, receipt: Receipt, project: Path | None, state: Path | None
) -> list[Feed]:
    """Those whom a target stops at delivery, once they are as the ledger says."""
    if target.what not in (What.BUS, What.TEAM, What.AGENT):
        return []
    deadline = time.monotonic() + _APPLY_SECONDS
    alone = Controls().after(vocabulary.CONTROL_PAUSE, target)
    async with await registrar(project, state) as connection:
        while True:
            controls, _ = await standing(operator.ledger)
            touched = [f for f in await feeds(connection) if stops(alone, f.principal)]
            wrong = misaligned(controls, touched)
            if not wrong:
                return touched
            if time.monotonic() > deadline:
                names = ", ".join(str(feed.principal) for feed in wrong)
                raise Unavailable(
                    f"record {receipt.seq} is in force at the gateway, but not yet at the "
                    f"deliveries to {names}; the output of `tidegate up` says why"
                )
            await asyncio.sleep(_POLL_SECONDS)


def _known(state: State, what: What) -> set[str] | None:
    """The targets of a kind that the ledger knows; None where nobody can tell."""
    match what:
        case What.TEAM:
            names = frozenset(name.partition(".")[0] for name in state.roster.members)
        case What.AGENT:
            names = frozenset(state.roster.members)
        case What.CAPABILITY:
            names = frozenset(state.roster.providers)
        case What.BLUEPRINT:
            names = state.blueprints.names
        case _:
            return None
    return {str(Target(what, name)) for name in names}


async def _stopped(project: Path | None, state: Path | None) -> list[dict[str, Any]]:
    async with (
        await Bus.of_project(str(OPERATOR), project, state) as bus,
        await registrar(project, state) as connection,
    ):
        controls, found = await standing(bus.ledger)
        held = held_by(await state_of(bus.ledger), found)
        there = [feed for feed in await feeds(connection) if feed.paused]
    by_target: dict[Target, list[Feed]] = {}
    for feed in there:
        if stopped := stops(controls, feed.principal):
            by_target.setdefault(stopped[1], []).append(feed)
    return [
        {
            "target": str(target),
            "level": controls.levels[target].word,
            "since": command.time,
            "record": command.seq,
            "by": command.by,
            "reason": command.reason,
            "held": held[target],
            "deliveries": [_row(feed) for feed in by_target.get(target, ())],
        }
        for target, command in found.items()
    ]


def _row(feed: Feed) -> dict[str, Any]:
    return {
        "agent": str(feed.principal),
        "paused": feed.paused,
        "waiting": feed.waiting,
        "out": feed.out,
    }
