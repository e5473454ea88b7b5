"""What commands that look back over the ledger have in common."""

from __future__ import annotations

from typing import Annotated

import typer

SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="How long ago (2h, 1d), or an RFC 3339 time; all by default."),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", help="The same; to the ledger's end by default.")
]
