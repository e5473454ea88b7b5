"""`tidegate identity` without a stack: what is written, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from tidegate.cli import in_force
from tidegate.cli.console import out
from tidegate.identities import ensure_keys
from tidegate.project import Project, load_project
from tidegate.reconciler import note
from tidegate.tokens import Tokens
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_schemas.clock import parse_rfc3339

from .test_cli_alone import Program, project, tidegate

__all__ = ["project", "tidegate"]  # fixtures

GREETER = "front-desk.greeter"
SEED = new_seed()
KEY = public_key(SEED)
SECOND = 1_000_000_000


@pytest.fixture
def here(project: Path) -> Project:
    """The project in the current folder, with keys as after a first start."""
    found = load_project(project)
    ensure_keys(found, time.time_ns())
    return found


def holders(folder: Path, text: str) -> list[str]:
    """The files below a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if text.encode() in path.read_bytes())


REFUSED = {
    "no name": ((), "Missing argument"),
    "one word": (("ada",), "write it as team.name"),
    "path": (("../x.y", "--role", "publisher"), "1 to 63 of a-z"),
    "slash": (("a.b/../c", "--role", "publisher"), "1 to 63 of a-z"),
    "wildcard": (("a.*", "--role", "publisher"), "1 to 63 of a-z"),
    "look-alike": (("\u0430.b", "--role", "publisher"), "1 to 63 of a-z"),
    "no utf-8": (("\udcff.b", "--role", "publisher"), "1 to 63 of a-z"),
    "upper case": (("A.b", "--role", "publisher"), "1 to 63 of a-z"),
    "long": ((f"a.{'b' * 64}", "--role", "publisher"), "1 to 63 of a-z"),
    "empty": (("", "--role", "publisher"), "write it as team.name"),
    "built-in": (("tidegate.x", "--role", "operator"), "the team tidegate is the bus's own"),
    "built-in that is there": (("tidegate.gateway",), "the team tidegate is the bus's own"),
    "no role": (("a.b",), "say what a.b is: --role agent|publisher|operator"),
    "role not given": (("a.b", "--role", "gateway"), "'gateway' is not one of 'agent'"),
    "agent without work": (("a.b", "--role", "agent"), "--takes CAPABILITY, --hears TOPIC"),
    "publisher with work": (("a.b", "--role", "publisher", "--hears", "x"), "only agents take"),
    "taken": (("a.b", "--takes", "greeting.write"), f"is taken by {GREETER} already"),
    "no capability": (("a.b", "--takes", "a b"), "destination 'a b'"),
    "all events": (("a.b", "--hears", ">"), "destination '>'"),
    "there": ((GREETER,), f"{GREETER} is there already; `tidegate identity rotate`"),
    "declared": ((GREETER, "--role", "publisher"), "declared in the project's files as agent"),
    "declared work": ((GREETER, "--takes", "x"), "declared in the project's files as agent"),
    "past": (("a.b", "--role", "publisher", "--expires", "2020-01-01T00:00:00Z"), "is over"),
    "at once": (("a.b", "--role", "publisher", "--expires", "0s"), "0s is over already"),
    "no time": (("a.b", "--role", "publisher", "--expires", "soon"), "write 30m, 12h, 30d, or 20"),
    "no unit": (("a.b", "--role", "publisher", "--expires", "5y"), "write 30m, 12h, 30d, or 20"),
    "for ever": (("a.b", "--role", "publisher", "--expires", "99999999d"), "at most 36500d"),
    "key": (("a.b", "--role", "publisher", "--key", "U123"), "'U123' is no public key of a user"),
    "key of nothing": (("a.b", "--role", "publisher", "--key", ""), "is no public key of a user"),
    "key and print": (
        ("a.b", "--role", "publisher", "--key", KEY, "--print"),
        "--key and --print: a key that somebody else keeps has no seed here",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_added_is_said_and_nothing_is_written(
    tidegate: Program, here: Project, what: str
) -> None:
    """Exit status 2, in one place; no identity, no key, no file."""
    arguments, expected = REFUSED[what]
    version, files = here.state.register.version(), sorted(here.state.folder.rglob("*"))
    done = tidegate("identity", "add", *arguments)

    assert done.status == 2
    assert expected in " ".join(done.err.split())
    assert done.out == ""
    assert here.state.register.version() == version
    assert sorted(here.state.folder.rglob("*")) == files


@pytest.mark.parametrize("command", [("add", "a.b", "--role", "publisher"), ("rotate", GREETER)])
@pytest.mark.parametrize("spelling", [SEED, SEED.lower(), f" {SEED}", f"seed:{SEED}"])
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_seed_given_as_a_key_is_not_repeated(
    tidegate: Program, here: Project, command: tuple[str, ...], spelling: str, as_json: tuple[str]
) -> None:
    """It is said that it may be private; nothing is written."""
    version = here.state.register.version()
    done = tidegate("identity", *command, "--key", spelling, *as_json)

    assert done.status == 2
    assert "this, which may be private, is no public key" in done.out + done.err
    assert SEED[2:20].lower() not in (done.out + done.err).lower()
    assert here.state.register.version() == version
    assert holders(here.root, SEED) == []


def test_a_key_belongs_to_one_principal_for_ever(tidegate: Program, here: Project) -> None:
    """Also one that was replaced or revoked, and also to who had it."""
    assert tidegate("identity", "add", "a.b", "--role", "publisher", "--key", KEY).status == 0
    other = tidegate("identity", "add", "c.d", "--role", "publisher", "--key", KEY)
    assert (other.status, "--key: it is, or was, the key of a.b" in other.err) == (2, True)
    assert tidegate("identity", "rotate", "c.d", "--key", KEY).status == 2
    assert tidegate("identity", "revoke", "a.b").status == 0
    again = tidegate("identity", "add", "a.b", "--role", "publisher", "--key", KEY)
    assert (again.status, "it is, or was, the key of a.b" in again.err) == (2, True)
    assert tidegate("identity", "add", "a.b", "--role", "publisher").status == 0
    assert len(here.state.register.read()["a.b"].keys) == 2


def test_a_token_does_not_outlive_the_revocation_of_its_principal(
    tidegate: Program, here: Project
) -> None:
    """Who was locked out does not come in again with it when the principal does; others stay."""
    for name in ("a.b", "c.d"):
        assert tidegate("identity", "add", name, "--role", "publisher").status == 0
        assert tidegate("token", "add", name).status == 0
    assert tidegate("identity", "revoke", "a.b").status == 0
    assert tidegate("identity", "add", "a.b", "--role", "publisher").status == 0

    assert [token.principal for token in Tokens(here.state.tokens).read()] == ["c.d"]


def test_everything_that_is_said_of_somebody_is_written(tidegate: Program, here: Project) -> None:
    """Work is taken once however often it is named; the seed is in its file, and not shown."""
    began = time.time_ns()
    done = tidegate(
        *("identity", "add", "a.b", "--takes", "x", "--takes", "y", "--takes", "x"),
        *("--hears", "x", "--expires", "1.5h", "--json"),
    )
    found = here.state.register.read()["a.b"]

    assert (found.role, found.capabilities, found.subscribes) == ("agent", ("x", "y"), ("x",))
    assert found.expires
    assert 0 <= parse_rfc3339(found.expires) - began - 5400 * SECOND < 60 * SECOND
    shown = done.json
    assert {k: shown[k] for k in ("principal", "role", "state", "from", "in_force")} == {
        "principal": "a.b",
        "role": "agent",
        "state": "active",
        "from": "the register",
        "in_force": False,
    }
    assert shown["keys"] == [found.keys[0].public]
    seed = here.state.keyring.seed(found.who)
    assert public_key(seed) == found.keys[0].public
    assert seed not in done.out + done.err
    assert holders(here.root, seed) == ["a.b.nk"]


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_printed_seed_is_shown_once_and_kept_nowhere(
    tidegate: Program, here: Project, as_json: tuple[str, ...]
) -> None:
    """On stdout, alone or in the document; no other command knows it."""
    added = tidegate("identity", "add", "a.b", "--role", "publisher", "--print", *as_json)
    first = added.json["seed"] if as_json else added.out.strip()
    rotated = tidegate("identity", "rotate", "a.b", "--print", *as_json)
    second = rotated.json["seed"] if as_json else rotated.out.strip()

    assert public_key(first) != public_key(second)
    assert [key.public for key in here.state.register.read()["a.b"].keys] == [
        *map(public_key, (first, second))
    ]
    assert first not in added.err
    for command in (("list",), ("show", "a.b"), ("show", "a.b", "--json"), ("list", "--json")):
        done = tidegate("identity", *command)
        assert done.status == 0
        assert first not in done.out + done.err
        assert second not in done.out + done.err
    assert holders(here.root, first) == holders(here.root, second) == []
    assert "its seed is elsewhere" in tidegate("identity", "show", "a.b").out


def test_what_is_not_there_cannot_be_changed(tidegate: Program, here: Project) -> None:
    """Unknown names, revoked ones, those that come with the first start; each with what helps."""
    tidegate("identity", "add", "a.b", "--role", "publisher")
    assert tidegate("identity", "revoke", "a.b", "--reason", "left").status == 0
    said = {
        ("rotate", "no.body"): "there is no no.body; `tidegate identity list` tells",
        ("revoke", "no.body"): "there is no no.body",
        ("show", "no.body"): "there is no no.body",
        ("show", "nobody"): "write it as team.name",
        ("show", "../keys.x"): "1 to 63 of a-z",
        ("revoke", "a.b"): "a.b is revoked already",
        ("rotate", "a.b"): "a.b is revoked; `tidegate identity add` lets it in",
        ("revoke", "tidegate.gateway"): "the bus does not work without tidegate.gateway",
        ("rotate", "tidegate.gateway", "--print"): "the stack itself needs the seed",
        ("rotate", "tidegate.warden", "--key", KEY): "the stack itself needs the seed",
        ("rotate", GREETER, "--overlap", "x"): "--overlap: 'x' is not a duration",
        ("rotate", GREETER, "--overlap", "-1s"): "--overlap: '-1s' is not a duration",
        ("revoke", GREETER, "--reason", "a\nb"): "--reason: one line of text",
        ("revoke", GREETER, "--reason", "\udcff"): "--reason: one line of text",
    }
    version = here.state.register.version()
    for arguments, expected in said.items():
        done = tidegate("identity", *arguments)
        assert (done.status, expected in done.err) == (2, True), (arguments, done)
    assert here.state.register.version() == version


def test_before_the_first_start_commands_say_what_is_missing(
    tidegate: Program, project: Path
) -> None:
    """A declared agent is not unknown, and the list says why it is short; nothing is made."""
    listed, shown = tidegate("identity", "list"), tidegate("identity", "show", GREETER)

    assert "not there yet: 11 that the project and the bus need; `tidegate up`" in listed.err
    assert (shown.status, f"{GREETER} is not there yet; `tidegate up`" in shown.err) == (2, True)
    assert tidegate("identity", "list", "--json").json == []
    assert not (project / ".tidegate").exists()
    assert tidegate("identity", "rotate", GREETER).status == 0
    assert tidegate("identity", "list").err == ""


def test_the_capability_of_who_is_not_there_any_more_is_free(
    tidegate: Program, here: Project
) -> None:
    """Expired or revoked; coming back, they do not take it from who has it now."""
    for name in ("a.one", "a.two"):
        assert tidegate("identity", "add", name, "--takes", name).status == 0
    tidegate("identity", "revoke", "a.one")
    with here.state.register.edit() as found:
        since = found["a.two"].keys[0].since
        found["a.two"] = msgspec.structs.replace(found["a.two"], expires=since)
    assert tidegate("identity", "add", "b.x", "--takes", "a.one", "--takes", "a.two").status == 0
    assert "a.two is taken by b.x" in tidegate("identity", "add", "a.two", "--takes", "a.two").err
    assert tidegate("identity", "add", "a.two", "--takes", "z").status == 0
    assert here.state.register.read()["a.two"].expires is None


def test_who_is_not_declared_any_more_may_be_added(tidegate: Program, here: Project) -> None:
    """As something else, with a key of its own; its old one is not good again."""
    old = here.state.register.read()[GREETER].keys[0].public
    (here.root / "agents" / "greeter.yaml").unlink()
    assert "there is no" in tidegate("identity", "rotate", GREETER).err
    done = tidegate("identity", "add", GREETER, "--role", "publisher", "--json")

    assert done.status == 0
    assert done.json["from"] == "the register"
    assert old not in done.json["keys"]


def test_tables_fit_into_80_columns(
    tidegate: Program, here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each identity of a usual project on one line, with state, key and origin."""
    tidegate("identity", "add", "reports.writer", "--hears", "run.finished")
    tidegate("identity", "revoke", "reports.writer")
    monkeypatch.setattr(out, "_width", 80)
    monkeypatch.setattr(out, "soft_wrap", False)
    lines = tidegate("identity", "list").out.splitlines()

    assert max(map(len, lines)) <= 80
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    assert len(rows) == 12
    assert rows[2] == ["reports.writer", "agent", "revoked", "-", "-", "register"]
    assert rows[0][::2] == [GREETER, "active", "-"]


def test_what_an_identity_may_do_is_shown_in_words(tidegate: Program, here: Project) -> None:
    """And nothing of one that the broker does not know."""
    shown, data = (
        tidegate("identity", "show", GREETER),
        tidegate("identity", "show", GREETER, "--json"),
    )
    assert "takes greeting.write" in shown.out
    assert "- submit as itself (in.front-desk.greeter)" in shown.out
    assert data.json["rights"][0].startswith("connect to an account of its own")
    assert data.json["key_file"].endswith("keys/front-desk.greeter.nk")
    tidegate("identity", "revoke", GREETER, "--reason", "[red]left[/red]")
    gone = tidegate("identity", "show", GREETER)

    assert "because [red]left[/red]\n" in gone.out
    assert gone.out.endswith("The broker does not know it.\n")
    assert tidegate("identity", "show", GREETER, "--json").json["rights"] == []


@contextlib.contextmanager
def stuck(here: Project) -> Generator[None]:
    """A stack that runs and applies nothing."""
    here.state.address.write_text("nats://127.0.0.1:1\n")
    with (here.state.folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_stack_that_does_not_follow_is_said_and_no_seed_is_lost(
    tidegate: Program, here: Project, monkeypatch: pytest.MonkeyPatch, as_json: tuple[str, ...]
) -> None:
    """Exit status 4, in one document: it is written, and will be in force."""
    monkeypatch.setattr(in_force, "_APPLY_SECONDS", 0.0)
    with stuck(here):
        done = tidegate("identity", "add", "a.b", "--role", "publisher", "--print", *as_json)
    seed = done.json["seed"] if as_json else done.out.strip()

    assert done.status == 4
    assert here.state.register.read()["a.b"].keys[0].public == public_key(seed)
    said = done.json["error"]["message"] if as_json else done.err
    assert "the running stack has not applied it" in " ".join(said.split())
    if as_json:
        assert (done.json["in_force"], done.json["error"]["retryable"]) == (False, True)


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_ctrl_c_while_waiting_says_what_was_done(
    tidegate: Program, here: Project, monkeypatch: pytest.MonkeyPatch, as_json: tuple[str, ...]
) -> None:
    """Exit status 130; the change stays, and the seed was shown."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tidegate.cli.in_force.time.sleep", interrupt)
    with stuck(here):
        done = tidegate("identity", "add", "a.b", "--role", "publisher", "--print", *as_json)
    seed = done.json["seed"] if as_json else done.out.strip()

    assert done.status == 130
    assert "written; `tidegate identity list` tells what is in force" in done.out + done.err
    assert here.state.register.read()["a.b"].keys[0].public == public_key(seed)


def test_nobody_waits_for_a_stack_that_was_killed(tidegate: Program, here: Project) -> None:
    """Its address is still there, its lock is not held."""
    with stuck(here):
        pass
    note(here.state, "0", {})
    done = tidegate("identity", "revoke", GREETER)

    assert done.status == 0
    assert "in force when the stack starts" in done.err


def test_a_change_that_was_applied_with_a_later_one_is_in_force(
    tidegate: Program, here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes the register at the same time keeps nobody waiting."""

    def others(_: float) -> None:
        with here.state.register.edit() as found:
            found[GREETER] = msgspec.structs.replace(found[GREETER], reason=str(time.time_ns()))
        note(here.state, here.state.register.version(), {})
        with here.state.register.edit() as found:
            found[GREETER] = msgspec.structs.replace(found[GREETER], reason=str(time.time_ns()))

    monkeypatch.setattr("tidegate.cli.in_force.time.sleep", others)
    with stuck(here):
        done = tidegate("identity", "add", "a.b", "--role", "publisher")
    assert (done.status, "added a.b; in force\n" in done.err) == (0, True)


def test_a_damaged_register_is_said_by_every_command(tidegate: Program, here: Project) -> None:
    """With path and reason and without a traceback; for programs as JSON."""
    path, text = here.state.register.path, '{"identities": [{"principal": "a.b"}]}'
    path.write_text(text)
    commands = [(name, "a.b") for name in ("show", "revoke", "rotate")]
    for command in (("list",), *commands, ("add", "a.b", "--role", "publisher")):
        done, programs = tidegate("identity", *command), tidegate("identity", *command, "--json")
        assert (done.status, programs.status) == (2, 2)
        assert f"{path}: Object missing required field" in " ".join(done.err.split())
        assert str(path) in programs.json["error"]["message"]
    assert path.read_text() == text


@pytest.mark.parametrize("command", ["", "add", "list", "show", "rotate", "revoke"])
def test_help_says_what_every_option_is_for(
    tidegate: Program, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """At 80 columns; roles that nobody is given are not offered."""
    monkeypatch.setitem(os.environ, "COLUMNS", "80")
    done = tidegate("identity", *filter(None, [command]), "--help")

    assert done.status == 0
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "gateway" not in done.out
    for number, line in enumerate(lines):
        if line.startswith("  --"):
            assert "  " in line.strip() or lines[number + 1].startswith("      "), line
