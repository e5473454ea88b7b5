"""The command line against a running stack: what it prints, and how it exits."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import until


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed for programs."""
        return json.loads(self.out)


class Shell:
    """Runs the program as its users do, in a folder."""

    def __init__(self, folder: Path, bytecode: Path) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            "COLUMNS": "100",
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(bytecode),
        }

    def __call__(self, *arguments: str, given: str | bytes = "", **environment: str) -> Done:
        """Run `tidegate` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "tidegate", *arguments],
            cwd=self.folder,
            env=self._environment | environment,
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            timeout=60,
        )
        said = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in said.err + said.out, said.err + said.out
        return said

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Begin to run `tidegate`; all that it says goes to the log."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tidegate", *arguments],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def up(self, log: Path) -> subprocess.Popen[bytes]:
        """Begin to run a stack; returns when it is ready."""
        process = self.start("up", log=log)
        wait_for(log, "Ctrl-C stops")
        return process


def wait_for(log: Path, text: str) -> None:
    """Wait until a log holds a text."""
    asyncio.run(until(lambda: text in log.read_text(), seconds=60))


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled modules are kept, so that each is compiled once."""
    return tmp_path_factory.getbasetemp() / "bytecode"


@pytest.fixture(scope="module")
def tidegate(tmp_path_factory: pytest.TempPathFactory, bytecode: Path) -> Iterator[Shell]:
    """A shell in a project whose stack runs."""
    folder = tmp_path_factory.mktemp("cli")
    assert Shell(folder, bytecode)("init", "hello").status == 0
    shell = Shell(folder / "hello", bytecode)
    process = shell.up(folder / "up.log")
    try:
        yield shell
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (folder / "up.log").read_text()


def test_publishing_prints_verdict_policy_and_record(tidegate: Shell) -> None:
    """What was admitted exits with 0."""
    done = tidegate("publish", "greeting.requested", '{"name": "Ada"}', "--id", "first")

    assert done.status == 0
    pattern = r"allow by website-requests-greetings; ledger record \d+, envelope first\n"
    assert re.fullmatch(pattern, done.out)
    assert done.err == ""


def test_publishing_the_same_id_again_says_that_it_is_a_duplicate(tidegate: Shell) -> None:
    """The first record is named, and nothing is refused."""
    first = tidegate("publish", "greeting.requested", "{}", "--id", "twice", "--json").json
    second = tidegate("publish", "greeting.requested", "{}", "--id", "twice", "--json")

    assert second.status == 0
    assert (second.json["verdict"], second.json["was"]) == ("duplicate", "allow")
    assert second.json["seq"] == first["seq"]


def test_a_receipt_is_json_for_programs(tidegate: Shell) -> None:
    """It holds all that the gateway said."""
    done = tidegate(
        "publish", "greeting.requested", "--json", "--as", "outside.website", "--correlation", "c"
    )

    receipt = done.json
    assert {key: receipt[key] for key in ("verdict", "reason", "policies")} == {
        "verdict": "allow",
        "reason": "permitted",
        "policies": ["website-requests-greetings"],
    }
    assert receipt["seq"] > 0


def test_what_policy_forbids_names_the_policy_and_exits_with_3(tidegate: Shell) -> None:
    """For people the policy stands first; for programs everything is in the error."""
    task = ("publish", "x", "{}", "--kind", "task", "--to", "greeting.write")
    for_people, for_programs = tidegate(*task), tidegate(*task, "--json")
    nobody = tidegate("publish", "unheard.of")

    assert (for_people.status, for_programs.status, nobody.status) == (3, 3, 3)
    policy = "only-the-coordinator-assigns-tasks"
    assert for_people.err.startswith(f"denied by policy {policy}: forbidden (ledger record ")
    error = for_programs.json["error"]
    assert error.pop("seq") > 0
    assert error.pop("message").startswith("forbidden (ledger record ")
    assert error == {
        "type": "Denied",
        "retryable": False,
        "reason": "forbidden",
        "detail": "",
        "policies": [policy],
    }
    assert "no policy permits tidegate.operator this event to unheard.of" in nobody.err


