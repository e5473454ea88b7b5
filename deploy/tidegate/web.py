"""An application on an HTTP server inside of a process that has other things to do too."""

from __future__ import annotations

import contextlib
import fcntl
import os
import ssl
from collections.abc import Generator
from pathlib import Path
from typing import Any, TextIO

import uvicorn

from tidegate_schemas.errors import InvalidInput

from .faces import listening

_KEEP_ALIVE_SECONDS = 75
_DRAIN_SECONDS = 4
"""For what is on its way when it is to stop; below the time after which a stack kills."""


class WebServer:
    """Listens from its making on; who asks before it `run`s waits.

    Args:
        app: the ASGI application.
        host: where to listen.
        port: the same; 0 takes a free one.
        written: file that holds the URL while it runs, and is locked as long.
        tls: certificates; plain HTTP without.
        protocol: how HTTP is read, if not as uvicorn does.

    Raises:
        InvalidInput: it cannot listen there, or another one has the file.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        written: Path,
        *,
        tls: ssl.SSLContext | None = None,
        protocol: type[Any] | None = None,
    ) -> None:
        self._socket = listening(host, port)
        name = f"[{host}]" if ":" in host else host
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{name}:{self._socket.getsockname()[1]}"
        self._written = written
        try:
            self._file = _written(written, f"{self.url}\n")
        except BaseException:
            self._socket.close()
            raise
        settings = uvicorn.Config(
            app,
            http=protocol or "auto",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        if tls:
            settings.load()
            settings.ssl = tls
        self._server = _Server(settings)

    async def run(self) -> None:
        """Serve until `stop`, and then what is on its way."""
        try:
            await self._server.serve([self._socket])
        finally:
            with contextlib.suppress(OSError):
                if self._written.stat().st_ino == os.fstat(self._file.fileno()).st_ino:
                    self._written.unlink()
            self._file.close()
            self._socket.close()

    def stop(self) -> None:
        """Take no more connections."""
        self._server.should_exit = True


def _written(path: Path, text: str) -> TextIO:
    """The file with that text, locked as long as it is open, however the process ends.

    Whoever reads it finds it whole: a client looks where an edge is that starts again.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as before:
        try:
            fcntl.flock(before, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            url = before.read().decode("utf-8", "replace").strip()
            raise InvalidInput(f"one of this project runs already, at {url}; see {path}") from None
    part = path.with_name(f"{path.name}.{os.getpid()}")
    file = part.open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(text)
    file.flush()
    part.replace(path)
    return file


class _Server(uvicorn.Server):
    """Signals are for the process, which has more to end than this."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
