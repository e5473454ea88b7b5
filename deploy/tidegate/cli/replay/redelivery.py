"""`tidegate replay redelivery`: what agents say today to the messages of then."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate.audit import Audit, Span
from tidegate.cli.console import (
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    err,
    out,
    run,
    table,
)
from tidegate.cli.policy.over_ledger import SinceOption, UntilOption
from tidegate.cli.progress import progress
from tidegate.cli.up import LinePrinter
from tidegate.project import Project, State, open_project
from tidegate.replay.answers import Finding, Outcome
from tidegate.replay.pace import Pace
from tidegate.replay.redelivery import redeliver
from tidegate.replay.report import Redelivery, redelivery_of
from tidegate.replay.script import Script
from tidegate_policy.replay.past import read_record
from tidegate_schemas.clock import parse_duration
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.manifest import Manifest

from .telling import ReportOption, close

_ROWS = 20
_LONGEST = 1000  # of what the ledger is told
_STYLES = {
    Outcome.SAME: "green",
    Outcome.DIFFERENT: "red",
    Outcome.FAILED: "red",
    Outcome.MENDED: "yellow",
    Outcome.MISSING: "red",
    Outcome.EXTRA: "yellow",
    Outcome.SEALED: "bright_black",
}


def redelivery(
    since: SinceOption = None,
    until: UntilOption = None,
    first: Annotated[int | None, typer.Option(min=1, help="Ledger sequence to begin with.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Ledger sequence to end with.")] = None,
    correlation: Annotated[
        str | None,
        typer.Option(help="Only this correlation id, or that of the envelope that began it."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="TEAM.NAME", help="Only this agent; several times for more."),
    ] = None,
    pace: Annotated[
        str, typer.Option(help="original, so many times as fast (10x), or max for all at once.")
    ] = "max",
    timeout: Annotated[
        str, typer.Option(help="Without a sign of life for so long, the rest is given up.")
    ] = "2m",
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep the sandbox in this new folder: its ledger, keys and logs."),
    ] = None,
    report: ReportOption = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the agents log.")
    ] = False,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deliver messages of the ledger again, to agents in a sandbox, and compare what they say.

    The sandbox is a broker of its own with no way back. Agents are those of the project, so
    `--project CHANGED --state .tidegate` asks what a changed checkout would have said. They find
    TIDEGATE_SANDBOX=1 in their environment: what they do outside of the bus is theirs. The report
    also says what was not captured. Exit status 1 if something is not as it was.
    """
    here = open_project(project, state)
    speed, seconds = Pace.parse(pace), _seconds(timeout)
    agents = _agents(here, agent or [])
    with Audit(project, state) as audit, audit.vault() as keys:
        span = _within(audit.span(since, until), first, last)
        script = Script(agents, span.last, correlation, keys)
        _read(audit, span, script, hidden=as_json)
    got = {name for each in script.deliveries for name in each.agents}
    if not got:
        raise InvalidInput(_nothing(span, script))
    playing = [manifest for manifest in agents if str(manifest.principal) in got]
    folder = _folder(keep)
    try:
        printer = LinePrinter(quiet=not verbose)
        total = sum(len(each.agents) for each in script.deliveries)
        with progress("replay redelivery", total, hidden=as_json or verbose) as on_progress:
            played = run(
                redeliver(
                    script,
                    playing,
                    here,
                    State(folder),
                    pace=speed,
                    timeout=seconds,
                    on_progress=on_progress,
                    on_line=printer if verbose else _silent,
                )
            )
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    query = {
        "since": since,
        "until": until,
        "first": first,
        "last": last,
        "correlation": correlation,
        "agent": " ".join(agent or []),
        "pace": pace,
    }
    asked = {name: str(value)[:_LONGEST] for name, value in query.items() if value}
    found = redelivery_of(script, played, first=span.first, query=asked)
    if not as_json:
        _show(found)
        if keep:
            err.print(f"kept in {folder}; logs in {folder / 'logs'}", highlight=False)
    document: dict[str, Any] = msgspec.to_builtins(found)
    close(found.summary(), document, report, project, state, as_json)
    if not found.same:
        raise typer.Exit(1)


