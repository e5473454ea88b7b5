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

import pytest

from support import until

from .test_cli_alone import Done, Program


class Shell:
    """Runs the program as its users do, in a folder."""

    program = (sys.executable, "-m", "tidegate")

    program = (sys.executable, "-m", "tidegate")

    def __init__(self, folder: Path, bytecode: Path) -> None:
        self.folder = folder
        self._bytecode = bytecode
        self.environment = {
            **os.environ,
            "COLUMNS": "100",
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(bytecode),
        }

    def __call__(self, *arguments: str, given: bytes = b"") -> Done:
        """Run `tidegate` to its end."""
        done = subprocess.run(
            [*self.program, *arguments],
            cwd=self.folder,
            env=self.environment,
            input=given,
            capture_output=True,
            timeout=60,
        )
        said = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in said.err + said.out, said.err + said.out
        return said

    def there(self, folder: Path) -> Shell:
        """The same in another folder."""
        return Shell(folder, self._bytecode)

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Begin to run `tidegate`; all that it says goes to the log."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [*self.program, *arguments],
                cwd=self.folder,
                env=self.environment,
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


def bytecode(config: pytest.Config) -> Path:
    """Where our modules are kept compiled, so that each process need not do it for itself."""
    return Path(config.cache.mkdir("bytecode"))


@pytest.fixture(scope="module")
def tidegate(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Shell]:
    """A shell in a project whose stack runs."""
    folder = tmp_path_factory.mktemp("cli")
    outside = Shell(folder, bytecode(pytestconfig))
    assert outside("init", "hello").status == 0
    shell = outside.there(folder / "hello")
    process = shell.up(folder / "up.log")
    try:
        yield shell
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (folder / "up.log").read_text()


