"""`tidegate run`: start, list, show, cancel. What they show is a fold of the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate.bus import Bus
from tidegate.runs import described
from tidegate_agents.fold import Fold
from tidegate_schemas import vocabulary
from tidegate_schemas.errors import InvalidInput

from .commands import buses, say
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
from .publish import AboutOption, json_argument, personal

app = group("Start runs of blueprints, look at them, cancel them.")

_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


@app.command()
def start(
    blueprint: Annotated[str, typer.Argument(help="Name of the blueprint.")],
    input: Annotated[
        str, typer.Argument(help="JSON; @FILE reads a file, - reads standard input.")
    ] = "null",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended.")] = False,
    correlation: Annotated[str | None, typer.Option(help="Correlation id of the run.")] = None,
    about: AboutOption = None,
    principal: AsOption = str(vocabulary.OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run of a blueprint.

    With --wait, exit status 1 when it does not succeed.
    """
    given = msgspec.json.decode(json_argument(input, "input"))
    attributes = {"correlationid": correlation, **personal(about)}
    if about:  # where those find it who cannot open the rest
        attributes["subject"] = blueprint
    found = run(_start(blueprint, given, wait, attributes, principal, project, state))
    if as_json:
        print_json(found)
    elif wait:
        _print_run(found)
    else:
        out.print(f"started run {found['id']}; `tidegate run show {found['id']}` tells how it goes")
    if wait and found["status"] != "succeeded":
        raise typer.Exit(1)


@app.command("list")
def list_(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """List all runs, the newest last."""
    runs = run(_runs(project, state))
    if as_json:
        print_json(runs)
        return
    if not runs:
        out.print("no runs yet; `tidegate run start BLUEPRINT` starts one")
        return
    rows = (
        (
            r["id"],
            r["blueprint"],
            _styled(r["status"]),
            r["started"][:19].replace("T", " "),
            f"{'?' if r['sealed'] else _done(r['steps'])}/{len(r['steps'])}",
            clean(r["correlation"]),
        )
        for r in runs
    )
    out.print(
        table("", ("run", "blueprint", "status", "started (UTC)", "steps", "correlation"), rows)
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, or its beginning.")],
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one run with its steps."""
    runs = {found["id"]: found for found in run(_runs(project, state))}
    found = runs[_the_one(name, runs)]
    if as_json:
        print_json(found)
    else:
        _print_run(found)


@app.command()
def cancel(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, or its beginning.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")] = "",
    principal: AsOption = str(vocabulary.OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a run: nothing more is asked for it, and what agents still answer changes nothing.

    What they work on already they finish. Exit status 1 when the run had ended before.
    """
    found = run(_cancel(name, reason, principal, project, state))
    if as_json:
        print_json(found)
    elif found["status"] == "cancelled":
        out.print(f"cancelled run {found['id']}: {clean(found['error'])}")
    else:
        err.print(f"run {found['id']} had ended before: {_styled(found['status'])}")
    if found["status"] != "cancelled":
        raise typer.Exit(1)


def _the_one(name: str, runs: Iterable[str]) -> str:
    """The run whose id begins so."""
    found = [run for run in runs if run.startswith(name)]
    if len(found) != 1:
        raise InvalidInput(
            f"{len(found)} runs begin with {name!r}" if found else f"there is no run {name!r}"
        )
    return found[0]


async def _start(
    blueprint: str,
    given: Any,
    wait: bool,
    attributes: dict[str, str | None],
    principal: str,
    project: Path | None,
    state: Path | None,
) -> dict[str, Any]:
    order = {"blueprint": blueprint, "input": given}
    async with buses(principal, project, state) as (operator, sender):
        fold, seq = await _folded(operator)
        if blueprint not in fold.active:
            known = ", ".join(sorted(fold.active)) or "none"
            raise InvalidInput(f"no blueprint {blueprint!r} is registered; registered: {known}")
        receipt = await say(sender, vocabulary.RUN_START, order, **attributes)
        name = ""
        async for record in operator.records(seq + 1, follow=True):
            changed = fold.apply(record)
            if record.seq == receipt.seq:
                (name,) = changed
            if name and (not wait or fold.runs[name].announced):
                break
        return described(fold.runs[name])


async def _cancel(
    name: str, reason: str, principal: str, project: Path | None, state: Path | None
) -> dict[str, Any]:
    async with buses(principal, project, state) as (operator, sender):
        fold, seq = await _folded(operator)
        found = _the_one(name, fold.runs)
        order = {"run": found, "reason": reason} if reason else {"run": found}
        if fold.runs[found].status == "running":
            receipt = await say(sender, vocabulary.RUN_CANCEL, order)
            async for record in operator.records(seq + 1, follow=True):
                fold.apply(record)
                if record.seq >= receipt.seq:
                    break
    return described(fold.runs[found])


async def _folded(bus: Bus) -> tuple[Fold, int]:
    """The runs of the ledger, and its last record."""
    fold, seq = Fold(vocabulary.COORDINATOR, keep_ended=True), 0
    async for record in bus.records():
        fold.apply(record)
        seq = record.seq
    return fold, seq


async def _runs(project: Path | None, state: Path | None) -> list[dict[str, Any]]:
    async with await Bus.of_project(str(vocabulary.OPERATOR), project, state) as bus:
        fold, _ = await _folded(bus)
    return [described(found) for found in fold.runs.values()]


def _done(steps: dict[str, Any]) -> int:
    return sum(step["status"] in ("succeeded", "skipped") for step in steps.values())


def _output(step: dict[str, Any]) -> str:
    error: str | None = step["error"]
    return error or msgspec.json.encode(step["output"]).decode()


def _print_run(found: dict[str, Any]) -> None:
    out.print(
        f"run [bold]{found['id']}[/bold] of {found['blueprint']}: {_styled(found['status'])}"
        f"{'; ' + clean(found['error']) if found['error'] else ''}"
    )
    out.print(f"correlation {clean(found['correlation'])}, started {found['started'][:19]}Z")
    if found["sealed"]:
        out.print(
            "its data is personal and sealed, so how far its steps are is not to be seen; see "
            f"`tidegate ledger timeline {clean(found['correlation'])}`"
        )
        return
    rows: list[tuple[Any, ...]] = []
    for name, step in found["steps"].items():
        units = step["units"]
        rows.append(
            (
                name,
                _styled(step["status"]),
                sum(u["phase"] == "done" for u in units) if units else None,
                len(units) or None,
                max((u["attempt"] for u in units), default=None),
                clean(_output(step))[:120],
            )
        )
    out.print(table("", ("step", "status", "done", "of", "attempts", "output"), rows))
    for waits in sorted({u["waits"] for s in found["steps"].values() for u in s["units"]} - {None}):
        out.print(
            f"waits at the gateway, {clean(waits)}; see `tidegate approvals list`, "
            "`tidegate control show`"
        )
    if found["output"] is not None:
        out.print("output", clean(msgspec.json.encode(found["output"]).decode()))


def _styled(status: str) -> str:
    style = _STYLES.get(status, "default")
    return f"[{style}]{status}[/{style}]"
