"""`tidegate policy rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate import policies
from tidegate.cli.commands import buses
from tidegate.cli.console import AsOption, JsonOption, ProjectOption, StateOption
from tidegate.cli.console import run as run_async
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.governance import Report
from tidegate_schemas.record import Receipt
from tidegate_schemas.vocabulary import OPERATOR

from .activate import ReasonOption, ReportOption, read_report, say


def rollback(
    to: Annotated[
        str | None, typer.Argument(help="Digest; by default what was in force before.")
    ] = None,
    report: ReportOption = None,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put earlier policies in force again. The ledger has them, whatever became of the files."""
    given = read_report(report)
    receipt, digest = run_async(_rollback(to, given, reason, principal, project, state))
    say(receipt, digest, as_json)


async def _rollback(
    to: str | None,
    report: Report | None,
    reason: str,
    principal: str,
    project: Path | None,
    state: Path | None,
) -> tuple[Receipt, str]:
    async with buses(principal, project, state) as (operator, sender):
        known = await policies.shelf(operator.ledger)
        digest = known.find(to) if to is not None else known.previous
        if digest is None:
            raise InvalidInput("nothing was in force before; see tidegate policy history")
        if digest == known.active:
            raise InvalidInput(f"{digest} is in force already")
        return await policies.activate(sender, digest, reason=reason, report=report), digest
