"""`tidegate policy learn`: rules for what was allowed while learning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tidegate.audit import Audit
from tidegate.cli.console import ProjectOption, StateOption, clean, err
from tidegate.cli.progress import progress
from tidegate_policy.replay import Lesson
from tidegate_policy.replay.line import read_line
from tidegate_schemas.errors import InvalidInput

from .over_ledger import SinceOption, UntilOption


def learn(
    since: SinceOption = None,
    until: UntilOption = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="File to write; standard output by default.")
    ] = None,
    project: ProjectOption = None,
    state: StateOption = None,
) -> None:
    """Write a policy that permits what was allowed by rules that learn, and nothing else.

    Read it, take out what should not be, and put it into the bundle in place of those rules.
    """
    if to and to.exists():
        raise InvalidInput(f"{to} is there already; name another file, or remove it")
    with Audit(project, state) as audit:
        span = audit.span(since, until)
        lesson, done = Lesson(), 0
        with progress("policy learn", max(span.last - span.first + 1, 0), hidden=False) as shown:
            for entries in audit.reader.read(span.first, span.last):
                for seq, payload in entries:
                    lesson.add(seq, read_line(seq, payload))
                shown(done := done + len(entries))
    if not lesson.rights:
        raise InvalidInput(
            f"nothing was learned in records {span.first} to {span.last}; "
            'a permit with @learn("") allows what nothing else permits'
        )
    text = lesson.text(
        f"Learned from {lesson.records:,} of the records {span.first} to {span.last}."
    )
    if to:
        to.write_text(text, "utf-8")
        rights = "1 right" if len(lesson.rights) == 1 else f"{len(lesson.rights):,} rights"
        err.print(f"{rights} in {clean(str(to))}", highlight=False)
    else:
        sys.stdout.write(text)
