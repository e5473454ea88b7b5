"""`tidegate policy`: one module a command; see `_COMMANDS`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.lazy import LazyGroup
from tidegate.project import Project, find_project, load_project
from tidegate_schemas.errors import InvalidInput

_COMMANDS = {
    "fmt": "fmt",
    "check": "check",
    "test": "test",
    "show": "show",
    "activate": "activate",
    "rollback": "rollback",
    "history": "history",
    "diff": "diff",
    "learn": "learn",
    "explain": "explain",
}
"""Each command and the module that holds it, in the order of the help."""


class _Policy(LazyGroup):
    modules = _COMMANDS
    package = __name__


app = typer.Typer(
    cls=_Policy,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def policy() -> None:
    """Write policies, check and try them."""


FolderArgument = Annotated[
    Path | None,
    typer.Argument(help="Folder of the policy bundle; by default `policy` of the project."),
]


def bundle_folder(folder: Path | None, project: Path | None) -> Path:
    """The folder of a bundle that a command is about.

    Raises:
        InvalidInput: it is not there, or no project tells which one is meant.
    """
    found = folder or find_project(project or Path.cwd()) / "policy"
    if not found.is_dir():
        raise InvalidInput(f"{found} is no folder; policies are *.cedar files in one")
    return found


def surrounding(folder: Path, project: Path | None) -> Project | None:
    """The project whose bundle it is: the one named, or the one that the folder is in.

    Raises:
        InvalidInput: the project cannot be read.
    """
    try:
        root = find_project(project or folder)
    except InvalidInput:
        if project is not None:
            raise
        return None
    return load_project(root)
