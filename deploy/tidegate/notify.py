"""Tells a service manager that this process is ready (sd_notify(3)): one datagram to a socket."""

from __future__ import annotations

import contextlib
import os
import socket

SOCKET = "NOTIFY_SOCKET"
"""Names the socket, in the environment; a leading @ stands for the abstract namespace."""


def say_ready() -> None:
    """Say it to who started this process. Does nothing if nobody asked."""
    path = os.environ.get(SOCKET, "")
    if path.startswith("@"):
        path = f"\0{path[1:]}"
    if path:
        with (
            contextlib.suppress(OSError),  # it asked and went away: nothing to be done here
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link,
        ):
            link.sendto(b"READY=1", path)
