"""`tidegate run`: start, list, show. What they show is a fold of the ledger."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate.bus import Bus
from tidegate_agents.fold import Fold
from tidegate_agents.run import Run
from tidegate_schemas import vocabulary
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput

from .console import (
    AsOption,
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    group,
    out,
    print_json,
    run,
    table,
)
from .publish import json_argument

app = group("Start runs of blueprints and look at them.")

_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


@app.command()
def start(
    blueprint: Annotated[str, typer.Argument(help="Name of the blueprint.")],
    input: Annotated[
        str, typer.Argument(help="JSON; @FILE reads a file, - reads standard input.")
    ] = "null",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended.")] = False,
    correlation: Annotated[str | None, typer.Option(help="Correlation id of the run.")] = None,
    principal: AsOption = str(vocabulary.OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run of a blueprint.

    With --wait, exit status 1 when it does not succeed.
    """
    given = msgspec.json.decode(json_argument(input, "input"))
    found = run(_start(blueprint, given, wait, correlation, principal, project, state))
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
            f"{sum(s['status'] in ('succeeded', 'skipped') for s in r['steps'].values())}"
            f"/{len(r['steps'])}",
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
    found = [r for r in run(_runs(project, state)) if r["id"].startswith(name)]
    if len(found) != 1:
        raise InvalidInput(
            f"{len(found)} runs begin with {name!r}" if found else f"there is no run {name!r}"
        )
    if as_json:
        print_json(found[0])
    else:
        _print_run(found[0])


async def _start(
    blueprint: str,
    given: Any,
    wait: bool,
    correlation: str | None,
    principal: str,
    project: Path | None,
    state: Path | None,
) -> dict[str, Any]:
    envelope = Envelope.new(
        vocabulary.RUN_START,
        {"blueprint": blueprint, "input": given},
        id=uuid.uuid4().hex,
        source="tidegate:cli",
        kind="control",
        to=vocabulary.RUN_START,
        correlationid=correlation,
    )
    async with contextlib.AsyncExitStack() as stack:
        operator = await Bus.of_project(str(vocabulary.OPERATOR), project, state)
        await stack.enter_async_context(operator)
        sender = operator
        if principal != str(vocabulary.OPERATOR):  # may submit, need not be allowed to read
            sender = await Bus.of_project(principal, project, state)
            await stack.enter_async_context(sender)
        fold, seq = Fold(vocabulary.COORDINATOR, keep_ended=True), 0
        async for record in operator.records():
            fold.apply(record)
            seq = record.seq
        if blueprint not in fold.active:
            known = ", ".join(sorted(fold.active)) or "none"
            raise InvalidInput(f"no blueprint {blueprint!r} is registered; registered: {known}")
        receipt = await sender.publish(envelope)
        name = ""
        async for record in operator.records(seq + 1, follow=True):
            changed = fold.apply(record)
            if record.seq == receipt.seq:
                (name,) = changed
            if name and (not wait or fold.runs[name].announced):
                break
        return _as_dict(fold.runs[name])


async def _runs(project: Path | None, state: Path | None) -> list[dict[str, Any]]:
    fold = Fold(vocabulary.COORDINATOR, keep_ended=True)
    async with await Bus.of_project(str(vocabulary.OPERATOR), project, state) as bus:
        async for record in bus.records():
            fold.apply(record)
    return [_as_dict(found) for found in fold.runs.values()]


def _as_dict(found: Run) -> dict[str, Any]:
    return {
        "id": found.id,
        "blueprint": f"{found.blueprint.blueprint}@{found.blueprint.version}",
        "digest": found.digest,
        "status": found.status,
        "started": rfc3339(found.started),
        "correlation": found.correlation,
        "error": found.error,
        "output": found.output,
        "steps": {
            name: {
                "status": step.status,
                "error": step.error,
                "output": step.output,
                "units": [
                    {
                        "index": unit.index,
                        "attempt": unit.attempt,
                        "phase": unit.phase,
                        "provider": unit.provider,
                        "error": unit.error,
                    }
                    for unit in step.units
                ],
            }
            for name, step in found.steps.items()
        },
    }


def _print_run(found: dict[str, Any]) -> None:
    out.print(
        f"run [bold]{found['id']}[/bold] of {found['blueprint']}: {_styled(found['status'])}"
        f"{'; ' + clean(found['error']) if found['error'] else ''}"
    )
    out.print(f"correlation {clean(found['correlation'])}, started {found['started'][:19]}Z")
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
                clean(step["error"] or msgspec.json.encode(step["output"]).decode())[:120],
            )
        )
    out.print(table("", ("step", "status", "done", "of", "attempts", "output"), rows))
    if found["output"] is not None:
        out.print("output", clean(msgspec.json.encode(found["output"]).decode()))


def _styled(status: str) -> str:
    style = _STYLES.get(status, "default")
    return f"[{style}]{status}[/{style}]"
