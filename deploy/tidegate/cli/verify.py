"""`tidegate ledger verify`: whether records are what was signed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate_evidence.audit import Place, Report, audit
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.export import CHECKPOINT, RECORDS, Export
from tidegate_evidence.tiles import TileReader, check_growth
from tidegate_evidence.trust import Trust
from tidegate_schemas.errors import InvalidInput, VerificationError

from .checking import KeyOption, TrustOption, describe, read_note, read_trust, times
from .console import JsonOption, ProjectOption, StateOption, clean, out, print_json, run
from .progress import progress

if TYPE_CHECKING:  # an export is checked without the bus
    from tidegate.project import Project

_MOST = 100
_DOES_NOT_HOLD = 5
_ROWS = "records.parquet"

ExportArgument = Annotated[
    Path | None, typer.Argument(metavar="EXPORT", help="Folder of an export; else the ledger.")
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="A checkpoint, or a proof, that you kept: the log must have begun with it.",
    ),
]


@dataclass(frozen=True, slots=True)
class _Result:
    """What was found.

    Attributes:
        about: more of it, for people: a name and what it says.
        wrong: what is not as it should be besides the findings.
    """

    report: Report
    cosigned: dict[str, int]
    about: dict[str, str]
    wrong: list[str] = field(default_factory=list[str])


def verify(
    folder: ExportArgument = None,
    key: KeyOption = None,
    trust: TrustOption = None,
    checkpoint: CheckpointOption = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that records are those that were signed: all of them, unaltered, in order.

    An export is checked without any bus, with one public key or a trust policy. Without EXPORT it
    is the ledger of the running stack, as far as its notary has signed it. Exit status 5 if the
    evidence does not hold.
    """
    if folder:
        result = _verify_export(folder, read_trust(key, trust), checkpoint, as_json)
    else:
        result = _verify_stack(project, state, (key, trust), checkpoint, as_json)
    if as_json:
        _print_json(result)
    else:
        _print(result)
    if result.wrong or not result.report.holds:
        raise typer.Exit(_DOES_NOT_HOLD)


def _verify_export(folder: Path, trust: Trust, kept: Path | None, hidden: bool) -> _Result:
    export = Export.open(folder, trust)
    _check_kept(kept, trust, export.checkpoint, export.tiles)
    with progress("files", len(export.files), hidden=hidden) as on_progress:
        wrong = [str(finding) for finding in export.check_files(on_progress)]
    span, reports = (export.first, export.last), list[Report]()
    for name, records in _forms(export):
        reports.append(_audit(records, export.checkpoint, export.tiles, span, hidden))
        if len(reports) > 1:
            wrong += [f"{name}: {finding}" for finding in reports[-1].findings]
    if not reports:
        raise InvalidInput(f"{folder}: has no records that can be checked")
    report = reports[0]
    created = str(export.about.get("created", ""))
    about = {"export": f"{len(export.files):,} files, made {created}"}
    return _Result(report, export.cosigned, about, wrong)


def _forms(export: Export) -> Iterator[tuple[str, Iterator[Place]]]:
    """Each file of records."""
    if RECORDS in export.files:
        yield RECORDS, export.records()
    if _ROWS in export.files:
        from tidegate.export.parquet import read_records

        yield _ROWS, enumerate(read_records(export.folder / _ROWS), export.first)


