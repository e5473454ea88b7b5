"""`tidegate source`: files, folders and schedules as events."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate import processes
from tidegate.project import State, find_project
from tidegate.source.cron import Cron, Schedule, Ticked
from tidegate.source.cursor import Cursor, alone, event_id
from tidegate.source.feed import Source
from tidegate.source.pump import Outcome
from tidegate.source.shape import Shape
from tidegate.source.tail import Format, Place, Tail
from tidegate.source.watch import Watch
from tidegate_schemas.clock import parse_duration
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.subjects import Principal

from .console import ProjectOption, StateOption, group
from .publish import json_argument

app = group(
    "Publish what happens elsewhere, for ever: lines of a file, files of a folder, a schedule.\n\n"
    "A source goes on where it was, also after a kill: nothing is lost, and what it may have "
    "published already the bus recognises (for ten minutes, `gateway.dedupe_window`). While the "
    "bus is away it waits. What policy denies is logged and counted, and stops nothing. SIGTERM "
    "and Ctrl-C end it when what it has read is settled."
)

TypeOption = Annotated[str, typer.Option("--type", help="Type of the events, e.g. order.created.")]
PrincipalOption = Annotated[
    str,
    typer.Option(
        "--as", help="Principal to publish as, team.name, e.g. a publisher of tidegate.yaml."
    ),
]
SourceOption = Annotated[
    str | None, typer.Option("--source", help="URI reference that the events bear as their source.")
]
ExistingOption = Annotated[
    bool,
    typer.Option(
        "--existing",
        help="At the very first start, publish also what is there already; by default only what "
        "comes from then on.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        help="Under which name it is kept how far this source got (STATE/sources/NAME); by "
        "default one that follows from the arguments."
    ),
]
OutcomesOption = Annotated[
    bool, typer.Option("--json", help="Print what became of each event, one JSON object a line.")
]


@app.command()
def tail(
    file: Annotated[Path, typer.Argument(help="The file; it need not exist yet.")],
    type: TypeOption,
    principal: PrincipalOption,
    format: Annotated[
        Format,
        typer.Option(
            help='json: each line is the data of an event; text: its data is {"line": …}.'
        ),
    ] = "text",
    existing: ExistingOption = False,
    source: SourceOption = None,
    name: NameOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: OutcomesOption = False,
) -> None:
    """Publish each line of a file that grows.

    It follows the name, as `tail -F` does: a file that is renamed (FILE.1, FILE-20260131) is read
    to its end, then its successors, also if all of that happened while nobody looked; one that is
    cut off is read from its beginning. A line is published when it has ended.
    """
    path = file.absolute()
    shape = Shape(type, source or path.as_uri())

    def made(kept: Path) -> Source[Any]:
        return Tail(path, shape, format, Cursor(kept, Place), existing=existing)

    _run("tail", [path, type], made, principal, name, project, state, as_json)


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder, with all in it.")],
    type: TypeOption,
    principal: PrincipalOption,
    pattern: Annotated[
        str, typer.Option("--match", help="Only files whose path in DIR fits, e.g. '*.csv'.")
    ] = "*",
    content: Annotated[
        int,
        typer.Option(
            min=0, max=180_000, help="Send also what is in files of at most so many bytes."
        ),
    ] = 0,
    settle: Annotated[
        str, typer.Option(help="A file is complete when it has not changed for so long.")
    ] = "1s",
    existing: ExistingOption = False,
    source: SourceOption = None,
    name: NameOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: OutcomesOption = False,
) -> None:
    """Publish each file of a folder that is new or has changed, once it is complete.

    The data has path, size, SHA-256 and time of change; with --content also `content`, or
    `content_base64` for what is not UTF-8. Best rename files into the folder. Hidden files and
    links are left alone. That a file is gone is no event.
    """
    path = folder.absolute()
    shape = Shape(type, source or path.as_uri())
    try:
        seconds = parse_duration(settle)
    except ValueError as error:
        raise InvalidInput(f"--settle: {error}") from None

    def made(kept: Path) -> Source[Any]:
        return Watch(
            path, shape, kept, pattern=pattern, content=content, settle=seconds, existing=existing
        )

    _run("watch", [path, type, pattern], made, principal, name, project, state, as_json)


@app.command()
def cron(
    schedule: Annotated[
        str,
        typer.Argument(help="As in crontab(5), e.g. '*/5 * * * *'; six fields begin with seconds."),
    ],
    type: TypeOption,
    principal: PrincipalOption,
    data: Annotated[
        str | None,
        typer.Option(help="JSON of each event, or @FILE; by default the schedule and the tick."),
    ] = None,
    timezone: Annotated[str, typer.Option(help="Of the schedule, e.g. Europe/Berlin.")] = "UTC",
    catch_up: Annotated[
        int,
        typer.Option(
            min=0,
            max=10_000,
            help="So many missed ticks are published late at most, the last ones.",
        ),
    ] = 10,
    source: SourceOption = None,
    name: NameOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: OutcomesOption = False,
) -> None:
    """Publish an event at each tick of a schedule; its time is that of the tick.

    Ticks that pass while it does not run, or the machine sleeps, are published late, and that is
    logged. The id of an event follows from schedule and tick: where two processes keep the same
    schedule as the same principal, each tick is one event.
    """
    when = Schedule(schedule, timezone)
    shape = Shape(type, source or "tidegate:cron")
    given = None if data is None else msgspec.Raw(json_argument(data, "--data"))

    def made(kept: Path) -> Source[Any]:
        return Cron(when, shape, given, Cursor(kept, Ticked), catch_up=catch_up)

    key = [when.expression, when.zone, type]
    _run("cron", key, made, principal, name, project, state, as_json)


def _run(
    kind: str,
    key: list[Any],
    make: Callable[[Path], Source[Any]],
    principal: str,
    name: str | None,
    project: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    where = State((state or find_project(project or Path.cwd()) / ".tidegate").absolute())
    if name is not None and (not name or name.startswith(".") or "/" in name):
        raise InvalidInput(f"--name {name!r} is no name for a file")
    called = f"{kind}-{name or event_id(principal, *key)[:12]}"
    kept = where.sources / called
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(kept))
        work = processes.source(
            where,
            Principal.parse(principal),
            f"source.{called}",
            make(kept),
            _print if as_json else lambda _: None,
        )
        status = processes.run_process(work, f"source.{called}")
    raise typer.Exit(status)


def _print(outcome: Outcome[Any]) -> None:
    sys.stdout.write(msgspec.json.encode(outcome.told()).decode() + "\n")
    sys.stdout.flush()
