"""The command line without a stack: help, scaffold, bad input, and a bus that is away."""

from __future__ import annotations

import io
import json
import stat
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from tidegate import bus
from tidegate.cli import app, doctor, main
from tidegate.cli.init import init
from tidegate.cli.publish import json_argument
from tidegate.project import check_blueprints, load_project
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.connection import connect
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.vocabulary import OPERATOR

from .edge.kit import Authority


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed for programs."""
        return json.loads(self.out)


class Program:
    """The program in this process: as its console script calls it, in the current folder."""

    def __init__(self, patch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._output = output

    def __call__(self, *arguments: str, given: bytes = b"") -> Done:
        """Run `tidegate` to its end."""
        self._output.readouterr()
        self._patch.setattr(sys, "argv", ["tidegate", *arguments])
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        try:
            status = main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        said = self._output.readouterr()
        return Done(status, said.out, said.err)

    def each(self, *commands: tuple[str, ...]) -> list[Done]:
        """Run several commands."""
        return [self(*arguments) for arguments in commands]


@pytest.fixture
def tidegate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Program(monkeypatch, capsys)


@pytest.fixture
def project(tidegate: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in the current folder, whose stack does not run."""
    assert tidegate("init", "hello").status == 0
    monkeypatch.chdir(tmp_path / "hello")
    return tmp_path / "hello"


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, group
    context = typer.Context(group)
    for name in group.list_commands(context) if hasattr(group, "list_commands") else ():
        yield from _commands(group.get_command(context, name), (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_the_commands_are_these() -> None:
    """Nothing is missing, nothing is there by chance."""
    assert {" ".join(path) for path in COMMANDS} >= {
        "",
        "agent list",
        "agent run",
        "coordinator",
        "doctor",
        "gateway",
        "init",
        "ledger show",
        "ledger tail",
        "ledger timeline",
        "publish",
        "run list",
        "run show",
        "run start",
        "schema",
        "up",
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    """`--help` works everywhere, also in a narrow terminal, and leaves nothing unsaid."""
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "60"}, prog_name="tidegate")
    command = COMMANDS[path]

    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: {' '.join(('tidegate', *path))}")
    assert "None" not in done.output
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path} {parameter.name}"


def test_no_command_or_an_unknown_one_is_answered_with_the_usage(tidegate: Program) -> None:
    """Both are bad input; nobody is left with a traceback."""
    nothing, unknown, incomplete = tidegate(), tidegate("nonsense"), tidegate("run", "show")

    assert [nothing.status, unknown.status, incomplete.status] == [2, 2, 2]
    assert "publish" in nothing.out + nothing.err
    assert "No such command 'nonsense'" in unknown.err
    assert "Missing argument 'RUN'" in incomplete.err


def test_the_version_is_that_of_the_package(tidegate: Program) -> None:
    """In one line, to be quoted in a report."""
    done = tidegate("--version")

    assert (done.status, done.out) == (0, f"tidegate {version('tidegate')}\n")


def test_a_project_is_made_in_an_empty_folder_only(tidegate: Program, tmp_path: Path) -> None:
    """What was made is told, with what to do next; what is there is left alone."""
    made = tidegate("init", "my project")
    again, file = tidegate("init", "my project"), tidegate("init", "my project/greeter.py")

    assert made.status == 0
    assert "my project/policy/main.cedar\n" in made.out
    assert "cd 'my project' && tidegate up" in made.out
    assert (tmp_path / "my project" / ".gitignore").read_text().startswith(".tidegate/")
    assert (again.status, file.status) == (2, 2)
    assert "is there and not an empty folder; nothing was written" in again.err
    assert "PROJECT" in (tmp_path / "my project" / "tests" / "test_greeter.py").read_text()