def _verify_stack(
    project: Path | None,
    state: Path | None,
    trusted: tuple[str | None, Path | None],
    kept: Path | None,
    hidden: bool,
) -> _Result:
    from tidegate.audit import Audit
    from tidegate.project import open_project
    from tidegate_schemas import subjects

    opened = open_project(project, state)
    notary = opened.state.notary
    trust = read_trust(*trusted, default=opened.state.trust)
    note = read_note(notary / CHECKPOINT)
    checkpoint = trust.check(note)
    tiles = TileReader(notary, checkpoint.size)
    _check_kept(kept, trust, checkpoint, tiles)
    with Audit(project, state) as reading:
        last = reading.reader.last()
        # Under a filter the reader does not mind gaps, which are to be found here.
        batches = reading.reader.read(
            1, min(last, checkpoint.size), filter=subjects.ledger_subjects(0)
        )
        places = (entry for entries in batches for entry in entries)
        span = (1, checkpoint.size)
        report = _audit(places if last else iter(()), checkpoint, tiles, span, hidden)
    wrong, came_in = run(_configuration(opened))
    about = {
        "submissions": f"{report.answered:,} of {came_in:,} are answered by these records",
        "not signed": f"{max(last - checkpoint.size, 0):,} records after the checkpoint",
    }
    return _Result(report, trust.cosigned(note), about, wrong)


async def _configuration(project: Project) -> tuple[list[str], int]:
    """What differs in the configuration of the streams; the last submission."""
    from tidegate.project import address, client_tls
    from tidegate_bus.broker.accounts import REGISTRAR
    from tidegate_bus.broker.topology import drift
    from tidegate_bus.connection import connect
    from tidegate_schemas import subjects

    key, tls = project.state.keyring.path(REGISTRAR), client_tls(project.state)
    async with await connect(address(project.state), REGISTRAR, key, tls=tls) as connection:
        lines = await drift(connection, project.limits())
        ingress = await connection.stream_state(subjects.ingress_stream(0))
    return [f"stream {line}" for line in lines], ingress.last_seq


def _check_kept(kept: Path | None, trust: Trust, now: Checkpoint, tiles: TileReader) -> None:
    """Whether the log began with a checkpoint that somebody kept.

    Raises:
        VerificationError: it did not.
    """
    if kept is None:
        return
    note = read_note(kept)
    try:
        check_growth(trust.check(note), now, tiles)
    except VerificationError as error:
        raise VerificationError(f"{kept}: {error}") from error


def _audit(
    records: Iterator[Place],
    checkpoint: Checkpoint,
    tiles: TileReader,
    span: tuple[int, int],
    hidden: bool,
) -> Report:
    first, last = span
    with progress("records", last - first + 1, hidden=hidden) as on_progress:
        return audit(records, checkpoint, tiles, first, last, on_progress)


def _print(result: _Result) -> None:
    report, checkpoint = result.report, result.report.checkpoint
    cosigned = ", ".join(f"{who} at {time}" for who, time in times(result.cosigned).items())
    part = f"{report.first:,} to {report.last:,}" if report.first <= report.last else "of none"
    lines = {
        "checkpoint": f"{checkpoint.origin}, {checkpoint.size:,} records, {checkpoint.root.hex()}",
        "cosigned": cosigned or "by nobody who is known",
        "records": f"{part}: {report.records:,} found",
        **result.about,
    }
    for name, what in lines.items():
        out.print(f"{name:<12} {_line(what)}", highlight=False, soft_wrap=True)
    wrong = [*map(str, report.findings), *result.wrong]
    for line in wrong[:_MOST]:
        out.print(f"[red]{_line(line)}[/red]", highlight=False, soft_wrap=True)
    count = len(wrong) + report.more
    if count > _MOST:
        out.print(f"and {count - _MOST:,} more", highlight=False)
    out.print("[red]the evidence does not hold[/red]" if count else "[green]holds[/green]")


def _line(text: str) -> str:
    """On one line: what an export says of itself must not look like what was found."""
    return clean(text.replace("\n", " "))


def _print_json(result: _Result) -> None:
    report = result.report
    print_json(
        {
            "holds": report.holds and not result.wrong,
            "checkpoint": describe(report.checkpoint),
            "cosigned": times(result.cosigned),
            "first": report.first,
            "last": report.last,
            "records": report.records,
            "answered": report.answered,
            "findings": [
                {"kind": f.kind, "first": f.first, "last": f.last, "detail": f.detail}
                for f in report.findings
            ],
            "more": report.more,
            "wrong": result.wrong,
        }
    )
