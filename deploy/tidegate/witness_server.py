"""A witness as an HTTP server (C2SP tlog-witness), for another party than those of the log."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tidegate_bus.identity.keyring import write_secret
from tidegate_evidence.note import Algorithm, Signer, Verifier
from tidegate_policy.signing.witness import MAX_BODY_BYTES, Seen, Witness
from tidegate_schemas.errors import InvalidInput, Unavailable, VerificationError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.witness")

_IDLE_SECONDS = 75
_BODY_SECONDS = 10.0
_CLIENTS = 200


def application(witness: Witness) -> Starlette:
    """`POST /add-checkpoint`."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            body = await _body(request)
        except VerificationError as error:
            return PlainTextResponse(f"{error}\n", 400, {"Connection": "close"})
        try:
            answer = await run_in_threadpool(witness.add_checkpoint, body)
        except Unavailable as error:
            _log.error("cannot answer", error=str(error))
            return PlainTextResponse("try again\n", 503)
        return Response(answer.body, answer.status, media_type=answer.kind)

    return Starlette(routes=[Route("/add-checkpoint", add_checkpoint, methods=["POST"])])


async def _body(request: Request) -> bytes:
    """The body, if it is not too large and comes in time."""
    found = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                found += piece
                if len(found) > MAX_BODY_BYTES:
                    raise VerificationError(f"over {MAX_BODY_BYTES} bytes")
    except (TimeoutError, ClientDisconnect):
        raise VerificationError(f"not all there after {_BODY_SECONDS:g} s") from None
    return bytes(found)


def own_key(folder: Path, name: str) -> Signer:
    """The key of the witness; made at the first start.

    Raises:
        InvalidInput: others may read it, it is no key, or it has another name.
    """
    path = folder / "key"
    try:
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # another process was faster
                made = Signer.generate(name, Algorithm.COSIGNATURE)
                write_secret(path, made.secret(), replace=False)
        if path.stat().st_mode & 0o077:
            raise InvalidInput(f"{path}: others may read this key; run chmod 600 {path}")
        signer = Signer.parse(path.read_text("ascii").strip())
    except (VerificationError, UnicodeError) as error:
        raise InvalidInput(f"{path}: {error}") from error
    if (signer.name, signer.algorithm) != (name, Algorithm.COSIGNATURE):
        raise InvalidInput(f"{path}: the key is of {signer.name}; give --name {signer.name}")
    return signer


def serve(
    signer: Signer,
    logs: Sequence[Verifier],
    folder: Path,
    host: str,
    port: int,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        signer: the key of the witness.
        logs: keys of the logs that it takes.
        folder: what it has seen is there.
        host: where to listen.
        port: the same; 0 takes a free one.
        ready: called with the URL once it listens.

    Raises:
        InvalidInput: it cannot listen there.
        Unavailable: what it has seen cannot be opened.
    """
    with Seen(folder / "witness.db") as seen, _listening(host, port) as listener:
        settings = uvicorn.Config(
            application(Witness(signer, logs, seen)),
            log_level="warning",
            timeout_keep_alive=_IDLE_SECONDS,
            limit_concurrency=_CLIENTS,
            server_header=False,
            lifespan="off",
        )
        address = f"[{host}]" if ":" in host else host
        ready(f"http://{address}:{listener.getsockname()[1]}")
        uvicorn.Server(settings).run([listener])


@contextlib.contextmanager
def _listening(host: str, port: int) -> Generator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_CLIENTS)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}:{port}: {error.strerror}") from error
    with listener:
        yield listener