@pytest.mark.parametrize(
    ("folder", "name"),
    [("hello", "hello"), ("123", "123"), ("true", "true"), ("Ünï [x]", "n-x"), ("¿?", "project")],
)
def test_whatever_the_folder_is_called_the_project_loads(
    tmp_path: Path, folder: str, name: str
) -> None:
    """Its name is made to fit, and is text also where YAML would read something else."""
    init(tmp_path / folder)
    project = load_project(tmp_path / folder)
    check_blueprints(project)

    assert project.settings.project == name


def test_a_project_is_never_written_over_another(tidegate: Program, tmp_path: Path) -> None:
    """Not by a way through a folder that is not there either."""
    init(tmp_path / "hello")
    settings = tmp_path / "hello" / "tidegate.yaml"
    settings.write_text("project: mine\n")

    done = tidegate("init", str(tmp_path / "hello" / "nowhere" / ".."))

    assert done.status == 2
    assert "is there and not an empty folder; nothing was written" in done.err
    assert settings.read_text() == "project: mine\n"
    assert not (tmp_path / "hello" / "nowhere").exists()


def test_what_cannot_be_written_is_an_error_of_one_line(tidegate: Program) -> None:
    """The operating system's word is passed on."""
    done = tidegate("init", "/proc/hello")

    assert done.status == 1
    assert done.err == "error /proc/hello: No such file or directory\n"


def test_formats_are_described_as_json_schema(tidegate: Program) -> None:
    """All of them are named, and each one is a document for editors."""
    names = tidegate("schema").out.split()
    schemas = [tidegate("schema", name).json for name in names]
    unknown = tidegate("schema", "nonsense")

    assert names == ["blueprint", "envelope", "manifest", "record", "settings"]
    assert {schema["$schema"] for schema in schemas} == {
        "https://json-schema.org/draft/2020-12/schema"
    }
    assert unknown.status == 2
    assert "known: blueprint, envelope" in unknown.err


def test_malformed_json_is_shown_with_a_mark_under_the_place(
    tidegate: Program, project: Path
) -> None:
    """Line, column and mark, whether it came as an argument, from a file or from standard input."""
    (project / "data.json").write_text('{\n  "name": "Ada",\n  "age": 0x1\n}\n')
    argument = tidegate("publish", "x", '{"name": "Ada')
    file = tidegate("publish", "x", "@data.json")
    envelope = tidegate("publish", "--envelope", "data.json")
    piped = tidegate("run", "start", "greet-visitor", "-", given=b"[1, 2,, 3]")

    assert argument.err == (
        "error data:1:10: malformed JSON: Unterminated string starting at\n"
        '  {"name": "Ada\n'
        "           ^\n"
    )
    assert file.err == envelope.err
    assert file.err == (
        "error data.json:3:11: malformed JSON: Expecting ',' delimiter\n"
        '    "age": 0x1\n'
        "            ^\n"
    )
    assert piped.err.startswith("error standard input:1:7: malformed JSON: Expecting value\n")
    assert {done.status for done in (argument, file, envelope, piped)} == {2}


def _expected(name: str, data: str) -> str:
    with pytest.raises(InvalidInput) as error:
        json_argument(data, name)
    return str(error.value)


def test_the_mark_is_under_the_place_in_lines_of_any_kind() -> None:
    """Long lines are cut around the place; tabs and other ends of lines do not move the mark."""
    long = '{"a": "' + "x" * 200 + '", b}'
    message, shown, mark = _expected("data", long).split("\n")
    assert (
        message == "data:1:211: malformed JSON: Expecting property name enclosed in double quotes"
    )
    assert shown[mark.index("^")] == "b"
    assert len(shown) <= 82

    _, shown, mark = _expected("data", '{\t"a":\t\u2028 b}').split("\n")
    assert shown[mark.index("^")] in "b "
    assert "\t" not in shown

    _, shown, mark = _expected("data", '{\r\n"a": b}\r\n').split("\n")
    assert shown[mark.index("^")] == "b"

    assert _expected("data", "[" * 100_000).startswith("data: malformed JSON: ")
    assert _expected("data", "").startswith("data:1:1: malformed JSON: Expecting value")