def test_whole_envelopes_come_from_a_file_or_from_standard_input(tidegate: Shell) -> None:
    """Any CloudEvent can be published as it is."""
    event = {"specversion": "1.0", "id": "whole", "source": "/s", "type": "greeting.requested"}
    (tidegate.folder / "event.json").write_text(json.dumps(event, indent=2))
    from_file = tidegate("publish", "--envelope", "event.json", "--json")
    from_input = tidegate("publish", "--envelope", "-", "--json", given=json.dumps(event))

    assert (from_file.json["id"], from_file.json["verdict"]) == ("whole", "allow")
    assert from_input.json["verdict"] == "duplicate"


def test_data_comes_from_a_file_or_from_standard_input(tidegate: Shell) -> None:
    """`@FILE` and `-` stand for what is too long for a command line."""
    (tidegate.folder / "data.json").write_text('{"name":\n"File"}')
    from_file = tidegate("publish", "greeting.requested", "@data.json", "--json").json
    from_input = tidegate("publish", "greeting.requested", "-", "--json", given="[1]").json
    records = [tidegate("ledger", "show", str(r["seq"])).json for r in (from_file, from_input)]

    assert [record["envelope"]["data"] for record in records] == [{"name": "File"}, [1]]


def test_what_is_too_large_is_rejected_by_the_gateway_or_never_sent(tidegate: Shell) -> None:
    """Over the gateway's limit it is recorded as rejected; over the broker's it stays here."""
    large = tidegate("publish", "greeting.requested", "-", given=json.dumps("x" * 300_000))
    larger = tidegate("publish", "greeting.requested", "-", given=json.dumps("x" * 1_100_000))

    assert large.status == 3
    assert large.err.startswith("rejected: oversized: ")
    assert larger.status == 2
    assert "the broker takes 1048576 at most" in larger.err


def test_a_run_is_started_waited_for_listed_and_shown(tidegate: Shell) -> None:
    """Its output and its steps can be read by people and by programs."""
    run = tidegate("run", "start", "greet-visitor", '{"name": "Bo"}', "--wait", "--json").json
    shown = tidegate("run", "show", run["id"][:8])
    listed = tidegate("run", "list")

    assert (run["status"], run["output"]) == ("succeeded", "Hello, Bo!")
    assert run["blueprint"] == "greet-visitor@1"
    (unit,) = run["steps"]["greet"]["units"]
    assert (unit["attempt"], unit["phase"]) == (1, "done")
    assert unit["provider"] == "front-desk.greeter"
    assert "Hello, Bo!" in shown.out
    assert "succeeded" in shown.out
    assert run["id"] in listed.out
    assert tidegate("run", "show", run["id"], "--json").json == run
    assert run in tidegate("run", "list", "--json").json


def test_a_run_that_fails_exits_with_1_when_waited_for(tidegate: Shell) -> None:
    """The reason is shown; without waiting the id of the run is all that is said."""
    failed = tidegate("run", "start", "greet-visitor", '{"nom": "Bo"}', "--wait")
    begun = tidegate("run", "start", "greet-visitor", '{"name": "Bo"}')

    assert failed.status == 1
    assert "failed" in failed.out
    assert begun.status == 0
    assert re.match(r"started run [0-9a-f]{16}; `tidegate run show ", begun.out)


def test_runs_that_are_not_there_are_bad_input(tidegate: Shell) -> None:
    """What is registered is named; a beginning that fits several runs is refused."""
    unknown = tidegate("run", "start", "greet-nobody")
    missing = tidegate("run", "show", "ffffffffffffffff")
    several = tidegate("run", "show", "")
    stranger = tidegate("run", "start", "greet-visitor", "--as", "outside.website")

    assert "no blueprint 'greet-nobody' is registered; registered: greet-visitor" in unknown.err
    assert "there is no run 'ffffffffffffffff'" in missing.err
    assert "runs begin with ''" in several.err
    assert [unknown.status, missing.status, several.status, stranger.status] == [2, 2, 2, 3]


