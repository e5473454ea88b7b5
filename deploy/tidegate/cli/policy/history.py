"""`tidegate policy history`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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
from tidegate_bus.ledger import LedgerReader
from tidegate_policy.bundle.contents import digest
from tidegate_policy.genesis import genesis
from tidegate_policy.replay.shelf import policy_filter
from tidegate_schemas.governance import Activation, Proposal
from tidegate_schemas.vocabulary import OPERATOR, POLICY_PROPOSE


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
        return [line async for line in _lines(bus.ledger)]


async def _lines(reader: LedgerReader) -> AsyncIterator[dict[str, Any]]:
    async for stored in reader.read(filter=policy_filter()):
        record = stored.record()
        message = record.message()
        assert message  # what is admitted could be read
        line = {"record": record.seq, "time": record.time, "by": record.by}
        if message.to == POLICY_PROPOSE:
            bundle = digest(message.payload(Proposal).files)
            yield {**line, "what": "proposed", "bundle": bundle, "reason": ""}
        else:
            said: Activation = message.payload(Activation)
            yield {**line, "what": "in force", "bundle": said.bundle, "reason": said.reason}
