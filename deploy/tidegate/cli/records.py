"""`tidegate ledger tail`, `show`, `timeline` and `grow`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tidegate.bus import Bus
from tidegate.growth import grow_ledger
from tidegate.project import open_project
from tidegate.timeline import Line, timeline_of
from tidegate.timeline_page import page
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.vocabulary import OPERATOR

from .console import (
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    out,
    print_json,
    run,
    verdict,
)

_WIDTH = 9  # of the longest verdict


def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many records.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records come.")] = False,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last records, one a line."""

    async def work() -> None:
        async with _reader(project, state) as reader:
            last = await reader.last()
            start = max(1, (last.seq if last else 0) - lines + 1)
            async for stored in reader.read(start, follow=follow):
                _print_line(stored, as_json)

    run(work())


def show(
    seq: Annotated[int, typer.Argument(min=1, help="Ledger sequence.")],
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one record whole, which is JSON anyway."""

    async def work() -> StoredRecord | None:
        async with _reader(project, state) as reader:
            async for stored in reader.read(seq):
                return stored
        return None

    stored = run(work())
    if stored is None:
        raise InvalidInput(f"the ledger has no record {seq} yet")
    print_json(json.loads(stored.payload))


def timeline(
    correlation: Annotated[
        str, typer.Argument(help="Correlation id, or the id of the envelope that began it.")
    ],
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it there as a page with a picture of the run."),
    ] = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the story of one correlation id.

    From what began it to how it ended, one line a record.
    """

    async def work() -> list[Line]:
        async with _reader(project, state) as reader:
            records = [stored.record() async for stored in reader.read()]
        return timeline_of(records, correlation)

    found = run(work())
    if not found:
        raise InvalidInput(f"no record with correlation id {correlation!r}")
    if html:
        html.write_text(page(found, correlation), "utf-8")
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    if html:
        out.print(f"{len(found):,} records in {clean(str(html))}", highlight=False)
        return
    first = parse_rfc3339(found[0].time)
    out.print(f"{found[0].time[:19].replace('T', ' ')} UTC  {clean(correlation)}\n")
    for line in found:
        after = (parse_rfc3339(line.time) - first) / 1e6
        head = f"[bright_black]{line.seq:>7} {after:>9,.1f} ms[/bright_black]"
        out.print(f"{head}  {verdict(line.verdict, _WIDTH)} {clean(line.text)}", highlight=False)


class _Reading:
    """A ledger reader of the operator, for the length of a command."""

    def __init__(self, project: Path | None, state: Path | None) -> None:
        self._project, self._state = project, state

    async def __aenter__(self) -> LedgerReader:
        self._bus = await Bus.of_project(str(OPERATOR), self._project, self._state)
        return self._bus.ledger

    async def __aexit__(self, *_: object) -> None:
        await self._bus.close()


def grow(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Give the ledger the room that `server.ledger_bytes` says, while the stack is stopped.

    Nobody may change the ledger's stream while the bus runs, whatever key they hold.
    """
    before, now = run(grow_ledger(open_project(project, state)))
    if as_json:
        print_json({"before": before, "now": now})
    else:
        out.print(f"the ledger may take {now:,} bytes now; before, {before:,}", highlight=False)


def _reader(project: Path | None, state: Path | None) -> _Reading:
    return _Reading(project, state)


def _print_line(stored: StoredRecord, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(stored.payload.decode() + "\n")
        sys.stdout.flush()
        return
    record = stored.record()
    why = ", ".join(record.why.policies) or record.why.reason
    out.print(
        f"[bright_black]{record.seq:>7} {record.time[11:23]}[/bright_black]  "
        f"{verdict(record.verdict, _WIDTH)} {record.kind:<8} {clean(record.by)} → "
        f"{clean(record.to)}  [bright_black]{clean(why)}[/bright_black]",
        highlight=False,
    )
