"""`tidegate up`: starts, drains, and is examined while it runs; and the scaffold's own tests."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from rich.console import Console

from support import until
from tidegate.cli.console import table
from tidegate.cli.init import init
from tidegate.cli.up import LinePrinter, log_to
from tidegate.identities import current
from tidegate.processes import running
from tidegate.project import address, load_project
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.topology import Subscription, converge
from tidegate_bus.connection import connect

from .test_cli import Shell, bytecode, wait_for

SLOW = """
import asyncio
from pathlib import Path
from tidegate import Agent

agent = Agent()

@agent.task("greeting.write")
async def greet(visitor: dict[str, str]) -> dict[str, str]:
    Path("started").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return {"text": "at last"}
"""


@pytest.fixture
def outside(tmp_path: Path, pytestconfig: pytest.Config) -> Shell:
    """A shell in the folder that the project is in."""
    init(tmp_path / "hello")
    return Shell(tmp_path, bytecode(pytestconfig))


@pytest.fixture
def tidegate(outside: Shell) -> Shell:
    """A shell in the project."""
    return outside.there(outside.folder / "hello")


def test_ctrl_c_drains_and_exits_with_0(outside: Shell, tidegate: Shell, tmp_path: Path) -> None:
    """What runs is finished and its result recorded, wherever `up` was called from."""
    (tidegate.folder / "greeter.py").write_text(SLOW)
    log = tmp_path / "up.log"
    process = outside.start("up", "--project", "hello", log=log)
    wait_for(log, "Ctrl-C stops")
    run = tidegate("run", "start", "greet-visitor", '{"name": "Ada"}', "--json").json
    asyncio.run(until((tidegate.folder / "started").exists))
    process.send_signal(signal.SIGINT)
    wait_for(log, "draining running=1")
    (tidegate.folder / "go").touch()

    assert process.wait(30) == 0, log.read_text()
    assert "stopped; the ledger stays in" in log.read_text()
    again = tidegate.up(tmp_path / "again.log")
    shown = tidegate("run", "show", run["id"], "--json").json
    again.send_signal(signal.SIGTERM)
    assert (shown["status"], shown["output"]) == ("succeeded", "at last")
    assert again.wait(30) == 0


def test_the_second_ctrl_c_does_not_wait_for_agents(tidegate: Shell, tmp_path: Path) -> None:
    """They give back what they are working on; the next start does it."""
    (tidegate.folder / "greeter.py").write_text(SLOW)
    log = tmp_path / "up.log"
    process = tidegate.up(log)
    run = tidegate("run", "start", "greet-visitor", '{"name": "Ada"}', "--json").json
    asyncio.run(until((tidegate.folder / "started").exists))
    process.send_signal(signal.SIGINT)
    wait_for(log, "draining running=1")
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0, log.read_text()

    (tidegate.folder / "go").touch()
    process = tidegate.up(tmp_path / "again.log")

    def succeeded() -> bool:
        return str(tidegate("run", "show", run["id"], "--json").json["status"]) == "succeeded"

    asyncio.run(until(succeeded))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_ctrl_c_while_it_starts_leaves_nothing(tidegate: Shell, tmp_path: Path) -> None:
    """An impatient user gets the prompt back, and no process stays."""
    log = tmp_path / "up.log"
    process = tidegate.start("up", log=log)
    asyncio.run(until((tidegate.folder / ".tidegate" / "address").exists, seconds=60))
    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert running(load_project(tidegate.folder).state) == []
    assert not (tidegate.folder / ".tidegate" / "address").exists()


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("policy/more.cedar", "permit (principal);", "hello/policy/more.cedar:1: this policy"),
        ("agents/greeter.yaml", "team: a\n", "agents/greeter.yaml:1: name: is required"),
        ("greeter.py", "1 / 0\n", "front-desk.greeter cannot start: cannot import greeter"),
    ],
)
def test_what_cannot_start_is_bad_input(tidegate: Shell, file: str, text: str, why: str) -> None:
    """It exits with 2 and says which file is wrong."""
    (tidegate.folder / file).write_text(text)
    done = tidegate("up")

    assert done.status == 2
    assert why in done.err
    assert not (tidegate.folder / ".tidegate" / "address").exists()


@pytest.mark.parametrize("command", ["up", "edge"])
def test_a_webhook_without_its_secret_is_said_before_anything_starts(
    tidegate: Shell, command: str
) -> None:
    """With file, line and field, as bad input; also where no stack runs yet."""
    path = tidegate.folder / "tidegate.yaml"
    hook = "{verify: github, secret_file: hub.secret, principal: outside.website}"
    lines = path.read_text().count("\n")
    with path.open("a") as settings:
        settings.write(f"edge:\n  webhooks:\n    hub: {hook}\n")
    done = tidegate(command)

    assert done.status == 2
    where = f"{path}:{lines + 3}: edge.webhooks.hub.secret_file: "
    assert f"{where}{tidegate.folder}/hub.secret: there is no such file" in done.err.replace(
        "\\", ""
    )
    assert not list((tidegate.folder / ".tidegate").glob("logs/*"))


def test_a_console_without_its_certificate_is_said_before_anything_starts(tidegate: Shell) -> None:
    """As bad input; also where no stack runs yet."""
    with (tidegate.folder / "tidegate.yaml").open("a") as settings:
        settings.write("console: {tls: {certificate: a.pem, key: a.key}}\n")
    for command in ("up", "console"):
        done = tidegate(command)
        assert done.status == 2
        assert f"console.tls: {tidegate.folder}/a.pem: cannot be read" in done.err
    assert not list((tidegate.folder / ".tidegate").glob("logs/*"))


async def _change_consumer(folder: Path) -> None:
    """What somebody with the registrar's key could do by hand."""
    project = load_project(folder)
    seed = project.state.keyring.seed(REGISTRAR)
    (wanted,) = current(project).subscriptions()
    changed = Subscription(wanted.principal, wanted.capabilities, ("other.topic",), 99.0)
    async with await connect(address(project.state), REGISTRAR, seed) as connection:
        await converge(connection, project.limits(), [changed])


