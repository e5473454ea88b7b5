"""How a replay ends: the report is kept, the ledger is told, and what became of that is said."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate.bus import Bus
from tidegate.cli import exit_status
from tidegate.cli.commands import held
from tidegate.cli.console import clean, err, out, print_json, run
from tidegate_schemas.audit import Replay
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Refused, TidegateError, Unavailable
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import AUDIT_REPLAY, OPERATOR

_ANSWER_SECONDS = 10.0

ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Also write the report there, as JSON.")
]


def close(
    said: Replay,
    document: dict[str, Any],
    report: Path | None,
    project: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Keep the report, tell the ledger, and say so.

    A ledger that takes nothing more may be the very reason to look into it: what was found is
    shown all the same.

    Args:
        said: what the ledger is told.
        document: the report.
        report: where to keep it, if anywhere.
        project: whose ledger.
        state: where its stack keeps its state.
        as_json: for programs: the report, and the record that tells of it.

    Raises:
        Exit: the ledger was not told, which has been said.
    """
    whole = {"digest": said.report, **document}
    if report:
        report.write_bytes(msgspec.json.format(msgspec.json.encode(whole)) + b"\n")
    receipt: Receipt | None = None
    failed: TidegateError | None = None
    try:
        receipt = run(_tell(said, project, state))
    except (Refused, Unavailable) as error:
        failed = error
    waits = receipt is not None and receipt.verdict is Verdict.HOLD
    if as_json:
        whole["record"] = receipt.seq if receipt else None
        if failed:
            whole["error"] = {
                "type": type(failed).__name__,
                "message": str(failed),
                "retryable": failed.retryable,
            }
        print_json(msgspec.to_builtins(whole))
    elif receipt:
        out.print(f"report {said.report}", highlight=False)
        out.print(
            f"ledger record {receipt.seq} tells of it{'; ' + held(receipt) if waits else ''}",
            highlight=False,
        )
    if failed:
        err.print(f"[red]error[/red] the ledger was not told of it: {clean(str(failed))}")
        raise typer.Exit(exit_status(failed))


async def _tell(said: Replay, project: Path | None, state: Path | None) -> Receipt:
    envelope = Envelope.new(
        AUDIT_REPLAY,
        said,
        id=uuid.uuid4().hex,
        source="tidegate:cli",
        kind="control",
        to=AUDIT_REPLAY,
    )
    async with await Bus.of_project(str(OPERATOR), project, state) as bus:
        return await bus.publish(envelope, timeout=_ANSWER_SECONDS)