@pytest.mark.parametrize(
    ("arguments", "given", "why"),
    [
        (("x", "@nowhere.json"), b"", "nowhere.json: No such file or directory"),
        (("x", "@."), b"", ".: Is a directory"),
        (("x", "-"), b'"\xff"', "standard input: not UTF-8: invalid start byte"),
        (("x", '"\udcff"'), b"", "data: not UTF-8: surrogates not allowed"),
        (("x", "NaN"), b"", "data: JSON is malformed"),
        (("--envelope", "nowhere.json"), b"", "nowhere.json: No such file or directory"),
        (("--envelope", "-"), b'{"specversion":"2"}', "standard input: malformed: "),
        (("not a topic",), b"", "malformed: `type`: destination 'not a topic'"),
        (("x", "--kind", "wish", "--to", "y"), b"", "malformed: Invalid enum value 'wish'"),
        (("x", "--kind", "task"), b"", "malformed: a task needs `to`"),
        (("x", "--id", ""), b"", "malformed: "),
        (("x", "--id", "\udcff"), b"", "malformed: `id` holds half of a surrogate pair"),
        ((), b"", "give either a TYPE or --envelope FILE"),
        (("x", "--envelope", "-"), b"", "give either a TYPE or --envelope FILE"),
        (("x", "--as", "nobody"), b"", "principal 'nobody': write it as team.name"),
        (("x",), b"", "no stack runs with its state in "),
    ],
)
def test_bad_input_is_said_in_one_line_and_exits_with_2(
    tidegate: Program, project: Path, arguments: tuple[str, ...], given: bytes, why: str
) -> None:
    """Whatever is wrong with it, and before anything is sent."""
    done = tidegate("publish", *arguments, given=given)

    assert done.status == 2
    assert done.err.startswith(f"error {why}")
    assert done.err.count("\n") == 1
    assert done.out == ""


@pytest.mark.parametrize("command", ["erase", "privacy hold", "privacy release"])
@pytest.mark.parametrize("subject", ["", " ", "ann,bob", ","])
def test_a_command_about_a_person_is_about_one(
    tidegate: Program, project: Path, command: str, subject: str
) -> None:
    """Of several, as messages name them, nobody is told that nothing is kept."""
    done = tidegate(*command.split(), subject, "--reason", "they asked")

    assert (done.status, done.out) == (2, "")
    assert done.err == "error SUBJECT is one person; give the command once for each\n"


def test_without_a_project_every_command_says_how_to_make_one(tidegate: Program) -> None:
    """For programs too."""
    for command in ("publish x", "run list", "ledger tail", "agent list", "up", "gateway"):
        done = tidegate(*command.split())
        assert done.status == 2
        assert "`tidegate init FOLDER` makes a project" in done.err
    programs = tidegate("publish", "x", "--json")
    assert programs.status == 2
    assert programs.json["error"]["type"] == "InvalidInput"
    assert programs.json["error"]["retryable"] is False


