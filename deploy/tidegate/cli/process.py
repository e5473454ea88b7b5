"""The processes of a stack as commands, for those who supervise them by other means than `up`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate import processes
from tidegate.project import open_project

from .console import ProjectOption, StateOption


def broker(project: ProjectOption = None, state: StateOption = None) -> None:
    """Run the broker, and keep it as it should be, without the other processes (`up` has them all).

    It waits for the gateway, which somebody else starts, and puts the project's policies in force.
    Then it is ready, and the others may be started.
    """
    work = processes.broker(open_project(project, state))
    raise typer.Exit(processes.run_process(work, "broker"))


def gateway(project: ProjectOption = None, state: StateOption = None) -> None:
    """Run the gateway alone (`up` does this for you)."""
    work = processes.gateway(open_project(project, state))
    raise typer.Exit(processes.run_process(work, "gateway"))


def notary(project: ProjectOption = None, state: StateOption = None) -> None:
    """Run the notary alone (`up` does this for you).

    It reads the ledger back and cosigns what the gateway signed of it.
    """
    work = processes.notary(open_project(project, state))
    raise typer.Exit(processes.run_process(work, "notary"))


def coordinator(project: ProjectOption = None, state: StateOption = None) -> None:
    """Run the coordinator alone (`up` does this for you)."""
    work = processes.coordinator(open_project(project, state))
    raise typer.Exit(processes.run_process(work, "coordinator"))


def edge(project: ProjectOption = None, state: StateOption = None) -> None:
    """Run the HTTP edge alone (`up` does this for you).

    It takes CloudEvents, tasks and webhooks, for whoever has a token; see `tidegate token`.
    """
    work = processes.edge(open_project(project, state))
    raise typer.Exit(processes.run_process(work, "edge"))


def console(project: ProjectOption = None, state: StateOption = None) -> None:
    """Run the web console alone (`up` does this for you).

    Operators log in there with a token; see `tidegate token`.
    """
    work = processes.console(open_project(project, state))
    raise typer.Exit(processes.run_process(work, "console"))


def worker(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:AGENT",
            help="As `run` in the agent's manifest; or TEAM.NAME, where several run the same code.",
        ),
    ],
    project: ProjectOption = None,
    state: StateOption = None,
) -> None:
    """Run a worker of an agent. Start as many as you like.

    SIGTERM drains; a second one gives back at once what is being worked on.
    """
    work = processes.worker(open_project(project, state), reference)
    raise typer.Exit(processes.run_process(work, reference))