def test_the_ledger_is_shown_as_lines_and_as_json(tidegate: Shell) -> None:
    """One line a record; `--json` prints the very bytes that are stored."""
    people = tidegate("ledger", "tail", "-n", "3").out.splitlines()
    programs = tidegate("ledger", "tail", "-n", "3", "--json").out.splitlines()
    everything = tidegate("ledger", "tail", "-n", "9999").out.splitlines()

    assert len(people) == len(programs) == 3
    assert [json.loads(line)["seq"] for line in programs] == [
        int(line.split()[0]) for line in people
    ]
    assert len(everything) == json.loads(programs[-1])["seq"]
    assert tidegate("ledger", "tail", "-n", "0").out == ""
    assert tidegate("ledger", "show", "1", "--json").json["to"] == "agent.register"
    assert "the ledger has no record 99999 yet" in tidegate("ledger", "show", "99999").err


def test_the_ledger_is_followed_until_interrupted(tidegate: Shell, tmp_path: Path) -> None:
    """Records come as they are written; Ctrl-C ends it with 130 and nothing more is said."""
    log = tmp_path / "tail.log"
    process = tidegate.start("ledger", "tail", "-n", "1", "-f", log=log)
    wait_for(log, "\n")
    tidegate("publish", "greeting.requested", '{"name": "followed"}')
    wait_for(log, "run.finished")
    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 130
    assert all(line.split()[0].isdecimal() for line in log.read_text().splitlines())


def test_what_is_piped_away_may_end_early(tidegate: Shell) -> None:
    """A reader that has seen enough is no error to tell of."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m tidegate ledger tail -n 999 --json | head -n 1"],
        cwd=tidegate.folder,
        capture_output=True,
        timeout=60,
    )

    assert json.loads(done.stdout)["seq"] == 1
    assert done.stderr == b""


def test_a_story_is_told_in_order(tidegate: Shell) -> None:
    """From the event to the end of the run; what others wrote cannot drive the terminal."""
    name = "Ada \x1b[31m[red]x[/red]\nnew line"
    data = json.dumps({"name": name})
    tidegate("publish", "greeting.requested", data, "--correlation", "story-1")

    def ended() -> bool:
        return "ends run" in tidegate("ledger", "timeline", "story-1").out

    asyncio.run(until(ended))
    told = tidegate("ledger", "timeline", "story-1").out
    lines = tidegate("ledger", "timeline", "story-1", "--json").json
    nobody = tidegate("ledger", "timeline", "nobody")

    assert [line["kind"] for line in lines] == ["event", "task", "result", "event"]
    assert len(told.splitlines()) == 2 + 4
    assert r"name=Ada \x1b[31m[red]x[/red] new line" in told
    assert "\x1b" not in told
    assert (nobody.status, "no record with correlation id 'nobody'" in nobody.err) == (2, True)


def test_agents_are_listed_with_their_work(tidegate: Shell) -> None:
    """Workers that are there, and what became of their work."""
    (agent,) = tidegate("agent", "list", "--json").json
    table = tidegate("agent", "list").out

    assert agent["agent"] == "front-desk.greeter"
    assert agent["capabilities"] == ["greeting.write"]
    assert agent["workers"] == 1
    assert agent["results"] > 0
    assert (agent["waiting"], agent["in_work"]) == (0, 0)
    assert "front-desk.greeter" in table


def test_one_more_worker_can_be_run_by_hand(tidegate: Shell, tmp_path: Path) -> None:
    """It is counted while it runs, from whichever folder it is started; SIGTERM drains it."""
    elsewhere = Shell(tmp_path, tmp_path / "bytecode")
    log = tmp_path / "worker.log"
    process = elsewhere.start(
        "agent", "run", "greeter:agent", "--project", str(tidegate.folder), log=log
    )
    wait_for(log, '"ready"')
    (agent,) = tidegate("agent", "list", "--json").json
    process.terminate()

    assert process.wait(20) == 0, log.read_text()
    assert agent["workers"] == 2
    assert '"drained"' in log.read_text()


def test_a_second_stack_is_refused(tidegate: Shell) -> None:
    """Bad input, said at once; the first one goes on."""
    done = tidegate("up")

    assert done.status == 2
    assert "a stack runs here already" in done.err
    assert tidegate("doctor").status == 0
