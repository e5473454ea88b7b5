"""`tidegate publish -` and `tidegate publish TYPE --lines`: many events at once, one a line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
import typer

from tidegate.bus import Bus
from tidegate.source.cursor import Cursor, alone
from tidegate.source.pipe import Pipe, Taken
from tidegate.source.pump import WINDOW, Outcome, Pump
from tidegate.source.shape import Shape
from tidegate_bus.tasks import end
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, first_error
from tidegate_schemas.record import Receipt

from .console import clean, err, run
from .progress import progress

_SAVE_SECONDS = 0.5
_SHOW_SECONDS = 0.1


def publish_lines(
    argument: str,
    shape: Shape | None,
    resume: Path | None,
    principal: str,
    timeout: float,
    project: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Publish an input line by line; see the help of `tidegate publish`."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened(argument))
        if resume:
            stack.enter_context(alone(resume))
        hidden = as_json or not err.is_terminal
        on_progress = stack.enter_context(
            progress("publishing", None if hidden else _count(file), hidden=hidden)
        )
        pipe = Pipe(file, shape, Cursor(resume, Taken) if resume else None)
        told = _Told(on_progress, pipe.skipped, as_json)
        try:
            run(_publish(pipe, told, principal, timeout, project, state))
        except BaseException as error:
            if resume and not isinstance(first_error(error), InvalidInput):
                err.print("the same command with the same input goes on where this one stopped")
            raise
        finally:
            pipe.save()
    told.summary(pipe.skipped)
    if told.counts["bad"] or told.counts["refused"]:
        raise typer.Exit(2 if told.counts["bad"] else 3)


async def _publish(
    pipe: Pipe,
    told: _Told,
    principal: str,
    timeout: float,
    project: Path | None,
    state: Path | None,
) -> None:
    async with await Bus.of_project(principal, project, state, window=WINDOW) as bus:

        async def publish(envelope: Envelope) -> Receipt:
            return await bus.publish(envelope, timeout=timeout)

        def settled(outcome: Outcome[Taken]) -> None:
            pipe.settled(outcome.item.position)
            told(outcome)

        saving = asyncio.create_task(_keep_saving(pipe))
        try:
            async with Pump(publish, settled) as pump:
                async for item in pipe.items():
                    await pump.put(item)
        finally:
            await end(saving)


async def _keep_saving(pipe: Pipe) -> None:
    while True:
        await asyncio.sleep(_SAVE_SECONDS)
        pipe.save()


class _Told:
    """Says what became of each line, and counts."""

    def __init__(self, on_progress: Callable[[int], None], skipped: int, as_json: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.lines = skipped
        self._on_progress = on_progress
        self._as_json = as_json
        self._shown = 0.0

    def __call__(self, outcome: Outcome[Taken]) -> None:
        self.lines = outcome.item.position.lines
        self.counts[outcome.verdict] += 1
        if self._as_json:
            line = {"line": self.lines, **outcome.told()}
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        elif outcome.why:
            err.print(f"[red]line {self.lines}:[/red] {clean(outcome.why)}")
        if (now := time.monotonic()) - self._shown > _SHOW_SECONDS:
            self._shown = now
            self._on_progress(self.lines)

    def summary(self, skipped: int) -> None:
        """How many lines became what."""
        parts = [f"{word} {count:,}" for word, count in sorted(self.counts.items())]
        if skipped:
            parts.append(f"published before {skipped:,}")
        err.print(f"events {self.counts.total():,}: {', '.join(parts)}" if parts else "no events")


@contextlib.contextmanager
def _opened(argument: str) -> Generator[int]:
    """The descriptor of an input: of standard input for -, of a file for @FILE."""
    if argument == "-":
        yield sys.stdin.fileno()
        return
    if not argument.startswith("@"):
        raise InvalidInput("with --lines DATA is @FILE, or - for standard input (the default)")
    try:
        file = os.open(argument[1:], os.O_RDONLY)
    except OSError as error:
        raise InvalidInput(f"{argument[1:]}: {error.strerror}") from None
    try:
        yield file
    finally:
        os.close(file)


def _count(file: int) -> int | None:
    """How many lines there are; None where only time will tell."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return None
    found, at = 0, os.lseek(file, 0, os.SEEK_CUR)
    while data := os.pread(file, 2**20, at):
        found, at = found + data.count(b"\n"), at + len(data)
    return found
