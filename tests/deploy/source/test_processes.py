"""Sources as processes, on a running stack: killed, told to stop, and their bus gone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deploy.test_cli import Shell, bytecode
from support import until
from tidegate.bus import Bus
from tidegate.processes import running
from tidegate.project import State, load_project
from tidegate.stack import Stack
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import OPERATOR

pytestmark = pytest.mark.asyncio(loop_scope="module")

_FILES = {
    "tidegate.yaml": "project: sources\npublishers: [outside.files]\n",
    "policy/main.cedar": """
        @id("files-are-told") permit (principal == Agent::"outside.files", action, resource)
        when { context.to like "told.*" };
        @id("rest") permit (principal in Team::"tidegate", action, resource);
        """,
}
_AS = ("--as", "outside.files")
_LINES = 3000


class _Project:
    """A project whose stack runs, and a shell in it."""

    def __init__(self, folder: Path, shell: Shell) -> None:
        self.folder = folder
        self.shell = shell
        self.state = State(folder / ".tidegate")
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Begin to run `tidegate`; it does not outlive the tests."""
        self._started.append(self.shell.start(*arguments, log=log))
        return self._started[-1]

    async def end(self) -> None:
        """Stop everything."""
        for process in self._started:
            process.kill()
            process.wait()
        await self.stack.stop()

    async def begin(self) -> None:
        """Start the stack; returns when it is ready."""
        self.stack = Stack(load_project(self.folder))
        await self.stack.start()

    async def told(self, topic: str) -> list[Any]:
        """The data of what was recorded of a topic, without repeats."""
        async with await Bus.of_project(str(OPERATOR), self.folder) as bus:
            records = [record async for record in bus.records() if record.to == topic]
        return [
            message.payload()
            for record in records
            if record.verdict is not Verdict.DUPLICATE and (message := record.message())
        ]

    async def grown(self, records: int) -> None:
        """Wait until so many more records are written than there are."""
        async with await Bus.of_project(str(OPERATOR), self.folder) as bus:

            async def last() -> int:
                found = await bus.ledger.last()
                return found.seq if found else 0

            goal = await last() + records

            async def reached() -> bool:
                return await last() >= goal

            await until(reached, seconds=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def project(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> AsyncGenerator[_Project]:
    """A project whose publisher may tell anything."""
    folder = tmp_path_factory.mktemp("sources")
    for name, text in _FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    project = _Project(folder, Shell(folder, bytecode(pytestconfig)))
    await project.begin()
    try:
        yield project
    finally:
        await project.end()


async def test_a_tail_that_is_killed_publishes_each_line_once(project: _Project) -> None:
    """Killed three times in the flow, its file renamed, and its stack stopped and started again."""
    file, log = project.folder / "app.log", project.folder / "tail.log"
    command = ("source", "tail", "app.log", "--type", "told.line", "--existing", *_AS)
    written = 0

    def write(lines: int) -> None:
        nonlocal written
        with file.open("a") as opened:
            opened.writelines(f"{n}\n" for n in range(written, written + lines))
        written += lines

    write(_LINES // 5)
    tail = project.start(*command, log=log)
    for part in range(3):
        await project.grown(100)
        tail.kill()
        tail.wait(10)
        if part == 1:
            file.rename(file.with_name("app.log.1"))
        write(_LINES // 5)
        tail = project.start(*command, log=log)
    await project.stack.stop()
    write(_LINES // 5)
    await until(lambda: "the bus does not answer" in log.read_text())
    await project.begin()
    await until(lambda: "the bus answers again" in log.read_text())

    async def all_told() -> bool:
        return len(await project.told("told.line")) >= _LINES

    await until(all_told, seconds=60)
    tail.terminate()

    assert tail.wait(10) == 0
    told = await project.told("told.line")
    assert sorted(map(str, range(_LINES))) == sorted(data["line"] for data in told)


async def test_lines_that_are_wrong_or_refused_are_named_and_stop_no_other(
    project: _Project,
) -> None:
    """By number, on stderr or as outcomes; the exit status says so at the end."""
    lines = b'{"n":1}\nno\n\n{"n":2}'
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "told.event"}
    whole = [
        json.dumps(event),
        '{"specversion":"1.0"}',
        json.dumps({**event, "id": "2", "type": "un.told"}),
    ]
    people = project.shell("publish", "told.some", "--lines", *_AS, given=lines)
    programs = project.shell("publish", "-", "--json", *_AS, given="\n".join(whole).encode())

    assert (people.status, people.out) == (2, "")
    assert people.err.startswith("line 2: data: ")
    assert people.err.endswith("events 3: allow 2, bad 1\n")
    assert await project.told("told.some") == [{"n": 1}, {"n": 2}]
    assert programs.status == 2
    first, second, third = map(json.loads, programs.out.splitlines())
    assert {"line": 1, "id": "1", "verdict": "allow"}.items() <= first.items()
    assert second["error"] == "malformed: Object missing required field `id`"
    assert {"line": 3, "id": "2", "verdict": "refused"}.items() <= third.items()


async def test_lines_that_were_cut_short_by_a_kill_go_on(project: _Project) -> None:
    """The same input again: each line has one record; another input is refused."""
    lines = [json.dumps({"n": n}).encode() for n in range(_LINES)]
    command = ("publish", "told.rest", "--lines", "--resume", "got", *_AS)
    read, write = os.pipe()
    publishing = await asyncio.create_subprocess_exec(
        *project.shell.program,
        *command,
        cwd=project.folder,
        env=project.shell.environment,
        stdin=read,
    )
    os.write(write, b"\n".join(lines[:1000]))
    await project.grown(500)
    publishing.kill()
    await publishing.wait()
    os.close(read)
    os.close(write)
    done = project.shell(*command, given=b"\n".join(lines))
    again = project.shell(*command, given=b"\n".join(lines[:10]))

    assert done.status == 0, done.err
    assert sorted(range(_LINES)) == sorted(data["n"] for data in await project.told("told.rest"))
    assert again.status == 2
    assert "does not begin with the 3000 lines" in again.err


async def test_a_source_is_a_process_like_the_others(project: _Project) -> None:
    """It says where its telemetry is, names outcomes for programs, and ends with 0 at SIGTERM."""
    log = project.folder / "cron.log"
    command = ("source", "cron", "* * * * * *", "--type", "told.tick", "--name", "clock", *_AS)
    cron = project.start(*command, "--json", log=log)
    await until(lambda: '"verdict":"allow"' in log.read_text())
    assert "source.cron-clock" in [process.name for process in running(project.state)]
    twice = project.shell(*command)
    cron.terminate()

    assert cron.wait(10) == 0
    assert "source.cron-clock" not in [process.name for process in running(project.state)]
    assert twice.status == 2
    assert "another process keeps in " in twice.err
