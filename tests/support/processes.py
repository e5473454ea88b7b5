"""Processes as the operating system sees them."""

from __future__ import annotations

import subprocess


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state = found.stdout.strip()
    return bool(state) and not state.startswith("Z")
