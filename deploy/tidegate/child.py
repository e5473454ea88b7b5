"""A child process that is kept running, whose log lines are passed on and kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tidegate_bus import lifeline
from tidegate_schemas.errors import Unavailable

from .processes import CANNOT_START

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_HEALTHY_SECONDS = 30.0
_LINE_BYTES = 1024 * 1024

OnLine = Callable[[str, str], None]
"""Called with the name of the process and a line it wrote."""


class Child:
    """Starts a command and starts it again when it ends by itself.

    The pause doubles from 0.2 s to 10 s while it keeps ending early. A command that cannot start
    because its input is wrong (status 2) is not started again.

    Args:
        name: what its lines are prefixed with.
        arguments: the command.
        folder: its current folder.
        log: file that its output is appended to.
        on_line: called with every line.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], folder: Path, log: Path, on_line: OnLine
    ) -> None:
        self.name = name
        self.restarts = 0
        self._arguments = arguments
        self._folder = folder
        self._log = log
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._last_line = ""

    @property
    def pid(self) -> int | None:
        """Of the present process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, and keep it running until `stop`."""
        self._task = asyncio.create_task(self._keep_running())

    def check(self) -> None:
        """Raise if it is not kept running any more.

        Raises:
            Unavailable: it could not start; holds its last line.
        """
        if self._task and self._task.done() and not self._stopping:
            raise Unavailable(f"{self.name} cannot start: {self._last_line}")

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        self._stopping = True
        process = self._process
        if process and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        if self._task:
            try:
                async with asyncio.timeout(grace):
                    await asyncio.shield(self._task)
            except TimeoutError:
                if self._process and self._process.returncode is None:
                    self._process.kill()
                await self._task

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping:
            began = loop.time()
            status = await self._run_once()
            if self._stopping or status == CANNOT_START:
                return
            pause = _FIRST_PAUSE_SECONDS if loop.time() - began > _HEALTHY_SECONDS else pause
            self.restarts += 1
            self._say(f"ended with status {status}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _run_once(self) -> int:
        process = await asyncio.create_subprocess_exec(
            *lifeline.command(*self._arguments),
            cwd=self._folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for the stack, which stops its parts in order
        )
        self._process = process
        assert process.stdout
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            while line := await _line(process.stdout):
                log.write(line)
                log.flush()
                self._say(line.decode(errors="replace").rstrip("\n"))
        return await process.wait()

    def _say(self, line: str) -> None:
        self._last_line = line
        self._on_line(self.name, line)


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than any line of ours: the part that fits is skipped
        return b"(a line of over 1 MiB was left out)\n"
