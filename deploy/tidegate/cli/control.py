"""`tidegate control`: stop what goes wrong, and let it go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.bus import Bus
from tidegate.governance import held_by, state_of
from tidegate.stops import DONE, STOPPING, released, standing_stops, unknown, until_aligned
from tidegate_bus.broker.pauses import Feed
from tidegate_schemas import vocabulary
from tidegate_schemas.errors import InvalidEnvelope, InvalidInput
from tidegate_schemas.governance import Order, Target
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
    out.print(f"[green]{DONE[command]}[/green] {clean(text)}{by}; ledger record {done['record']}")
    if not done["known"]:
        later = "; it holds once there is something" if command in STOPPING else ""
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
        async with await registrar(project, state) as connection:
            found = await until_aligned(operator.ledger, connection, target, receipt.seq)
        hint = unknown(now, target)
        held = held_by(await state_of(operator.ledger), [target])[target]
    return {
        "record": receipt.seq,
        "command": command,
        "target": str(target),
        "policies": list(receipt.policies),
        "known": hint is None,
        "meant": hint or "",
        "released": released(now),
        "held": held,
        "deliveries": [_row(feed) for feed in found],
    }


async def _stopped(project: Path | None, state: Path | None) -> list[dict[str, Any]]:
    async with (
        await Bus.of_project(str(OPERATOR), project, state) as bus,
        await registrar(project, state) as connection,
    ):
        found = await standing_stops(bus.ledger, connection)
    return [
        {
            "target": str(stop.target),
            "level": stop.level,
            "since": stop.command.time,
            "record": stop.command.seq,
            "by": stop.command.by,
            "reason": stop.command.reason,
            "held": stop.held,
            "deliveries": [_row(feed) for feed in stop.feeds],
        }
        for stop in found
    ]


def _row(feed: Feed) -> dict[str, Any]:
    return {
        "agent": str(feed.principal),
        "paused": feed.paused,
        "waiting": feed.waiting,
        "out": feed.out,
    }
