"""A child process is kept running, its lines are passed on and kept, and it ends when told to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from support import until
from tidegate import child as module
from tidegate.child import Child
from tidegate_schemas.errors import InvalidInput, TidegateError, Unavailable


class Watched:
    """A child, and what it said."""

    def __init__(self, folder: Path, code: str, *, log: Path | None = None) -> None:
        self.lines: list[str] = []
        self.log = log or folder / "logs" / "it.log"
        command = [sys.executable, "-I", "-S", "-c", code]
        self.child = Child("it", command, folder, self.log, self._on_line)

    def _on_line(self, name: str, line: str) -> None:
        assert name == "it"
        self.lines.append(line)

    def said(self, text: str) -> bool:
        """Whether a line holds the text."""
        return any(text in line for line in self.lines)

    async def until_said(self, text: str) -> None:
        """Wait for it."""
        await until(lambda: self.said(text))

    async def until_over(self) -> None:
        """Wait until it is not kept running any more."""

        def over() -> bool:
            try:
                self.child.check()
            except TidegateError:
                return True
            return False

        await until(over)


@contextlib.asynccontextmanager
async def running(watched: Watched, grace: float = 10.0) -> AsyncGenerator[Watched]:
    """Start a child; it is stopped at the end."""
    watched.child.start()
    try:
        yield watched
    finally:
        await watched.child.stop(grace)


STAYS = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAYS}"


async def test_what_ends_is_started_again_after_a_growing_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause doubles up to the longest; its log holds the lines of all its lives."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_SECONDS", 0.03)
    async with running(Watched(tmp_path, "print('alive'); raise SystemExit(7)")) as it:
        await until(lambda: it.child.restarts >= 4)
        it.child.check()  # it is still being tried

    pauses = [line.rpartition(" in ")[2] for line in it.lines if line.startswith("ended")]
    assert pauses[:4] == ["0.01 s", "0.02 s", "0.03 s", "0.03 s"]
    assert it.said("ended with status 7; starting it again in 0.01 s")
    assert it.log.read_text().count("alive\n") >= 4


async def test_after_a_healthy_time_the_pause_is_short_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only ending early again and again makes the pause grow."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "_HEALTHY_SECONDS", 0.0)
    async with running(Watched(tmp_path, "raise SystemExit(1)")) as it:
        await until(lambda: it.child.restarts >= 3)

    assert {line.rpartition(" in ")[2] for line in it.lines} == {"0.01 s"}


async def test_a_killed_child_comes_back(tmp_path: Path) -> None:
    """SIGKILL is an end like any other."""
    async with running(Watched(tmp_path, STAYS)) as it:
        await it.until_said("up")
        first = it.child.pid
        assert first
        os.kill(first, signal.SIGKILL)
        await until(lambda: it.lines.count("up") == 2)

    assert it.child.pid != first
    assert it.said("ended with status -9")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('error bad file'); raise SystemExit(2)", "it cannot start: bad file (log: "),
        (
            """print('{"event":"cannot start","error":"bad policy"}'); raise SystemExit(2)""",
            "it cannot start: bad policy (log: ",
        ),
    ],
)
async def test_what_cannot_start_is_not_started_again(tmp_path: Path, code: str, why: str) -> None:
    """Status 2 says that the input is wrong; the last words say in which way."""
    async with running(Watched(tmp_path, code)) as it:
        await it.until_over()
        with pytest.raises(InvalidInput) as error:
            it.child.check()

    assert it.child.restarts == 0
    assert str(error.value).startswith(why)


async def test_what_cannot_even_be_begun_says_so(tmp_path: Path) -> None:
    """A folder that is gone is an error of the check, not a silent end."""
    it = Watched(tmp_path / "gone", STAYS, log=tmp_path / "it.log")
    async with running(it):
        await it.until_over()
        with pytest.raises(Unavailable, match="FileNotFoundError"):
            it.child.check()


async def test_stopping_lets_it_end_by_itself(tmp_path: Path) -> None:
    """SIGTERM comes first, and what it says then is still heard."""
    code = f"""
