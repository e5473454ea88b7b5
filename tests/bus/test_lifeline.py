"""Children that end with their parent, on Linux by the kernel and elsewhere by watching."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from support import until
from support.processes import alive
from tidegate_bus.broker import lifeline

PORTABLE = """
import sys
from tidegate_bus.broker import lifeline
sys.exit(lifeline.main(int(sys.argv[1]), sys.argv[2:], linux=False))
"""
PARENT = """
import signal, subprocess, sys
from tidegate_bus.broker import lifeline
if sys.argv[1] == "portable":
    command = [sys.executable, "-c", sys.argv[2], str(lifeline.os.getpid())]
else:
    command = lifeline.command()
subprocess.Popen([*command, sys.executable, "-c", sys.argv[3]])
signal.pause()
"""
CHILD = """
import os, signal, sys
def end(*_): sys.exit(7)
signal.signal(signal.SIGTERM, end)
print(os.getpid(), flush=True)
signal.pause()
"""

ways = pytest.mark.parametrize(
    "way",
    [
        pytest.param(
            "prctl", marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
        ),
        "portable",
    ],
)


def command(way: str, parent: int, *arguments: str) -> list[str]:
    """A command line that runs `arguments` on the lifeline of `parent`."""
    if way == "portable":
        return [sys.executable, "-c", PORTABLE, str(parent), *arguments]
    made = lifeline.command(*arguments)
    return [str(parent) if part == str(os.getpid()) else part for part in made]


@asynccontextmanager
async def running(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process whose output can be read; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()  # to the end of its output, which its child holds open too


async def line(process: asyncio.subprocess.Process) -> str:
    """The next line that a process writes."""
    assert process.stdout
    return (await process.stdout.readline()).decode().strip()


@ways
@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="of Linux")
async def test_the_child_lets_others_finish(way: str) -> None:
    """As a batch process: one that wakes up does not take the processor from another one."""
    tell = "import os; print(os.sched_getscheduler(0))"
    async with running(*command(way, os.getpid(), sys.executable, "-c", tell)) as process:
        told, _ = await process.communicate()

    assert int(told) == os.SCHED_BATCH


@ways
async def test_the_child_ends_when_its_parent_is_killed(way: str) -> None:
    """SIGKILL of the parent, which it cannot handle, ends the child."""
    async with running(sys.executable, "-c", PARENT, way, PORTABLE, CHILD) as parent:
        child = int(await line(parent))
        assert alive(child)

        parent.kill()
        await until(lambda: not alive(child))


@ways
async def test_sigterm_reaches_the_child_and_its_status_comes_back(way: str) -> None:
    """What is sent to the process arrives at the command, and so does the exit status back."""
    made = command(way, os.getpid(), sys.executable, "-c", CHILD)
    async with running(*made) as process:
        child = int(await line(process))
        process.terminate()

        assert await process.wait() == 7
        assert not alive(child)


@ways
async def test_the_command_does_not_outlive_a_parent_that_is_gone_already(way: str) -> None:
    """A parent that died before its child could watch it leaves no child behind."""
    made = command(way, 1, sys.executable, "-c", CHILD)
    async with running(*made) as process:
        assert await process.wait() != 0


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
async def test_on_linux_the_process_becomes_the_command() -> None:
    """There is no process in between: the pid is that of the command."""
    made = lifeline.command(sys.executable, "-c", CHILD)
    async with running(*made) as process:
        assert int(await line(process)) == process.pid