def _seconds(timeout: str) -> float:
    try:
        return parse_duration(timeout)
    except ValueError as error:
        raise InvalidInput(f"--timeout: {error}") from None


def _agents(here: Project, names: list[str]) -> list[Manifest]:
    """Those of these names; all of the project without names."""
    known = {str(manifest.principal): manifest for manifest in here.manifests}
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"no agent {name!r} in {here.root / 'agents'}; known: "
                f"{', '.join(sorted(known)) or 'none'}"
            )
    return [manifest for name, manifest in known.items() if name in names or not names]


def _within(span: Span, first: int | None, last: int | None) -> Span:
    return Span(max(span.first, first or 1), min(span.last, last or span.last))


def _read(audit: Audit, span: Span, script: Script, *, hidden: bool) -> None:
    """Give a script its records, and those after its part as long as answers may come."""
    end = audit.reader.last()
    with progress("reading", max(end - span.first + 1, 0), hidden=hidden) as on_progress:
        for entries in audit.reader.read(span.first, end) if span.first <= span.last else ():
            for seq, payload in entries:
                script.add(read_record(seq, payload), payload)
            on_progress(entries[-1].seq - span.first + 1)
            if entries[-1].seq >= span.last and script.over:
                break


def _nothing(span: Span, script: Script) -> str:
    if script.sealed:
        word = "erased" if script.erased == len(script.sealed) else "sealed"
        return f"unreplayable: {word}; all {len(script.sealed)} messages hold personal data"
    what = "no agent of the project got anything"
    if span.last < span.first:
        return f"{what}: no records"
    return f"{what} in records {span.first} to {span.last} that fits what is asked for"


def _folder(keep: Path | None) -> Path:
    """An empty folder that only its owner may read."""
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="tidegate-replay-"))
    try:
        keep.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise InvalidInput(f"{keep} is there already; --keep makes a new folder") from None
    return keep.absolute()


def _silent(name: str, line: str) -> None:
    """The report tells enough; the logs are kept with --keep."""


def _show(found: Redelivery) -> None:
    shown = [o for o in Outcome if found.outcomes[o] or o in (Outcome.SAME, Outcome.DIFFERENT)]
    columns = ("agent", "delivered", *(outcome.value for outcome in shown))
    rows = [
        (clean(name), *(f"{counted.get(c, 0):,}" for c in columns[1:]))
        for name, counted in found.agents.items()
    ]
    out.print(table("", columns, rows))
    if found.findings:
        out.print()
        for finding in found.findings[:_ROWS]:
            out.print(_sentence(finding), highlight=False)
        if (more := len(found.findings) - _ROWS + found.left_out) > 0:
            out.print(f"and {more:,} more; --report FILE has them", highlight=False)
    if found.unsettled:
        out.print(
            f"\n[red]{found.unsettled:,} of {found.delivered:,} were not handled to their end[/red]"
        )
    out.print("\nnot captured")
    for gap in found.not_captured:
        out.print(f"  {gap.count:,} {gap.what}: {gap.why}", highlight=False)
    for sentence in found.never_captured:
        out.print(f"  {sentence}", highlight=False)
    out.print()
    same = found.outcomes[Outcome.SAME]
    out.print(
        f"records {found.first:,} to {found.last:,}: {found.delivered:,} delivered, "
        f"{sum(found.outcomes.values()):,} answers, {same:,} the same "
        f"({found.exact:,} byte for byte)",
        highlight=False,
    )


def _sentence(finding: Finding) -> str:
    style = _STYLES[finding.outcome]
    about = f"record {finding.to_record}" if finding.to_record else "no message"
    then = f" (then record {finding.record})" if finding.record else ""
    what = f": {'; '.join(finding.what)}" if finding.what else ""
    return (
        f"[{style}]{finding.outcome:<9}[/{style}] {clean(finding.agent)} to {about}, "
        f"{finding.kind} to {clean(finding.to)}{then}{clean(what)}"
    )
