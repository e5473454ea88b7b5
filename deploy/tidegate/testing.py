"""What helps you test a project: the real stack, in a folder of the test.

async def test_greets(tmp_path):
    async with running_project(PROJECT, tmp_path) as stack, await stack.bus() as bus: ...
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

from .bus import Bus
from .project import load_project
from .stack import Stack


class RunningProject:
    """A project's stack while a test runs."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    async def bus(self, principal: str = "tidegate.operator") -> Bus:
        """The bus, as one of the project's principals."""
        return await Bus.of_project(
            principal, self.stack.project.root, self.stack.project.state.folder
        )


@contextlib.asynccontextmanager
async def running_project(
    root: Path,
    state: Path,
    *,
    agents: Collection[str] | None = None,
    faces: Collection[str] = (),
) -> AsyncGenerator[RunningProject]:
    """Run a project for the length of a test: real broker, real processes, fresh state.

    Args:
        root: the project, an absolute path.
        state: an empty folder for its state.
        agents: run only these, as `team.name`.
        faces: run also these, of `edge` and `console`.

    Raises:
        TidegateError: something does not start; says what.
    """
    async with Stack(load_project(root, state), agents=agents, faces=faces) as stack:
        yield RunningProject(stack)