import os, signal, sys
def end(*_):
    os.write(1, b"goodbye\\n")  # print may be in the middle of something
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
{STAYS}
"""
    async with running(Watched(tmp_path, code)) as it:
        await it.until_said("up")

    assert it.lines == ["up", "goodbye"]


async def test_what_does_not_end_is_killed(tmp_path: Path) -> None:
    """After the grace SIGKILL follows, and is said."""
    async with running(Watched(tmp_path, STUBBORN), grace=0.1) as it:
        await it.until_said("up")

    assert it.lines == ["up", "still running after 0.1 s; killing it"]


async def test_stopping_does_not_wait_for_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that waits for its next start is stopped at once."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 60.0)
    loop = asyncio.get_running_loop()
    async with running(Watched(tmp_path, "raise SystemExit(1)")) as it:
        await it.until_said("starting it again in 60 s")
        began = loop.time()

    assert loop.time() - began < 5


async def test_stopping_before_it_runs_stops_it_too(tmp_path: Path) -> None:
    """No process is left when a stop overtakes the start."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running(Watched(tmp_path, STAYS), grace=30) as it:
        await asyncio.sleep(0)  # the start has begun, the process is not there yet

    assert loop.time() - began < 10
    assert it.child.restarts == 0


async def test_lines_of_any_length_are_kept(tmp_path: Path) -> None:
    """A line longer than any buffer stands whole in the log and is passed on in pieces."""
    code = "print('x' * 3_000_000); print('after', flush=True); import time; time.sleep(60)"
    async with running(Watched(tmp_path, code)) as it:
        await it.until_said("after")

    assert it.log.read_bytes() == b"x" * 3_000_000 + b"\nafter\n"
    assert "".join(it.lines) == "x" * 3_000_000 + "after"


async def test_what_it_says_need_not_be_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are kept as they are and shown as far as they can be."""
    code = r"import os, time; os.write(1, b'\xff\xfe\n'); time.sleep(60)"
    async with running(Watched(tmp_path, code)) as it:
        await until(lambda: bool(it.lines))

    assert it.lines == ["\ufffd\ufffd"]
    assert it.log.read_bytes() == b"\xff\xfe\n"


async def test_a_log_that_cannot_be_written_does_not_stop_it(tmp_path: Path) -> None:
    """A full disk is said once; the lines are still passed on."""
    code = "import time; print('one'); print('two', flush=True); time.sleep(60)"
    async with running(Watched(tmp_path, code, log=tmp_path)) as it:
        await it.until_said("two")
        it.child.check()

    assert it.lines == [f"cannot write {tmp_path}: Is a directory", "one", "two"]


async def test_what_it_leaves_behind_does_not_hide_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that it started and that outlives it holds its output, not its restart."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.01)
    code = """
import subprocess, sys
left = subprocess.Popen(["sleep", "60"])
print(left.pid, flush=True)
sys.exit(1)
"""
    async with running(Watched(tmp_path, code)) as it:
        await until(lambda: it.child.restarts >= 1)
    for line in it.lines:
        if line.isdecimal():
            os.kill(int(line), signal.SIGKILL)

    assert it.said("ended with status 1")


class Opening(Watched):
    """Opens files as soon as the child has ended."""

    def __init__(self, folder: Path, code: str) -> None:
        super().__init__(folder, code)
        self.opened: list[int] = []

    def _on_line(self, name: str, line: str) -> None:
        super()._on_line(name, line)
        if "ended with status" in line:
            self.opened += os.pipe()


def test_the_end_of_a_child_closes_nothing_of_others(tmp_path: Path) -> None:
    """What is opened just when a child has ended stays open, on the event loop of `tidegate up`.

    There a transport closes its pipe some moments later; by then the number may be another file's.
    """
    uvloop: Any = pytest.importorskip("uvloop")
    watched = Opening(tmp_path, "print('here')")

    async def work() -> None:
        async with running(watched):
            await until(lambda: watched.child.restarts > 2)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())

    assert watched.opened
    for number in watched.opened:
        os.close(number)
