"""An application of starlette that reads a request and does nothing: what the edge is held against.

python -m tidegate.bench.bare FILE     listens, and writes where into the file
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tidegate.edge.protocol import EdgeProtocol
from tidegate.web import WebServer
from tidegate_bus.broker.lifeline import share_evenly


async def nothing(request: Request) -> Response:
    """Read the body, as any application does that is posted to, and answer with JSON."""
    await request.body()
    return JSONResponse({}, 202)


async def main(written: Path) -> None:
    """Serve until SIGTERM, by the server that the edge has, with its settings."""
    app = Starlette(routes=[Route("/v1/events", nothing, methods=["POST"])])
    server = WebServer(app, "127.0.0.1", 0, written, protocol=EdgeProtocol)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.run()


if __name__ == "__main__":
    share_evenly()  # as the edge does
    uvloop.run(main(Path(sys.argv[1])))
