"""Reading a repository with git: no shell, bounded output, bounded time.

Only plumbing commands see content, so that nobody's configuration (external diffs, colours,
prefixes) changes what is read, and no transport may fetch what a partial clone lacks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from tidegate_schemas.errors import InvalidInput, TidegateError

from .patch import Patch, parse

MiB = 1024 * 1024
PATCH_BYTES = 4 * MiB
"""A longer patch is read up to here; nobody reviews it line by line anyway."""

_ELSEWHERE = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_WORK_TREE",
    }
)
"""Variables that point git to another repository; they are set inside of hooks."""

DIFF = ("diff-tree", "-r", "--root", "-M", "-l200", "--no-relative")
"""Changes of a commit: recursive, of root commits too, renames found where that is cheap."""

_PATCH = (*DIFF, "--cc", "-p", "-U1", "--no-prefix", "--no-ext-diff", "--no-textconv", "--no-color")
"""With no line of context, git 2.39 counts wrongly where a merge cuts off the end of a file."""


class InvalidRepository(InvalidInput):
    """It cannot be read as a git repository, or lacks the commit.

    Attributes:
        repo: the path that was given.
        detail: what git says of it.
    """

    def __init__(self, repo: Path, detail: str) -> None:
        super().__init__(f"{repo}: {detail}")
        self.repo = repo
        self.detail = detail


class GitStopped(TidegateError):
    """git did not answer in time, or was killed. You do not get this for output over a limit.

    It is not `Unavailable`: the bus is well, so a worker counts the attempt.
    """

    retryable = True

    def __init__(self, repo: Path, command: str, seconds: float) -> None:
        super().__init__(f"{repo}: git {command} did not end within {seconds:g} s")


@dataclass(frozen=True, slots=True)
class Output:
    """What git wrote. Not `complete`: only the first bytes of it, up to the limit."""

    text: bytes
    complete: bool


def run(
    repo: Path,
    *arguments: str,
    feed: bytes = b"",
    limit: int = 64 * MiB,
    timeout: float = 30.0,
) -> Output:
    """Run `git <arguments>` in a repository, bare or not.

    Args:
        repo: its folder.
        arguments: the command and its options; text from outside only after the options.
        feed: what git reads from its standard input.
        limit: bytes of output; git is stopped at the limit.
        timeout: seconds; git is killed afterwards.

    Raises:
        InvalidRepository: git is missing, or says no.
        GitStopped: git was killed.
    """
    program = shutil.which("git")
    if program is None:
        raise InvalidRepository(repo, "git is not installed, or not in PATH")
    settings = ("-c", "core.quotePath=false", "-c", "protocol.allow=never")
    with tempfile.TemporaryFile() as stdin:
        stdin.write(feed)
        stdin.seek(0)
        with subprocess.Popen(
            [program, "-C", str(repo), "--no-pager", *settings, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            process_group=0,
        ) as process:
            text, complaint = _read(process, limit, timeout)
    if len(text) > limit:
        return Output(text[:limit], complete=False)
    if process.returncode < 0:
        raise GitStopped(repo, arguments[0], timeout)
    if process.returncode:
        raise InvalidRepository(repo, complaint or f"git {arguments[0]} failed")
    return Output(text, complete=True)


def read_patch(repo: Path, sha: str, *, limit: int = PATCH_BYTES) -> Patch:
    """What a commit changes; of a merge, what it changes beyond its parents.

    Raises:
        InvalidRepository: no such commit here.
        GitStopped: git was killed.
    """
    output = run(repo, *_PATCH, "--no-commit-id", "--end-of-options", sha, limit=limit)
    return parse(output.text, complete=output.complete)


def _read(process: subprocess.Popen[bytes], limit: int, timeout: float) -> tuple[bytes, str]:
    """Output up to one byte over the limit, and the first line of complaint."""
    assert process.stdout is not None
    assert process.stderr is not None
    timer = threading.Timer(timeout, _kill, [process.pid])
    timer.start()
    try:
        text = process.stdout.read(limit + 1)
        if len(text) > limit:
            _kill(process.pid)
        complaint = process.stderr.read(4096).decode("utf-8", "replace")
        process.wait()
    finally:
        timer.cancel()
    return text, complaint.strip().partition("\n")[0].removeprefix("fatal: ")


def _kill(group: int) -> None:
    """Kill git and whatever it started, which may hold the pipe open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """Ours, in plain English, without what points elsewhere, prompts or writes."""
    kept = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    return kept | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
