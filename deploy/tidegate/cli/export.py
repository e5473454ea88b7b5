"""`tidegate ledger export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tidegate.audit import Audit
from tidegate.bus import Bus
from tidegate.evidence_keys import signing_keys
from tidegate.export.admission import admit
from tidegate.export.evidence import Evidence
from tidegate.export.folder import folder_in_making, release
from tidegate.export.packing import Order, pack
from tidegate.project import open_project
from tidegate_schemas.audit import Export, Format
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.evidence import KeyRole
from tidegate_schemas.record import Receipt
from tidegate_schemas.vocabulary import OPERATOR

from .commands import held
from .console import JsonOption, ProjectOption, StateOption, clean, err, out, print_json, run
from .policy.over_ledger import SinceOption, UntilOption
from .progress import progress

FirstOption = Annotated[
    int | None, typer.Option("--first", min=1, help="First record; 1 by default.")
]
LastOption = Annotated[
    int | None, typer.Option("--last", min=1, help="Last record; by default the last one signed.")
]
FormatOption = Annotated[
    list[Format], typer.Option("--format", help="Form of the records; may be given again.")
]


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for it.")],
    formats: FormatOption = [Format.JSONL],  # noqa: B006  # typer makes a list of its own
    first: FirstOption = None,
    last: LastOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take records out of the ledger, with all that proves them to somebody else.

    What the notary has not signed yet stays behind. Each record is compared with the tree that was
    signed. The export is itself a record, `audit.export`: the folder is there once that is
    admitted, and if policy asks for approval the command waits for it. Nothing is left behind
    otherwise. Exit status 3 if it is refused, 5 if the ledger is not as it was signed.
    """
    query = _query(first=first, last=last, since=since, until=until)
    where, now = open_project(project, state), time.time_ns()
    signers = signing_keys(where).signers(KeyRole.EXPORT)
    with Audit(project, state) as audit:
        evidence = Evidence(where.state.evidence)
        ends = _ends(audit, evidence.checkpoint.size, query)
        order = Order(*ends, tuple(dict.fromkeys(formats)), query)
        behind = max(audit.reader.last() - evidence.checkpoint.size, 0)
        count = order.last - order.first + 1
        with folder_in_making(folder) as part:
            with progress("ledger export", count, hidden=as_json) as on_progress:
                said = pack(part, order, audit.reader, evidence, signers, now, on_progress)
            record = run(_admit(said, project, state))
            release(part, folder)
    if as_json:
        body = {**msgspec.to_builtins(said), "folder": str(folder), "record": record}
        print_json({**body, "not_signed_yet": behind})
        return
    what = f"records {said.first:,} to {said.last:,}" if count else "no records"
    out.print(
        f"{clean(str(folder))}: {what}, checkpoint of {said.size:,}; ledger record {record}",
        highlight=False,
    )
    out.print(f"manifest {said.manifest}", highlight=False)
    if behind:
        out.print(
            f"the ledger had {behind:,} records more, which the notary had not signed yet",
            highlight=False,
        )


def _query(**asked: str | int | None) -> dict[str, str]:
    """What was asked for.

    Raises:
        InvalidInput: sequences and moments at once.
    """
    query = {name: str(value) for name, value in asked.items() if value is not None}
    if len({name in ("first", "last") for name in query}) > 1:
        raise InvalidInput("either --first and --last, or --since and --until")
    return query


def _ends(audit: Audit, size: int, query: dict[str, str]) -> tuple[int, int]:
    """First and last record of what is meant, no further than what is signed.

    Raises:
        InvalidInput: what is meant is not signed yet, or begins after its end.
    """
    if "since" in query or "until" in query:
        span = audit.span(query.get("since"), query.get("until"))
        first = min(span.first, size + 1)
        return first, max(min(span.last, size), first - 1)
    first, last = int(query.get("first", 1)), int(query.get("last", size))
    if max(first - 1, last) > size:
        raise InvalidInput(
            f"the notary has signed {size:,} records so far; record {max(first, last):,} is not "
            "among them"
        )
    if last < first - 1:
        raise InvalidInput(f"records {first:,} to {last:,}: they begin after their end")
    return first, last


async def _admit(said: Export, project: Path | None, state: Path | None) -> int:
    def on_hold(receipt: Receipt) -> None:
        err.print(f"{clean(held(receipt))}; this waits for it, Ctrl-C gives up", highlight=False)

    async with await Bus.of_project(str(OPERATOR), project, state) as bus:
        return await admit(bus, said, on_hold)
