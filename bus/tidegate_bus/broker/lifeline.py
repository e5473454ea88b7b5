"""Run a command that ends when its parent does, however the parent ends.

    python lifeline.py <parent pid> command [argument …]

On Linux the process becomes the command itself and the kernel sends SIGTERM at the parent's
death (prctl(2), PR_SET_PDEATHSIG). Elsewhere it stays, passes signals on and watches the parent.
Imports the standard library only: it runs before anything of ours is loaded.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

_PR_SET_PDEATHSIG = 1


def command(*arguments: str) -> list[str]:
    """`arguments` as a command line that ends with this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *arguments]


def share_evenly() -> None:
    """Make this process one of those that let each other finish, as batch jobs do (sched(7)).

    Each message wakes several processes of the bus. By default one that wakes up takes the
    processor from one that works, and on two processors an eighth of their time went into that.
    Where one is idle nothing changes. What a process starts is as it is.
    """
    if hasattr(os, "SCHED_BATCH"):  # Linux
        with contextlib.suppress(OSError):  # a sandbox that does not allow it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main(parent: int, arguments: list[str], *, linux: bool = sys.platform == "linux") -> int:
    """Run `arguments`; see the module."""
    share_evenly()
    if linux:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            return 1
        os.execvp(arguments[0], arguments)  # noqa: S606 - becoming the command is the purpose
    signals: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        signals.append(number)
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    child = subprocess.Popen(arguments)
    children.append(child)
    for missed in signals:  # while there was no child yet
        child.send_signal(missed)
    while child.poll() is None:
        if os.getppid() != parent:
            child.terminate()
        time.sleep(0.2)
    return child.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
