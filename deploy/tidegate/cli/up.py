"""`tidegate up`."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Annotated, Any

import msgspec
import structlog
import typer

from tidegate.child import OnLine
from tidegate.faces import FACES
from tidegate.project import Project, open_project
from tidegate.stack import Stack

from .console import ProjectOption, StateOption, clean, err, run

_COLOURS = ("cyan", "magenta", "blue", "yellow", "green", "bright_cyan", "bright_magenta")
_CHECK_SECONDS = 0.5
_LONGEST = 4000
_LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}


def up(
    project: ProjectOption = None,
    state: StateOption = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only what goes wrong.")
    ] = False,
) -> None:
    """Run the project here.

    Broker, gateway, notary, coordinator, agents, HTTP edge and console, each a process; `tidegate
    token add` lets somebody in over HTTP. Ctrl-C drains: agents finish what they
    are working on, within the time their manifests allow. Ctrl-C once more makes them give it back.
    """
    run(_up(open_project(project, state), quiet))


async def _up(project: Project, quiet: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    printer = LinePrinter(quiet)
    log_to(printer)
    began = loop.time()
    err.print(f"starting [bold]{clean(project.settings.project)}[/bold]")
    starting = asyncio.create_task(_started(Stack(project, on_line=printer, faces=FACES)))
    interrupted = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    interrupted.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    stack = await starting
    try:
        seconds = loop.time() - began
        for name, path in (
            ("edge", project.state.edge_url),
            ("console", project.state.console_url),
        ):
            err.print(f"{name:<7} {path.read_text('utf-8').strip()}", highlight=False)
        err.print(
            f"[green]ready[/green] in {seconds:.1f} s at {stack.server.url}, "
            f"{len(project.manifests)} agents; Ctrl-C stops"
        )
        while not stop.is_set():
            stack.check()
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue
        err.print("draining; Ctrl-C again does not wait for what the agents are working on")
    finally:
        stop.clear()
        again = asyncio.create_task(stop.wait())
        stopping = asyncio.create_task(stack.stop())
        await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
        if again.done():
            stack.hurry()
        again.cancel()
        await stopping
    err.print("stopped; the ledger stays in", clean(str(project.state.folder)))


async def _started(stack: Stack) -> Stack:
    try:
        await stack.start()
    except BaseException:
        await stack.stop()
        raise
    return stack


def log_to(on_line: OnLine) -> None:
    """Let what this process logs look like what the others do: as lines of `stack`."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _Lines(on_line),
    )


class _Lines:
    """A logger that passes on its lines."""

    def __init__(self, on_line: OnLine) -> None:
        self._on_line = on_line

    def info(self, line: str) -> None:
        self._on_line("stack", line)

    warning = error = critical = info


class LinePrinter:
    """Prints the log lines of processes, each with its name in its colour.

    Args:
        quiet: print only warnings and errors.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._colours: dict[str, str] = {}

    def __call__(self, name: str, line: str) -> None:
        """Print a line: a structured one as words, any other as it is."""
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            text = clean(line if len(line) <= _LONGEST else line[:_LONGEST] + " …")
        else:
            level = str(entry.pop("level", "info"))
            if self._quiet and level not in _LEVELS:
                return
            event = entry.pop("event", "")
            for noise in ("timestamp", "process"):
                entry.pop(noise, None)
            facts = " ".join(f"{key}={_value(value)}" for key, value in entry.items())
            style = _LEVELS.get(level)
            text = f"{clean(str(event))} [bright_black]{clean(facts)}[/bright_black]"
            text = f"[{style}]{text}[/{style}]" if style else text
        err.print(f"[{colour}]{clean(name):<18}[/{colour}] {text}", highlight=False)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"{text[:15]}…" if text.startswith("sha256:") else text
