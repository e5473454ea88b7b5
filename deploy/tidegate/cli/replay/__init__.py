"""`tidegate replay`: one module a mode; see `_MODES`."""

from __future__ import annotations

import typer

from tidegate.cli.lazy import LazyGroup

_MODES = {"conformance": "conformance", "redelivery": "redelivery"}
"""Each mode and the module that holds it, in the order of the help."""


class _Replay(LazyGroup):
    modules = _MODES
    package = __name__


app = typer.Typer(
    cls=_Replay,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def replay() -> None:
    """Go through the ledger again.

    Each replay is a record of the ledger itself, with the digest of its report.
    """