@pytest.fixture
def here(
    tidegate: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program in this process, in the same project: much faster."""
    monkeypatch.chdir(tidegate.folder)
    return Program(monkeypatch, capsys)


def test_publishing_prints_verdict_policy_and_record(tidegate: Shell) -> None:
    """What was admitted exits with 0."""
    done = tidegate("publish", "greeting.requested", '{"name": "Ada"}', "--id", "first")

    assert done.status == 0
    pattern = r"allow by website-requests-greetings; ledger record \d+, envelope first\n"
    assert re.fullmatch(pattern, done.out)
    assert done.err == ""


def test_publishing_the_same_id_again_says_that_it_is_a_duplicate(
    tidegate: Shell, here: Program
) -> None:
    """The first record is named, and nothing is refused."""
    first = tidegate("publish", "greeting.requested", "{}", "--id", "twice", "--json").json
    second = here("publish", "greeting.requested", "{}", "--id", "twice", "--json")

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


def test_what_policy_forbids_names_the_policy_and_exits_with_3(
    tidegate: Shell, here: Program
) -> None:
    """For people the policy stands first; for programs everything is in the error."""
    task = ("publish", "x", "{}", "--kind", "task", "--to", "greeting.write")
    for_people = tidegate(*task)
    for_programs, nobody = here.each((*task, "--json"), ("publish", "unheard.of"))

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


def test_whole_envelopes_come_from_a_file_or_from_standard_input(
    tidegate: Shell, here: Program
) -> None:
    """Any CloudEvent can be published as it is."""
    event = {"specversion": "1.0", "id": "whole", "source": "/s", "type": "greeting.requested"}
    (tidegate.folder / "event.json").write_text(json.dumps(event, indent=2))
    from_file = tidegate("publish", "--envelope", "event.json", "--json")
    from_input = here("publish", "--envelope", "-", "--json", given=json.dumps(event).encode())

    assert (from_file.json["id"], from_file.json["verdict"]) == ("whole", "allow")
    assert from_input.json["verdict"] == "duplicate"


def test_data_comes_from_a_file_or_from_standard_input(tidegate: Shell, here: Program) -> None:
    """`@FILE` and `-` stand for what is too long for a command line."""
    (tidegate.folder / "data.json").write_text('{"name":\n"File"}')
    from_file = tidegate("publish", "greeting.requested", "@data.json", "--json").json
    from_input = here("publish", "greeting.requested", "-", "--json", given=b"[1]").json
    shown = here.each(
        ("ledger", "show", str(from_file["seq"])), ("ledger", "show", str(from_input["seq"]))
    )

    assert [done.json["envelope"]["data"] for done in shown] == [{"name": "File"}, [1]]


def test_what_is_too_large_is_rejected_by_the_gateway_or_never_sent(
    tidegate: Shell, here: Program
) -> None:
    """Over the gateway's limit it is recorded as rejected; over the broker's it stays here."""
    for name, size in (("large", 300_000), ("larger", 1_100_000)):
        (tidegate.folder / name).write_text(json.dumps("x" * size))
    large, larger = here.each(
        ("publish", "greeting.requested", "@large"), ("publish", "greeting.requested", "@larger")
    )

    assert large.status == 3
    assert large.err.startswith("rejected: oversized: ")
    assert larger.status == 2
    assert "the broker takes 1048576 at most" in larger.err


def test_a_run_is_started_waited_for_listed_and_shown(tidegate: Shell, here: Program) -> None:
    """Its output and its steps can be read by people and by programs."""
    run = tidegate("run", "start", "greet-visitor", '{"name": "Bo"}', "--wait", "--json").json
    shown, shown_json, listed, listed_json = here.each(
        ("run", "show", run["id"][:8]),
        ("run", "show", run["id"], "--json"),
        ("run", "list"),
        ("run", "list", "--json"),
    )

    assert (run["status"], run["output"]) == ("succeeded", "Hello, Bo!")
    assert run["blueprint"] == "greet-visitor@1"
    (unit,) = run["steps"]["greet"]["units"]
    assert (unit["attempt"], unit["phase"]) == (1, "done")
    assert unit["provider"] == "front-desk.greeter"
    assert "Hello, Bo!" in shown.out
    assert "succeeded" in shown.out
    assert run["id"] in listed.out
    assert shown_json.json == run
    assert run in listed_json.json


def test_a_run_that_fails_exits_with_1_when_waited_for(tidegate: Shell, here: Program) -> None:
    """The reason is shown; without waiting the id of the run is all that is said."""
    failed, begun = here.each(
        ("run", "start", "greet-visitor", '{"nom": "Bo"}', "--wait"),
        ("run", "start", "greet-visitor", '{"name": "Bo"}'),
    )

    assert failed.status == 1
    assert "failed" in failed.out
    assert begun.status == 0
    assert re.match(r"started run [0-9a-f]{16}; `tidegate run show ", begun.out)


def test_runs_that_are_not_there_are_bad_input(here: Program) -> None:
    """What is registered is named; a beginning that fits several runs is refused."""
    unknown, missing, several, stranger = here.each(
        ("run", "start", "greet-nobody"),
        ("run", "show", "ffffffffffffffff"),
        ("run", "show", ""),
        ("run", "start", "greet-visitor", "--as", "outside.website"),
    )

    assert "no blueprint 'greet-nobody' is registered; registered: greet-visitor" in unknown.err
    assert "there is no run 'ffffffffffffffff'" in missing.err
    assert "runs begin with ''" in several.err
    assert [unknown.status, missing.status, several.status, stranger.status] == [2, 2, 2, 3]


def test_the_ledger_is_shown_as_lines_and_as_json(tidegate: Shell, here: Program) -> None:
    """One line a record in both forms, also where the data of a message has several."""
    tidegate("publish", "greeting.requested", '{\r\n"name": "two lines"\n}')
    people, programs, nothing, first, later = here.each(
        ("ledger", "tail", "-n", "3"),
        ("ledger", "tail", "-n", "9999", "--json"),
        ("ledger", "tail", "-n", "0"),
        ("ledger", "show", "1", "--json"),
        ("ledger", "show", "99999"),
    )
    seqs = [json.loads(line)["seq"] for line in programs.out.splitlines()]

    assert [len(line.split()[0]) > 0 for line in people.out.splitlines()] == [True] * 3
    assert seqs == list(range(1, len(seqs) + 1))
    assert nothing.out == ""
    assert json.loads(programs.out.splitlines()[0]) == first.json
    assert first.json["kind"] == "control"
    assert (later.status, "the ledger has no record 99999 yet" in later.err) == (2, True)


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


def test_what_programs_read_is_json_also_when_the_broker_goes_away(
    tidegate: Shell, tmp_path: Path
) -> None:
    """What the program has to say of itself goes to standard error; records go on afterwards."""
    records, words = tmp_path / "records", tmp_path / "words"
    with records.open("wb") as out, words.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tidegate", "ledger", "tail", "-n", "1", "-f", "--json"],
            cwd=tidegate.folder,
            env=tidegate.environment,
            stdout=out,
            stderr=err,
        )
    wait_for(records, "\n")
    stack = (tidegate.folder / ".tidegate" / "lock").read_text().strip()
    found = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", stack], capture_output=True, text=True, check=True
    )
    (broker,) = (row.split()[0] for row in found.stdout.splitlines() if "nats-server" in row)
    os.kill(int(broker), signal.SIGKILL)
    wait_for(words, "disconnected")
    tidegate("publish", "greeting.requested", '{"name": "after"}')
    wait_for(records, '"after"')
    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 130
    assert all(json.loads(line) for line in records.read_text().splitlines())


def test_what_is_piped_away_may_end_early(tidegate: Shell) -> None:
    """A reader that has seen enough is no error to tell of."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m tidegate ledger tail -n 999 --json | head -n 1"],
        cwd=tidegate.folder,
        env=tidegate.environment,
        capture_output=True,
        timeout=60,
    )

    assert json.loads(done.stdout)["seq"] == 1
    assert done.stderr == b""


