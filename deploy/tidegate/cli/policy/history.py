"""`tidegate policy history`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate import policies
from tidegate.bus import Bus
from tidegate.cli.console import (
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    out,
    print_json,
    table,
)
from tidegate.cli.console import run as run_async
from tidegate_policy.genesis import genesis
from tidegate_schemas.vocabulary import OPERATOR


def history(
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was proposed and put in force, when, by whom and why."""
    lines = run_async(_history(project, state))
    if as_json:
        print_json(lines)
        return
    active = next((e["bundle"] for e in reversed(lines) if e["what"] == "in force"), None)
    rows = [
        (
            line["record"],
            line["time"],
            f"[green]{line['what']}[/]" if line["bundle"] == active else line["what"],
            line["bundle"][:19],
            line["by"],
            clean(line["reason"]) or None,
        )
        for line in lines
    ]
    out.print(table("", ("record", "time", "what", "bundle", "by", "why"), rows))
    if active is None:
        out.print(f"the ledger begins with {genesis().bundle.digest}; nothing else is in force")


async def _history(project: Path | None, state: Path | None) -> list[dict[str, Any]]:
    async with await Bus.of_project(str(OPERATOR), project, state) as bus:
        changes = await policies.history(bus.ledger)
    return [
        {
            "record": change.seq,
            "time": change.time,
            "by": change.by,
            "what": "in force" if change.in_force else "proposed",
            "bundle": change.bundle,
            "reason": change.reason,
        }
        for change in changes
    ]
