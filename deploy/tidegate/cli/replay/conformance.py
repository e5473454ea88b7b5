"""`tidegate replay conformance`: whether the verdicts follow from the ledger."""

from __future__ import annotations

from typing import Any

import typer

from tidegate.audit import Audit
from tidegate.cli.console import JsonOption, ProjectOption, StateOption, clean, out
from tidegate.cli.policy.over_ledger import SinceOption
from tidegate.cli.progress import progress
from tidegate.project import open_project
from tidegate.replay.report import digest
from tidegate_policy.personal.privacy import NOTHING
from tidegate_policy.replay import Conformance, Difference
from tidegate_schemas.audit import Mode, Replay

from .telling import ReportOption, close

_MOST = 100


def conformance(
    since: SinceOption = None,
    report: ReportOption = None,
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
    with Audit(project, state) as audit, audit.vault() as keys:
        span = audit.span(since, None)
        window = settings.dedupe_window, settings.dedupe_entries
        check = Conformance(window, audit.reader.one, opener=keys or NOTHING)
        with progress("replay conformance", span.last, hidden=as_json) as on_progress:
            for entries in audit.reader.read(1, span.last):
                for seq, payload in entries:
                    differences = check.add(seq, payload)
                    if differences and seq >= span.first:
                        count += len(differences)
                        found += differences[: max(_MOST - len(found), 0)]
                on_progress(check.records)
    document: dict[str, Any] = {
        "mode": Mode.CONFORMANCE,
        "first": span.first,
        "last": span.last,
        "records": check.records,
        "unknown": check.unknown,
        "unreplayable": {"erased": check.erased},
        "bundles": check.bundles,
        "differences": count,
        "examples": [{"seq": d.seq, "what": d.what} for d in found],
    }
    if not as_json:
        _show(check, found, count)
    said = Replay(
        span.first,
        span.last,
        Mode.CONFORMANCE,
        digest(document),
        {"since": since} if since else {},
        {
            "records": check.records,
            "unknown": check.unknown,
            "erased": check.erased,
            "differences": count,
        },
    )
    close(said, document, report, project, state, as_json)
    if count:
        raise typer.Exit(1)


def _show(check: Conformance, found: list[Difference], count: int) -> None:
    for difference in found:
        out.print(f"record {difference.seq}: {clean(difference.what)}", highlight=False)
    bundles = f"{len(check.bundles)} bundle{'s' if len(check.bundles) > 1 else ''}"
    out.print(f"{check.records:,} records under {bundles}: {count:,} differences", highlight=False)
    if check.erased:
        out.print(
            f"{check.erased:,} of them unreplayable: erased; there is no key to their data",
            highlight=False,
        )
    if check.unknown:
        out.print(
            f"{check.unknown:,} of them reject a message that the ledger does not hold; "
            "why is not verified",
            highlight=False,
        )
