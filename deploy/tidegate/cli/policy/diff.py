"""`tidegate policy diff`: what another bundle would have changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tidegate.audit import Audit
from tidegate.cli.console import (
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    out,
    print_json,
    table,
)
from tidegate.cli.progress import progress
from tidegate_policy.replay import Diff, Outcome
from tidegate_policy.replay.report import Group

from .over_ledger import SinceOption, UntilOption

_ROWS = 10
_STYLES = {
    Outcome.NEWLY_ALLOWED: "green",
    Outcome.NEWLY_DENIED: "red",
    Outcome.NEWLY_HELD: "yellow",
    Outcome.INDETERMINATE: "bright_black",
}


def diff(
    bundle: Annotated[
        str, typer.Option("--bundle", help="Folder of the new bundle, or digest of a known one.")
    ],
    since: SinceOption = None,
    until: UntilOption = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write the report there, as JSON.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many work at once; one for each core.")
    ] = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay decisions: what another bundle would have said of the messages of the ledger.

    What it would newly allow, deny and hold, by policy, agent and subject. Indeterminate is what
    hangs on something that was not recorded, such as what was used of a limit that did not exist.
    """
    with Audit(project, state) as audit:
        span = audit.span(since, until)
        shelf = audit.shelf()
        new = audit.bundle(bundle, shelf)
        total = max(span.last - span.first + 1, 0)
        with progress("policy diff", total, hidden=as_json) as on_progress:
            found = audit.what_if(new, shelf, span, processes, on_progress)
    if report:
        report.write_bytes(msgspec.json.format(msgspec.json.encode(found.document())) + b"\n")
    if as_json:
        print_json(found.document())
    else:
        _show(found)


def _show(found: Diff) -> None:
    out.print(f"from    {found.before}", highlight=False)
    out.print(f"to      {found.after}", highlight=False)
    out.print(f"report  {found.digest}", highlight=False)
    span = f"{found.first:,} to {found.last:,}" if found.records else "none"
    out.print(f"records {span}: {found.records:,}", highlight=False)
    counts = (f"{_styled(o)} {n:,}" for o, n in found.outcomes.items() if o is not Outcome.SAME)
    same = f"same {found.outcomes[Outcome.SAME]:,}"
    out.print(f"        {', '.join([*counts, same])}", highlight=False)
    if not found.groups:
        return
    for name, sums in (
        ("policy", found.policies),
        ("agent", found.agents),
        ("subject", found.subjects),
    ):
        rows = [
            (clean(what), *(f"{n:,}" if (n := counted.get(o)) else None for o in _STYLES))
            for what, counted in list(sums.items())[:_ROWS]
        ]
        out.print()
        out.print(table("", (name, *(o.replace("_", " ") for o in _STYLES)), rows))
        if len(sums) > _ROWS:
            out.print(f"and {len(sums) - _ROWS:,} more", highlight=False)
    out.print()
    columns = ("", "agent", "subject", "by", "records", "e.g. record")
    out.print(table("", columns, map(_row, found.groups[:_ROWS])))
    if (more := len(found.groups) - _ROWS + found.left_out) > 0:
        out.print(f"and {more:,} more; --report FILE has them", highlight=False)


def _row(group: Group) -> tuple[str, ...]:
    by = ", ".join(group.policies)
    said = f"{by}: {group.why}" if by and group.why else by or group.why
    return (
        _styled(group.outcome),
        clean(group.agent),
        clean(group.subject),
        clean(said),
        f"{group.records:,}",
        ", ".join(map(str, group.examples)),
    )


def _styled(outcome: Outcome) -> str:
    return f"[{_STYLES[outcome]}]{outcome.replace('_', ' ')}[/]"
