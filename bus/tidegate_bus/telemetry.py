"""Logs, `/metrics` and `/healthz`, the same in every process."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

STALLED_SECONDS = 10.0
_POLL_SECONDS = 0.1
"""How soon the server notices that it shall close."""


def configure_logging(process: str, *, level: str = "info") -> None:
    """Write logs to stderr: for people on a terminal, one JSON object a line otherwise.

    Args:
        process: name that each line bears, e.g. `gateway`.
        level: lowest level that is written.
    """
    for_people = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(
                [structlog.dev.ConsoleRenderer()]
                if for_people
                else [
                    structlog.processors.format_exc_info,
                    structlog.processors.JSONRenderer(serializer=_to_json),
                ]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)


def _to_json(value: Any, **_: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, OverflowError):  # a log line never fails whoever writes it
        return json.dumps(value, default=str, skipkeys=True)


class Health:
    """What `/healthz` says: the process beats, and the facts that it last reported.

    The beat comes from the event loop, the answer from a thread, so a stuck loop shows.
    """

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._facts: dict[str, Any] = {}
        self._failure: str | None = None

    def beat(self, **facts: Any) -> None:
        """Alive; `facts` are shown to whoever asks."""
        self._facts.update(facts)
        self._beat = time.monotonic()

    def fail(self, why: str | None) -> None:
        """Unhealthy until called with None."""
        self._failure = why

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Healthy or not, and why."""
        age = time.monotonic() - self._beat
        why = self._failure or ("stalled" if age > STALLED_SECONDS else None)
        status = {"status": "ok" if why is None else why, "beat_seconds": round(age, 3)}
        return why is None, {**status, **self._facts}


class TelemetryServer:
    """Serves `/metrics` and `/healthz` on loopback from a thread."""

    def __init__(self, health: Health, port: int = 0) -> None:
        def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            match environ["PATH_INFO"]:
                case "/metrics":
                    text = generate_latest()
                    start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
                    return [text]
                case "/healthz":
                    healthy, report = health.report()
                    return _json(start_response, "200 OK" if healthy else "503 Unhealthy", report)
                case _:
                    return _json(start_response, "404 Not Found", {"try": ["/metrics", "/healthz"]})

        self._server = make_server(
            "127.0.0.1", port, application, server_class=_Server, handler_class=_QuietHandler
        )
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""


def _json(start_response: StartResponse, status: str, body: Any) -> list[bytes]:
    text = msgspec.json.encode(body, enc_hook=str) + b"\n"
    start_response(
        status, [("Content-Type", "application/json"), ("Content-Length", str(len(text)))]
    )
    return [text]
