"""`tidegate policy fmt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.console import ProjectOption, clean, err, out
from tidegate_policy.bundle.layout import laid_out
from tidegate_schemas.errors import InvalidPolicy

from . import FolderArgument, bundle_folder


def fmt(
    folder: FolderArgument = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if something would be.")
    ] = False,
    project: ProjectOption = None,
) -> None:
    """Lay out Cedar files the usual way.

    Comments stay, and what the policies mean.
    """
    where = bundle_folder(folder, project)
    problems: list[str] = []
    changed: list[Path] = []
    for path in sorted(where.glob("*.cedar")):
        before = path.read_bytes()
        try:
            made, faults = laid_out(path.name, before.decode())
        except UnicodeDecodeError as error:
            problems.append(f"{path}: not UTF-8 at byte {error.start}")
            continue
        problems += (fault.told(where) for fault in faults)
        if made.encode() != before and not faults:
            changed.append(path)
            if not check:
                _replace(path, made)
    for path in changed:
        out.print(clean(str(path)), soft_wrap=True, highlight=False)
    if problems:
        raise InvalidPolicy(problems)
    if check and changed:
        err.print(f"{len(changed)} would be laid out anew; `tidegate policy fmt` does it")
        raise typer.Exit(1)


def _replace(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it."""
    target = path.resolve()  # a link stays one
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(text.encode())
    part.chmod(target.stat().st_mode)
    part.replace(target)