def test_the_doctor_finds_drift_and_processes_that_hang_or_are_gone(
    tidegate: Shell, tmp_path: Path
) -> None:
    """A healthy stack is `ok` in every point; what is not is named, and the exit status is 1."""
    log = tmp_path / "up.log"
    process = tidegate.up(log)
    try:
        healthy = tidegate("doctor", "--json")
        assert healthy.status == 0
        assert {finding["status"] for finding in healthy.json} == {"ok"}

        asyncio.run(_change_consumer(tidegate.folder))
        pids = {info.name: info.pid for info in running(load_project(tidegate.folder).state)}
        os.kill(pids["coordinator"], signal.SIGSTOP)
        people, programs = tidegate("doctor"), tidegate("doctor", "--json")
        os.kill(pids["coordinator"], signal.SIGCONT)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
    gone = tidegate("doctor", "--json")

    assert (people.status, programs.status, gone.status) == (1, 1, 0)
    failed = {f["check"]: f["detail"] for f in programs.json if f["status"] == "failed"}
    assert failed.keys() == {"process coordinator", "topology"}
    assert "does not answer" in failed["process coordinator"]
    assert "ack_wait is 99000000000, declared 30000000000" in failed["topology"]
    assert failed["topology"].splitlines()[0] in people.out
    assert [f["status"] for f in gone.json if f["check"] == "stack"] == ["skipped"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("any words", "it                 any words\n"),
        (
            '{"event":"ready","level":"info","timestamp":"t","process":"p","seq":7,"to":"x.y"}',
            "it                 ready seq=7 to=x.y\n",
        ),
        ('{"event":"bad","level":"error","error":"why"}', "it                 bad error=why\n"),
        (
            '{"event":"on","bundle":"sha256:0123456789abcdef"}',
            "it                 on bundle=sha256:0",
        ),
        ("[1]", "it                 [1]\n"),
        ("\x1b[31m[bold]red", "it                 \\x1b[31m[bold]red\n"),
        ("x" * 5000, "it                 " + "x" * 4000 + " …\n"),
    ],
)
def test_log_lines_are_printed_as_words(
    capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    """Structured ones as their facts, others as they are; none can drive the terminal."""
    LinePrinter()("it", line)

    assert capsys.readouterr().err.startswith(expected)


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """What is configured here is undone."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("logging_as_before")
def test_what_the_stack_itself_logs_is_printed_as_the_others_lines() -> None:
    """Also what is not wrong, so that a reconnect follows upon each loss, and an exception."""
    lines: list[tuple[str, dict[str, str]]] = []
    log_to(lambda name, line: lines.append((name, json.loads(line))))
    log = structlog.get_logger("tidegate.connection")

    log.debug("nobody needs to know")
    log.warning("disconnected", principal="tidegate.warden")
    log.info("reconnected", principal="tidegate.warden")
    try:
        raise ValueError("no probe")
    except ValueError:
        log.exception("cannot probe")

    assert [(name, line["level"], line["event"]) for name, line in lines] == [
        ("stack", "warning", "disconnected"),
        ("stack", "info", "reconnected"),
        ("stack", "error", "cannot probe"),
    ]
    assert "ValueError: no probe" in lines[-1][1]["exception"]


def test_names_stay_whole_in_a_narrow_terminal() -> None:
    """The first column can be copied, whatever becomes of the others."""
    narrow = Console(width=40, file=io.StringIO(), record=True)
    name = "fc63bd1434f2c12d"
    rows = [(name, "greet-visitor", "c" * 32)]
    narrow.print(table("", ("run", "blueprint", "correlation"), rows))

    assert name in narrow.export_text()


def test_a_table_that_does_not_fit_becomes_lines() -> None:
    """Words cut up into columns of two letters can be read by nobody."""
    rows = [("[red]bus[/]", "killed", "tidegate.operator", "it\\[x]", None)] * 2
    columns = ("target", "is", "by", "reason", "waiting")
    narrow, wide = (Console(width=w, file=io.StringIO(), record=True) for w in (40, 80))
    for console in (narrow, wide):
        console.print(table("", columns, rows))

    block = (
        "target   bus\nis       killed\nby       tidegate.operator\nreason   it[x]\nwaiting  -\n"
    )
    assert narrow.export_text() == f"{block}\n{block}"
    assert "│ bus    │ killed │" in wide.export_text()


def test_quiet_leaves_only_what_goes_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings, errors, and whatever is not structured."""
    printer = LinePrinter(quiet=True)
    for level in ("debug", "info", "warning", "error"):
        printer("it", f'{{"event":"{level}!","level":"{level}"}}')
    printer("it", "Traceback (most recent call last):")

    said = capsys.readouterr().err
    words = ("debug", "info", "warning", "error", "Traceback")
    assert [word for word in words if word in said] == ["warning", "error", "Traceback"]


def test_the_tests_of_the_scaffold_pass(tidegate: Shell) -> None:
    """What `tidegate init` makes is tested by plain `pytest` in its folder."""
    environment = tidegate.environment
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=60"],
        cwd=tidegate.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
