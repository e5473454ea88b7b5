"""What commands that look back over the ledger have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tidegate.cli.console import err

SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="How long ago (2h, 1d), or an RFC 3339 time; all by default."),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", help="The same; to the ledger's end by default.")
]


@contextlib.contextmanager
def progress(name: str, total: int, *, hidden: bool) -> Generator[Callable[[int], None]]:
    """A bar on the terminal; gives what to call with the number of records that are done."""
    with Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=hidden or not err.is_terminal,
        auto_refresh=False,  # that would be a thread, and beside threads workers are not forked
    ) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done, refresh=True)
