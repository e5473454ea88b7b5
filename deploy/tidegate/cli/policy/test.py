"""`tidegate policy test`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidegate.cli.console import JsonOption, ProjectOption, clean, err, out, print_json, verdict
from tidegate_policy.bundle import Snapshot, load_bundle
from tidegate_policy.bundle.cases import Outcome, Placed, judge, read_cases, unmet
from tidegate_schemas.errors import InvalidInput

from . import FolderArgument, bundle_folder, surrounding
from .known import roster_of


def test(
    folder: FolderArgument = None,
    named: Annotated[
        str, typer.Option("-k", metavar="NAME", help="Only tests whose name or file has this.")
    ] = "",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the tests of a policy bundle: tests/*.yaml.

    Exit status 1 when one fails. Says which rules no test reaches. Limits are not counted.
    """
    where = bundle_folder(folder, project)
    bundle = load_bundle(where)
    cases, wrong = read_cases(bundle.files)
    if wrong:
        raise InvalidInput(
            "\n".join(f"{where}/{line}" for w in wrong for line in str(w).split("\n"))
        )
    chosen = [one for one in cases if named in one.case.name or named in one.file]
    usual = bundle.snapshot(roster_of(surrounding(where, project)))
    results = [_run(usual, one) for one in chosen]
    reached = {name for _, outcome, _ in results for name in outcome.reached}
    unreached = sorted(bundle.rules.keys() - reached) if not named else []
    failed = [result for result in results if result[2]]
    if as_json:
        print_json(
            {
                "digest": bundle.digest,
                "passed": len(results) - len(failed),
                "failed": len(failed),
                "unreached": unreached,
                "cases": [_as_dict(*result) for result in results],
            }
        )
    else:
        for result in failed:
            _show(where, *result)
        if unreached:
            err.print(f"note: no test reaches {clean(', '.join(unreached))}", highlight=False)
        if failed:
            out.print(f"[red]{len(failed)} failed[/red], {len(results) - len(failed)} passed")
        elif results:
            out.print(f"[green]{len(results)} passed[/green]")
        else:
            out.print("no tests; write some into tests/*.yaml beside the policies")
    if failed:
        raise typer.Exit(1)


_Result = tuple[Placed, Outcome, list[str]]


def _run(usual: Snapshot, placed: Placed) -> _Result:
    snapshot = usual.bundle.snapshot(placed.roster) if placed.roster else usual
    outcome = judge(snapshot, placed.case)
    return placed, outcome, unmet(placed.case, outcome)


def _show(where: Any, placed: Placed, outcome: Outcome, why: list[str]) -> None:
    place = clean(f"{where / placed.file}:{placed.line}: ")
    out.print(
        f"[red]failed[/red] {place}{clean(placed.case.name)}", soft_wrap=True, highlight=False
    )
    for line in why:
        out.print(f"  {clean(line)}", soft_wrap=True, highlight=False)
    by = clean(", ".join(outcome.policies)) or "no rule"
    detail = clean(f": {outcome.detail}" if outcome.detail else "")
    out.print(
        f"  {verdict(outcome.verdict)} by {by}, {outcome.reason}{detail}",
        soft_wrap=True,
        highlight=False,
    )
    if outcome.obligations:
        out.print(f"  obliges to {clean(', '.join(outcome.obligations))}", soft_wrap=True)


def _as_dict(placed: Placed, outcome: Outcome, why: list[str]) -> dict[str, Any]:
    return {
        "file": placed.file,
        "line": placed.line,
        "name": placed.case.name,
        "passed": not why,
        "unmet": why,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "policies": outcome.policies,
        "obligations": outcome.obligations,
        "detail": outcome.detail,
    }
