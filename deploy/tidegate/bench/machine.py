"""What a benchmark ran on."""

from __future__ import annotations

import asyncio
import os
import platform
from importlib.metadata import version
from pathlib import Path

from tidegate_bus.broker.server import find_server


async def machine() -> dict[str, str]:
    """Processor, cores and versions."""
    process = await asyncio.create_subprocess_exec(
        str(await find_server()), "--version", stdout=asyncio.subprocess.PIPE
    )
    server = (await process.communicate())[0].decode().strip().removeprefix("nats-server: ")
    return {
        "processor": _processor(),
        "cores": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "nats-server": server,
        "nats-py": version("nats-py"),
        "tidegate": version("tidegate"),
    }


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used; not a number where that is unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return float("nan")
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
