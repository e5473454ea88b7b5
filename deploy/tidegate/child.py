"""A child process that is kept running, whose log lines are passed on and kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from tidegate_bus.broker import lifeline
from tidegate_schemas.errors import InvalidInput, Unavailable, VerificationError

from . import notify
from .processes import CANNOT_START, DAMAGED

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_HEALTHY_SECONDS = 30.0
_LAST_WORDS_SECONDS = 0.5
_LINE_BYTES = 1024 * 1024

OnLine = Callable[[str, str], None]
"""Called with the name of the process and a line it wrote."""


class Child:
    """Starts a command and starts it again when it ends by itself.

    The pause doubles from 0.2 s to 10 s while it keeps ending early. A command that cannot start
    because its input is wrong (status 2) is not started again, nor one that will not go on with the
    ledger that it has met (status 5).

    Args:
        name: what its lines are prefixed with.
        arguments: the command.
        folder: its current folder.
        log: file that its output is appended to.
        on_line: called with every line.
        environment: added to that of this process.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        log: Path,
        on_line: OnLine,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.restarts = 0
        self._arguments = arguments
        self._folder = folder
        self._log = log
        self._on_line = on_line
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._environment.setdefault(notify.SOCKET, "")  # it is not for who started us to hear
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._last_line = ""
        self._log_lost = False

    @property
    def pid(self) -> int | None:
        """Of the present process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, and keep it running until `stop`."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._task = asyncio.create_task(self._keep_running())

    def check(self) -> None:
        """Raise if it is not kept running any more.

        Raises:
            InvalidInput: it cannot start, because of what it was given; holds its last words.
            VerificationError: the ledger is not the one that was signed; so too.
            Unavailable: it cannot be started.
        """
        if self._task and self._task.done() and not self._stopping.is_set():
            if error := self._task.exception():
                raise Unavailable(f"{self.name} cannot be started: {error!r}")
            why = _sentence(self._last_line)
            if self._process and self._process.returncode == DAMAGED:
                raise VerificationError(f"{self.name} will not go on: {why} (log: {self._log})")
            raise InvalidInput(f"{self.name} cannot start: {why} (log: {self._log})")

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        self._stopping.set()
        self.hurry()
        if self._task:
            try:
                async with asyncio.timeout(grace):
                    await asyncio.wait({self._task})
            except TimeoutError:
                self._say(f"still running after {grace:g} s; killing it")
                if self._process and self._process.returncode is None:
                    self._process.kill()
                await asyncio.wait({self._task})

    def hurry(self) -> None:
        """SIGTERM; a worker that drains already gives back what it holds."""
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = loop.time()
            status = await self._run_once()
            if self._stopping.is_set() or status in (CANNOT_START, DAMAGED):
                return
            pause = _FIRST_PAUSE_SECONDS if loop.time() - began > _HEALTHY_SECONDS else pause
            self.restarts += 1
            self._say(f"ended with status {status}; starting it again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _run_once(self) -> int:
        # Its output is a pipe of our own: asyncio's would not tell of its end while anything that
        # it started holds the other side.
        ours, its = os.pipe()
        with contextlib.ExitStack() as stack:
            pipe = stack.enter_context(
                open(ours, "rb", buffering=0)  # noqa: ASYNC230, PTH123 - a pipe
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    *lifeline.command(*self._arguments),
                    cwd=self._folder,
                    env={**os.environ, **self._environment},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=its,
                    stderr=its,
                    start_new_session=True,  # Ctrl-C is for the stack, which stops it in order
                )
            finally:
                os.close(its)
            self._process = process
            if self._stopping.is_set():  # while it was being started
                self.hurry()
            stream = asyncio.StreamReader(_LINE_BYTES)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(stream), pipe
            )
            # The transport closes it, later: by then the number may be somebody else's.
            stack.pop_all()
        passing = asyncio.create_task(self._pass_on(stream))
        status = await process.wait()
        await asyncio.wait({passing}, timeout=_LAST_WORDS_SECONDS)
        passing.cancel()
        transport.close()
        return status

    async def _pass_on(self, stream: asyncio.StreamReader) -> None:
        while line := await _line(stream):
            self._keep(line)
            self._say(line.decode(errors="replace").rstrip("\n"))

    def _keep(self, line: bytes) -> None:
        try:
            with self._log.open("ab") as log:  # anew, so that it may be moved away
                log.write(line)
        except OSError as error:  # a full disk does not stop what writes to it
            if not self._log_lost:
                self._on_line(self.name, f"cannot write {self._log}: {error.strerror}")
            self._log_lost = True

    def _say(self, line: str) -> None:
        self._last_line = line
        self._on_line(self.name, line)


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or a piece of one that is very long; empty at the end."""
    try:
        return await stream.readuntil()
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)


def _sentence(line: str) -> str:
    """What a log line says went wrong."""
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return line.removeprefix("error ")
    return str(entry.get("error") or entry.get("event") or line)
