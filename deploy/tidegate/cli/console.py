"""What commands print: tables and colour for people, JSON with `--json`, errors on stderr."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import structlog
import typer
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tidegate_schemas.errors import TidegateError

T = TypeVar("T")

_terminal = sys.stdout.isatty()
# emoji=False: `:a:` in an id is an id.
out = Console(soft_wrap=not _terminal, width=None if _terminal else 120, emoji=False)
err = Console(stderr=True, soft_wrap=True, emoji=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project", help="Folder of the project; by default the current one or one above it."
    ),
]
StateOption = Annotated[
    Path | None,
    typer.Option("--state", help="Folder of the stack's state; by default PROJECT/.tidegate."),
]
AsOption = Annotated[
    str, typer.Option("--as", help="Principal to act as, team.name; its key must be at hand.")
]

_MANY, _READABLE = 4, 10
"""From how many columns on a table may be too narrow to read, and how wide each should be."""
VERDICT_STYLES = {
    "allow": "green",
    "deny": "red",
    "reject": "red",
    "hold": "yellow",
    "duplicate": "bright_black",
}


class Held(TidegateError):
    """A command waits for somebody and is not in force.

    Attributes:
        seq: of the record that holds it.
    """

    def __init__(self, why: str, seq: int) -> None:
        super().__init__(why)
        self.seq = seq


def group(help: str | None = None) -> typer.Typer:
    """Commands that belong together."""
    return typer.Typer(help=help, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def clean(text: str) -> str:
    """Text that somebody else wrote, fit for a terminal: neither markup nor control characters."""
    return escape("".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text))


class _Rows:
    """A table; on a terminal that is too narrow to read one, a block of lines for each row."""

    def __init__(self, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
        self._title, self._columns = title, tuple(columns)
        self._rows = [["-" if cell is None else str(cell) for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if len(self._columns) < _MANY or self._least() <= options.max_width:
            yield self._table()
            return
        if self._title:
            yield Text.from_markup(self._title)
        wide = max(map(len, self._columns))
        for number, row in enumerate(self._rows):
            if number:
                yield Text()
            for name, cell in zip(self._columns, row, strict=True):
                shown = cell.replace("\n", ", ")
                yield Text.from_markup(f"[bold]{name:<{wide}}[/]  {shown}", emoji=False)

    def _least(self) -> int:
        """The width below which words are cut up everywhere."""
        widths = [
            max((Text.from_markup(cell).cell_len for cell in (name, *cells)), default=0)
            for name, *cells in zip(self._columns, *self._rows, strict=True)
        ]
        return sum([widths[0], *(min(w, _READABLE) for w in widths[1:])]) + 3 * len(widths) + 1

    def _table(self) -> Table:
        made = Table(title=self._title or None, title_justify="left", header_style="bold")
        for number, column in enumerate(self._columns):
            made.add_column(column, overflow="fold", no_wrap=number == 0)
        for row in self._rows:
            made.add_row(*row)
        return made


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> RenderableType:
    """A table of text; None is shown as a dash. What it is about, first, is never folded."""
    return _Rows(title, columns, rows)


def verdict(name: str, width: int = 0) -> str:
    """A verdict in its colour, as markup; filled up to a width."""
    style = VERDICT_STYLES.get(name, "default")
    return f"[{style}]{name:<{width}}[/{style}]"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C cancels it and cleans up. Logs go to stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(work)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not on this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