def test_a_story_is_told_in_order(tidegate: Shell, here: Program, tmp_path: Path) -> None:
    """From the event to the end of the run; what others wrote cannot drive the terminal."""
    name = "Ada \x1b[31m[red]x[/red]\nnew line"
    data = json.dumps({"name": name})
    tidegate("publish", "greeting.requested", data, "--correlation", "story-1")

    def ended() -> bool:
        return "ends run" in tidegate("ledger", "timeline", "story-1").out

    asyncio.run(until(ended))
    told = tidegate("ledger", "timeline", "story-1")
    lines, nobody = here.each(
        ("ledger", "timeline", "story-1", "--json"), ("ledger", "timeline", "nobody")
    )
    shown = tidegate("ledger", "timeline", "story-1", "--html", str(tmp_path / "story.html"))

    assert [line["kind"] for line in lines.json] == ["event", "task", "result", "event"]
    assert len(told.out.splitlines()) == 2 + 4
    assert r"name=Ada \x1b[31m[red]x[/red] new line" in told.out
    assert "\x1b" not in told.out
    assert (nobody.status, "no record with correlation id 'nobody'" in nobody.err) == (2, True)
    assert shown.out.startswith("4 records in ")
    assert "answers step greet" in (tmp_path / "story.html").read_text("utf-8")


def test_agents_are_listed_with_their_work(here: Program) -> None:
    """Workers that are there, and what became of their work."""
    table, listed = here.each(("agent", "list"), ("agent", "list", "--json"))
    (agent,) = listed.json

    assert agent["agent"] == "front-desk.greeter"
    assert agent["capabilities"] == ["greeting.write"]
    assert agent["workers"] == 1
    assert agent["results"] > 0
    assert (agent["waiting"], agent["in_work"]) == (0, 0)
    assert "front-desk.greeter" in table.out


def test_one_more_worker_can_be_run_by_hand(tidegate: Shell, tmp_path: Path) -> None:
    """It is counted while it runs, from whichever folder it is started; SIGTERM drains it."""
    elsewhere = tidegate.there(tmp_path)
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


def test_a_second_stack_is_refused(tidegate: Shell, here: Program) -> None:
    """Bad input, said at once; the first one goes on."""
    done = tidegate("up")

    assert done.status == 2
    assert "a stack runs here already" in done.err
    assert here("doctor").status == 0
