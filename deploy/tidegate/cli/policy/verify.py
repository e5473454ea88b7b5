"""`tidegate policy verify`: whether the verdicts follow from the ledger."""

from __future__ import annotations

import typer

from tidegate.audit import Audit
from tidegate.cli.console import JsonOption, ProjectOption, StateOption, clean, out, print_json
from tidegate.project import open_project
from tidegate_policy.replay import Conformance, Difference

from .over_ledger import SinceOption, progress

_MOST = 100


def verify(
    since: SinceOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide again about every message, from nothing but the ledger, and compare byte for byte.

    With --since, only differences from there on are reported; what a verdict depends on is
    recomputed from the beginning in any case. Exit status 1 if there are differences.
    """
    settings = open_project(project, state).settings.gateway
    found: list[Difference] = []
    count = 0
    with Audit(project, state) as audit:
        span = audit.span(since, None)
        window = settings.dedupe_window, settings.dedupe_entries
        check = Conformance(window)
        with progress("policy verify", span.last, hidden=as_json) as on_progress:
            for entries in audit.reader.read(1, span.last):
                for seq, payload in entries:
                    differences = check.add(seq, payload)
                    if differences and seq >= span.first:
                        count += len(differences)
                        found += differences[: max(_MOST - len(found), 0)]
                on_progress(check.records)
    if as_json:
        print_json(
            {
                "records": check.records,
                "unknown": check.unknown,
                "bundles": check.bundles,
                "differences": count,
                "examples": [{"seq": d.seq, "what": d.what} for d in found],
            }
        )
    else:
        for difference in found:
            out.print(f"record {difference.seq}: {clean(difference.what)}", highlight=False)
        bundles = f"{len(check.bundles)} bundle{'s' if len(check.bundles) > 1 else ''}"
        out.print(
            f"{check.records:,} records under {bundles}: {count:,} differences", highlight=False
        )
        if check.unknown:
            out.print(
                f"{check.unknown:,} of them reject a message that the ledger does not hold; "
                "why is not verified",
                highlight=False,
            )
    if count:
        raise typer.Exit(1)
