"""`tidegate policy check`."""

from __future__ import annotations

import typer

from tidegate.cli.console import JsonOption, ProjectOption, clean, err, out, print_json
from tidegate_policy.bundle import Fault, examine, read_folder
from tidegate_policy.bundle.advice import advise
from tidegate_policy.bundle.cases import read_cases

from . import FolderArgument, bundle_folder, surrounding
from .known import known_of


def check(
    folder: FolderArgument = None, project: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Check a policy bundle: what no gateway would take, and what is most likely a slip.

    Exit status 1 with faults. Each has its file, its line and a way out.
    """
    where = bundle_folder(folder, project)
    files, unread = read_folder(where)
    bundle, found = examine(files)
    cases, wrong = read_cases(files)
    refused = sorted({*unread, *(fault for fault in found if fault.file or files)})
    advice = [
        Fault(str(error.path), problem.line, f"{problem.field}: {problem.message}".lstrip(": "))
        for error in wrong
        for problem in error.problems
    ]
    here = surrounding(where, project)
    if bundle is not None and here is not None:
        advice += advise(bundle, known_of(here))
    if as_json:
        print_json(
            {
                "folder": str(where),
                "digest": bundle.digest if bundle and not unread else None,
                "rules": len(bundle.rules) if bundle else None,
                "cases": len(cases),
                "faults": [
                    {
                        "file": str(where / fault.file),
                        "line": fault.line,
                        "what": fault.what,
                        "hint": fault.hint,
                        "refused": fault in refused,
                    }
                    for fault in (*refused, *advice)
                ],
            }
        )
    else:
        for fault in (*refused, *advice):
            out.print(clean(fault.told(where)), soft_wrap=True, highlight=False)
        if bundle is not None and not refused and not advice:
            rules = f"{len(bundle.rules)} rules" if len(bundle.rules) != 1 else "1 rule"
            out.print(f"{rules}, {len(cases)} tests: nothing to find fault with; {bundle.digest}")
        if bundle is not None and here is None:
            err.print("no tidegate.yaml above it: unknown names were not looked for")
    if refused or advice:
        raise typer.Exit(1)
