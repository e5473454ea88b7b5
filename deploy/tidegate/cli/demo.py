"""`tidegate demo`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar

from tidegate.demo.commits import read_commits
from tidegate.demo.runner import Outcome, Progress, run_demo
from tidegate.figures import percentile

from .console import JsonOption, err, out, print_json, run, table, verdict
from .up import LinePrinter

_STYLES = {"approve": "green", "comment": "yellow", "block": "red"}
_REASONS = 2


def demo(
    repo: Annotated[Path, typer.Option(help="Git repository whose commits are reviewed.")] = Path(),
    commits: Annotated[int, typer.Option(min=1, max=1000, help="How many of the last.")] = 30,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep ledger, keys and logs; prints where they are.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the processes log.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a team of agents review the last commits of a git repository, governed and recorded.

    Starts a broker, a gateway, a coordinator and six agents, one of which is rogue. Needs no
    network and no keys. Exit status 0 only if every commit got its verdict, the rogue was
    stopped, and the ledger holds what Tidegate promises.
    """
    found = read_commits(repo, commits)
    state = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    try:
        with _Screen(len(found), quiet=as_json) as screen:
            printer = LinePrinter(quiet=not verbose)
            outcome = run(run_demo(found, state, screen, printer if verbose else _silent))
        if as_json:
            print_json(_as_dict(outcome, state if keep else None))
        else:
            _print(outcome, repo)
            if keep:
                out.print(f"\nkept in {state}; logs in {state / 'logs'}")
        if not outcome.holds:
            raise typer.Exit(1)
    finally:
        if not keep:
            shutil.rmtree(state, ignore_errors=True)


def _silent(name: str, line: str) -> None:
    """The demo's own screen tells enough."""


class _Screen:
    """Live progress on a terminal, a few lines elsewhere."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total = total
        self._said = ""
        self._plain = not err.is_terminal
        self._quiet = quiet
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=self._plain or quiet,
        )
        self._task = self._bar.add_task("starting", total=total)

    def __call__(self, progress: Progress) -> None:
        if self._plain and not self._quiet and progress.step != self._said:
            err.print(f"{progress.step} {self._total} commits" if progress.total else progress.step)
        self._said = progress.step
        self._bar.update(self._task, description=progress.step, completed=progress.done)

    def __enter__(self) -> _Screen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _print(outcome: Outcome, repo: Path) -> None:
    report = outcome.report
    rows: list[tuple[Any, ...]] = []
    for review in report.reviews.values():
        word = review.verdict or review.status
        style = _STYLES.get(word, "red")
        shown = "; ".join(review.reasons[:_REASONS])
        more = len(review.reasons) - _REASONS
        rows.append(
            (
                review.sha[:10],
                escape(review.subject[:50]),
                f"[{style}]{word}[/{style}]",
                review.score,
                escape(shown) + (f" (+{more})" if more > 0 else ""),
            )
        )
    out.print(table("", ("commit", "subject", "verdict", "score", "because"), rows))
    counts = ", ".join(f"{verdict(v)} {n}" for v, n in outcome.checker.verdicts.most_common())
    out.print(f"\nrecords     {outcome.checker.records}: {counts}")
    for denial in report.denials[:3]:
        by = ", ".join(denial.policies) or "no policy that permits it"
        out.print(f"stopped     {denial.by}: {denial.what}, by {by} (record {denial.seq})")
    ends = [review.seconds for review in report.reviews.values() if review.seconds is not None]
    out.print(
        f"latency     event to verdict p50 {_ms(percentile(ends, 50))}, p99 "
        f"{_ms(percentile(ends, 99))}; submission to record p50 "
        f"{_ms(percentile(report.governed, 50))}, p99 {_ms(percentile(report.governed, 99))}"
    )
    out.print(f"started in  {outcome.start_seconds:.1f} s")
    if outcome.violations:
        out.print("[red]invariants  broken[/red]")
        for violation in outcome.violations[:10]:
            out.print(f"  {escape(violation)}")
    else:
        out.print(
            "invariants  [green]hold[/green]: every submission has exactly one record, every "
            "admitted task ended"
        )
    if not report.rogue_denied:
        out.print("[red]the rogue was not stopped[/red]")
    out.print("\nTry next: tidegate init my-project && cd my-project && tidegate up")


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _as_dict(outcome: Outcome, kept: Path | None) -> dict[str, Any]:
    report = outcome.report
    ends = [review.seconds for review in report.reviews.values() if review.seconds is not None]
    return {
        "ok": outcome.holds,
        "commits": [
            {field: getattr(review, field) for field in review.__struct_fields__}
            for review in report.reviews.values()
        ],
        "records": dict(outcome.checker.verdicts),
        "denials": [
            {"seq": d.seq, "by": d.by, "what": d.what, "policies": d.policies}
            for d in report.denials
        ],
        "violations": outcome.violations,
        "seconds": {
            "start": outcome.start_seconds,
            "event_to_verdict": {"p50": percentile(ends, 50), "p99": percentile(ends, 99)},
            "submission_to_record": {
                "p50": percentile(report.governed, 50),
                "p99": percentile(report.governed, 99),
            },
        },
        "kept": None if kept is None else str(kept),
    }