def test_a_bus_that_is_away_exits_with_4(
    tidegate: Program, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what may help; programs learn that a retry may."""
    monkeypatch.setattr(bus, "connect", partial(connect, timeout=0.3))
    monkeypatch.setattr(doctor, "connect", partial(connect, timeout=0.3))
    state = load_project(project).state
    for principal in (OPERATOR, REGISTRAR):
        state.keyring.ensure(principal)
    state.address.write_text("nats://127.0.0.1:1\n")
    people, programs = tidegate("publish", "x"), tidegate("ledger", "tail", "--json")
    examined = tidegate("doctor", "--json")

    assert (people.status, programs.status, examined.status) == (4, 4, 1)
    assert "cannot connect to nats://127.0.0.1:1 as tidegate.operator" in people.err
    assert "`tidegate up` starts it" in people.err
    error = programs.json["error"]
    assert (error["type"], error["retryable"]) == ("NotConnected", True)
    findings = {finding["check"]: finding["status"] for finding in examined.json}
    assert findings == {
        "nats-server": "ok",
        "project": "ok",
        "policy": "failed",
        "process stack": "failed",
        "process gateway": "failed",
        "process notary": "failed",
        "process coordinator": "failed",
        "process front-desk.greeter": "failed",
        "process edge": "skipped",
        "process console": "skipped",
        "access": "failed",
        "broker": "failed",
    }


def test_the_doctor_finds_what_is_wrong_with_a_project(tidegate: Program, project: Path) -> None:
    """Without a stack it checks what there is; a fault is named with its line."""
    path = project / "blueprints" / "greet-visitor.yaml"
    healthy = tidegate("doctor", "--json")
    path.write_text(path.read_text().replace("greeting.write", "greeting.sing"))
    broken = tidegate("doctor")

    assert healthy.status == 0
    assert [finding["status"] for finding in healthy.json] == ["ok", "ok", "skipped"]
    assert broken.status == 1
    assert f"{path}:8: steps.greet.task: no agent of this project provides" in broken.out


def test_the_doctor_finds_secrets_of_webhooks_that_cannot_be_used(
    tidegate: Program, project: Path
) -> None:
    """Before the edge is started, with the way out."""
    with (project / "tidegate.yaml").open("a") as settings:
        hook = "{verify: github, secret_file: hub.secret, principal: outside.website}"
        settings.write(f"edge: {{webhooks: {{hub: {hook}}}}}\n")
    missing = tidegate("doctor", "--json")
    secret = project / "hub.secret"
    secret.touch(0o600)
    secret.write_text("one\n")
    there = tidegate("doctor", "--json")

    assert missing.status == 1
    assert [(one["check"], one["status"]) for one in missing.json][2] == ("edge", "failed")
    assert "edge.webhooks.hub.secret_file: " in missing.json[2]["detail"]
    assert there.status == 0
    assert there.json[2]["detail"] == "what its settings name can be used"


def test_the_doctor_finds_a_certificate_of_the_console_that_cannot_be_used(
    tidegate: Program, project: Path
) -> None:
    """As it does for the edge's: missing, or for others to read."""
    with (project / "tidegate.yaml").open("a") as settings:
        settings.write("console: {tls: {certificate: a.pem, key: a.key}}\n")
    missing = tidegate("doctor", "--json")
    made = Authority(project).make("CN=console", "a")
    there = tidegate("doctor", "--json")
    made[1].chmod(0o644)
    open_to_all = tidegate("doctor", "--json")

    assert [done.status for done in (missing, there, open_to_all)] == [1, 0, 1]
    assert missing.json[2]["check"] == "console"
    assert f"console.tls: {project}/a.pem: cannot be read" in missing.json[2]["detail"]
    assert f"run chmod 600 {project}/a.key" in open_to_all.json[2]["detail"]


def test_a_key_that_others_may_read_is_not_used(tidegate: Program, project: Path) -> None:
    """The message says how to mend it."""
    state = load_project(project).state
    state.keyring.ensure(OPERATOR)
    seed = state.keyring.path(OPERATOR)
    seed.chmod(seed.stat().st_mode | stat.S_IROTH)
    state.address.write_text("nats://127.0.0.1:1\n")
    done = tidegate("publish", "x", "--json")

    assert done.status == 2
    assert f"chmod 600 {seed}" in done.json["error"]["message"]


@pytest.mark.parametrize("command", ["pause", "resume", "quarantine", "kill", "release"])
def test_the_help_of_a_control_says_what_a_target_is(tidegate: Program, command: str) -> None:
    """There, not in the help of another command."""
    shown = " ".join(tidegate("control", command, "--help").out.split())

    assert "team:NAME, agent:TEAM.NAME, capability:NAME, blueprint:NAME or run:ID" in shown
