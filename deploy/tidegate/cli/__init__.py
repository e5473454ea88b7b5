"""The command line.

Exit status: 0 done, 1 something is not as it should be, 2 bad input, 3 refused by the bus,
4 the bus cannot be reached, 5 the ledger is damaged or fenced, 130 interrupted.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from tidegate_schemas.errors import (
    Denied,
    InvalidInput,
    LedgerError,
    NotConnected,
    Refused,
    TidegateError,
    Unavailable,
    Unopened,
    first_error,
)
from tidegate_schemas.record import Reason

from .console import Held, clean, err, print_json
from .lazy import LazyGroup

_COMMANDS = {
    "demo": "demo",
    "init": "init",
    "up": "up",
    "publish": "publish",
    "source": "source",
    "run": "runs",
    "control": "control",
    "approvals": "approvals",
    "erase": "erase",
    "privacy": "privacy",
    "ledger": "ledger",
    "replay": "replay",
    "agent": "agents",
    "identity": "identity",
    "token": "token",
    "policy": "policy",
    "doctor": "doctor",
    "evidence": "evidence",
    "witness": "witness",
    "tls": "tls",
    "bench": "bench",
    "schema": "schema",
    "service": "service",
    "broker": "process",
    "gateway": "process",
    "notary": "process",
    "coordinator": "process",
    "edge": "process",
    "console": "process",
}
"""Each command and the module that holds it, in the order of the help."""


class _Commands(LazyGroup):
    modules = _COMMANDS
    package = __name__

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    name="tidegate",
    cls=_Commands,
    help="A governed message bus for AI agents: nothing moves unless policy says so, nothing "
    "moves unrecorded.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"tidegate {version('tidegate')}")
        raise typer.Exit


@app.callback()
def tidegate(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """See the help of the application."""


def exit_status(error: TidegateError) -> int:
    """The exit status that stands for an error."""
    match error:
        case InvalidInput():
            return 2
        case Refused() | Unopened():
            return 3
        case Unavailable():
            return 4
        case LedgerError():
            return 5
        case _:
            return 1


def main() -> int:
    """Run the command line; the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # whatever somebody wrote, it can be shown
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (TidegateError, OSError, BaseExceptionGroup) as error:
        first = first_error(error)
        if isinstance(first, OSError):
            first = _Failed(f"{first.filename}: {first.strerror}" if first.filename else str(first))
        if not isinstance(first, TidegateError):
            raise
        return _report(first)
    except KeyboardInterrupt:
        return 130
    return 0


class _Failed(TidegateError):
    """The operating system did not let us."""


def _report(error: TidegateError) -> int:
    status = exit_status(error)
    if "--json" in sys.argv:
        body: dict[str, object] = {
            "type": type(error).__name__.lstrip("_"),
            "message": str(error),
            "retryable": error.retryable,
        }
        if isinstance(error, Refused):
            body |= {"reason": error.reason, "detail": error.detail, "seq": error.seq}
        if isinstance(error, Denied):
            body["policies"] = error.policies
        if isinstance(error, Held):
            body["seq"] = error.seq
        print_json({"error": body})
        return status
    head = "held:" if isinstance(error, Held) else "error"
    if isinstance(error, Refused):
        by = ", ".join(error.policies) if isinstance(error, Denied) else ""
        if error.reason == Reason.INVALID_COMMAND:  # they permit it; it cannot be followed
            by = ""
        word = "denied" if isinstance(error, Denied) else "rejected"
        head = f"{word} by policy {by}:" if by else f"{word}:"
    err.print(f"[red]{clean(head)}[/red] {clean(str(error))}")
    if isinstance(error, NotConnected):
        err.print("is the stack running? `tidegate up` starts it, `tidegate doctor` looks into it")
    return status
