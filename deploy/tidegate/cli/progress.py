"""How far a long piece of work is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .console import err


@contextlib.contextmanager
def progress(name: str, total: int | None, *, hidden: bool) -> Generator[Callable[[int], None]]:
    """A bar on the terminal; gives what to call with the number of records that are done.

    Without `total` it shows only that, and that something is being done.
    """
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
