"""`tidegate ledger`: see `_COMMANDS`. Who checks evidence offline pays for no bus."""

from __future__ import annotations

import typer

from .lazy import LazyGroup

_COMMANDS = {
    "tail": "records",
    "show": "records",
    "timeline": "records",
    "grow": "records",
    "verify": "verify",
    "prove": "proofs",
    "check-proof": "proofs",
    "consistency": "proofs",
    "export": "export",
}
"""Each command and the module that holds it, in the order of the help."""


class _Ledger(LazyGroup):
    modules = _COMMANDS
    package = "tidegate.cli"


app = typer.Typer(
    cls=_Ledger,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def ledger() -> None:
    """Read the ledger, check its evidence, and give it more room."""
