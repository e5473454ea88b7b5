"""`tidegate service`: the processes of a project as services of the machine."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tidegate.processes import running
from tidegate.project import Project, check_blueprints, open_project
from tidegate.service import Manager, Part, parts, units
from tidegate.service.systemd import Systemd, carry_out, changes
from tidegate.service.units import mark, stem, target_name, unit_name
from tidegate.vitals import ask
from tidegate_schemas.errors import InvalidInput

from .console import JsonOption, ProjectOption, StateOption, clean, err, group, out, print_json
from .console import table as table_of

app = group("Run the processes of a project as services, with systemd.")

UserOption = Annotated[
    bool, typer.Option("--user", help="Services of yours instead of services of the machine.")
]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Such as gateway, or team.name of an agent."),
]
_NO_SYSTEMD = "no systemd runs this machine"


@app.command()
def install(
    user: UserOption = False,
    owner: Annotated[
        str | None,
        typer.Option(help="User to run as; by default who owns the project's folder."),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the units instead.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written instead.")
    ] = False,
    project: ProjectOption = None,
    state: StateOption = None,
) -> None:
    """Write a unit for each process, and say what each of them may touch.

    Run it again after a change to the project: it writes what has changed and removes units of
    agents that are gone. It starts and stops nothing.
    """
    here = open_project(project, state)
    check_blueprints(here)
    manager = Manager(None if user else _owner(here, owner))
    texts = units(here, manager)
    if show:
        sys.stdout.write("\n".join(f"### {name}\n{text}" for name, text in texts.items()))
        return
    systemd = Systemd(user=user)
    what = changes(systemd.folder, texts, stem(here), mark(here))
    if not dry_run:
        carry_out(systemd.folder, texts, what)
    _explain(here)
    tense = "would be " if dry_run else ""
    for action, word in (("write", "written"), ("remove", "removed"), ("", "as they were")):
        names = ", ".join(name for name, found in what.items() if found == action)
        if names:
            out.print(clean(f"{tense if action else ''}{word} in {systemd.folder}: {names}"))
    if dry_run:
        return
    if systemd.runs:
        systemd.call("daemon-reload")
    else:
        err.print(f"[yellow]{_NO_SYSTEMD}[/yellow]; on one that it runs, say")
        out.print(shlex.join(systemd.command("daemon-reload")))
    out.print(shlex.join(systemd.command("enable", "--now", target_name(here))))


@app.command()
def uninstall(
    user: UserOption = False, project: ProjectOption = None, state: StateOption = None
) -> None:
    """Stop the services and remove their units. The state stays, and so does what you edited."""
    here = open_project(project, state)
    systemd = Systemd(user=user)
    what = changes(systemd.folder, {}, stem(here), mark(here))
    if what and systemd.runs:
        systemd.call("disable", "--now", target_name(here))
        systemd.call("stop", *what)  # the target alone would not wait for them
    carry_out(systemd.folder, {}, what)
    if what and systemd.runs:
        systemd.call("daemon-reload")
    out.print(clean(f"removed from {systemd.folder}: {', '.join(what) or 'nothing was there'}"))


@app.command()
def status(
    names: NamesArgument = None,
    user: UserOption = False,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """What systemd says of each service, and what the process itself does. Status 1: not all well.

    Where no systemd runs, in a container for example, only what the processes say of themselves.
    """
    here = open_project(project, state)
    chosen, systemd = _chosen(here, names), Systemd(user=user)
    states: dict[str, dict[str, str]] = {}
    if systemd.runs:
        states = systemd.states([unit_name(here, part) for part in chosen])
    elif not as_json:
        err.print(f"[yellow]{_NO_SYSTEMD}[/yellow]; this is what the processes say")
    well, rows = True, list[tuple[str, str | None, str, str]]()
    for part in chosen:
        found = [info for info in running(here.state) if info.name == part.process]
        answers = [(info, ask(info.telemetry)) for info in found]
        healthy = all(vital.healthy for _, vital in answers)
        well &= bool(answers) and healthy
        health = ("ok" if healthy else "failed") if answers else "not ready"
        detail = "\n".join(f"pid {info.pid}, {vital.words}" for info, vital in answers)
        rows.append((part.name, _word(states.get(unit_name(here, part))), health, detail))
    if as_json:
        keys = ("name", "systemd", "health", "detail")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        columns = ("process", "systemd", "health", "it says")
        out.print(table_of("", columns, [[cell and clean(cell) for cell in row] for row in rows]))
    if not well:
        raise typer.Exit(1)


@app.command()
def logs(
    names: NamesArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many at most.")] = 100,
    user: UserOption = False,
    project: ProjectOption = None,
    state: StateOption = None,
) -> None:
    """What the services have logged, from the journal of systemd."""
    here = open_project(project, state)
    systemd = Systemd(user=user)
    if not systemd.runs:
        raise InvalidInput(
            f"{_NO_SYSTEMD}, so there is no journal; `tidegate up` keeps logs in {here.state.logs}"
        )
    chosen = [unit_name(here, part) for part in _chosen(here, names)]
    command = systemd.journal(chosen, follow=follow, lines=lines)
    os.execvp(command[0], command)  # noqa: S606 - a pager of its own, which has the terminal


def _owner(here: Project, named: str | None) -> str:
    """The user that services run as.

    Raises:
        InvalidInput: it would be root, whom nothing of this holds back.
    """
    owner = named or here.root.owner()
    if owner == "root":
        raise InvalidInput(
            f"{here.root} belongs to root, as whom no agent should run; give the folder to another "
            "user, or name one with --owner who can read it and write the state"
        )
    return owner


def _chosen(here: Project, names: list[str] | None) -> list[Part]:
    every = parts(here)
    known = {part.name: part for part in every} | {part.process: part for part in every}
    if unknown := [name for name in names or () if name not in known]:
        raise InvalidInput(f"no process {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names] if names else every


def _word(found: dict[str, str] | None) -> str | None:
    if found is None:
        return None
    if found["LoadState"] == "not-found":
        return "not installed"
    again = int(found["NRestarts"] or 0)
    return f"{found['ActiveState']} ({found['SubState']}){f', {again} restarts' if again else ''}"


def _explain(here: Project) -> None:
    """What each process does and may touch."""

    def short(paths: tuple[Path, ...]) -> str:
        folder = here.state.folder
        return " ".join(str(p.relative_to(folder)) if p != folder else "state" for p in paths)

    rows = [
        (
            part.name,
            part.does,
            short(part.writes),
            "all but what it may read" if part.private else short(part.hidden),
            "this machine" if part.local else "all",
        )
        for part in parts(here)
    ]
    columns = ("process", "what it does", "may write", "cannot see", "network")
    out.print(table_of("", columns, [[clean(cell) for cell in row] for row in rows]))
