"""`tidegate control`, `approvals` and `run cancel` against a running stack."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest

from .test_cli import Shell, bytecode
from .test_cli_alone import Done, Program

POLICY = """
@id("ops-govern")
permit (principal in Team::"ops", action in Action::"control", resource);

@id("shouting-is-asked-for")
@require_approval("2 of ops.ann ops.bob within 1h")
permit (principal == Agent::"outside.website", action in Action::"event", resource)
when { context.to == "shout" };

@id("some-commands-take-two")
@require_approval("1 of ops.ann within never")
permit (principal == Agent::"tidegate.operator", action in Action::"control", resource)
when { context.to == "control.kill" };
"""
GREETER = "agent:front-desk.greeter"
DIGEST = r"sha256:[0-9a-f]{64}"


@pytest.fixture(scope="module")
def tidegate(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Shell]:
    """A shell in a project whose stack runs, with two people who govern it."""
    folder = tmp_path_factory.mktemp("control")
    outside = Shell(folder, bytecode(pytestconfig))
    assert outside("init", "hello").status == 0
    shell = outside.there(folder / "hello")
    with (shell.folder / "policy" / "main.cedar").open("a") as policy:
        policy.write(POLICY)
    process = shell.up(folder / "up.log")
    try:
        for name in ("ops.ann", "ops.bob"):
            assert shell("identity", "add", name, "--role", "operator").status == 0
        yield shell
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (folder / "up.log").read_text()


@pytest.fixture
def here(
    tidegate: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program in this process, in the same project."""
    monkeypatch.chdir(tidegate.folder)
    return Program(monkeypatch, capsys)


def said(done: Done) -> str:
    """What was printed, folded into one line."""
    assert done.status == 0, done
    return re.sub(r"\s+", " ", done.out)


def test_an_agent_is_paused_and_goes_on(here: Program) -> None:
    """Each command tells its record and what it stops; `show` tells what is stopped."""
    nothing = here("control", "show")
    paused = here("control", "pause", GREETER, "--reason", "looks [odd]")
    started = here("run", "start", "greet-visitor", '{"name": "Ada"}', "--json").json
    shown = here("control", "show", "--json").json
    table = here("control", "show")
    while not shown[0]["held"]:
        shown = here("control", "show", "--json").json
    resumed = here("control", "resume", GREETER, "--as", "ops.ann", "--json").json

    assert "nothing is stopped" in said(nothing)
    assert re.search(
        rf"paused {GREETER} by operators-command; ledger record \d+ front-desk.greeter gets",
        said(paused),
    )
    assert "looks [odd]" in said(table)
    (row,) = shown
    assert (row["target"], row["level"], row["by"]) == (GREETER, "paused", "tidegate.operator")
    assert (row["reason"], row["held"]) == ("looks [odd]", 1)
    assert [(d["agent"], d["paused"]) for d in row["deliveries"]] == [("front-desk.greeter", True)]
    assert (resumed["released"], resumed["held"], resumed["known"]) == (1, 0, True)
    assert [d["paused"] for d in resumed["deliveries"]] == [False]
    assert here("control", "show", "--json").json == []
    while here("run", "show", started["id"], "--json").json["status"] == "running":
        pass
    assert here("run", "show", started["id"], "--json").json["status"] == "succeeded"


def test_what_cannot_be_followed_is_denied_with_the_reason(here: Program) -> None:
    """By the gateway, as a record; what is no target is not even sent."""
    denied, people, target, own = here.each(
        ("control", "resume", GREETER, "--json"),
        ("control", "release", "bus"),
        ("control", "pause", "greeter"),
        ("control", "kill", "agent:tidegate.gateway"),
    )

    assert (denied.status, people.status, target.status, own.status) == (3, 3, 2, 2)
    error = denied.json["error"]
    assert (error["reason"], error["detail"]) == ("invalid_command", f"{GREETER} is not stopped")
    assert people.err.startswith("denied: invalid_command: bus is not stopped (ledger record")
    assert "write bus, team:NAME, agent:TEAM.NAME" in target.err
    assert "the bus's own parts cannot be controlled" in own.err


def test_whom_nobody_knows_is_said(here: Program) -> None:
    """A slip of the pen stops nothing; the one who made it should know."""
    for target in (
        "agent:front-desk.greter",
        "team:nobody",
        "capability:greeting.wrte",
        "blueprint:greet-visitr",
    ):
        done = here("control", "pause", target)
        assert (done.status, f"nothing is known of {target}" in done.err) == (0, True)
        assert "it holds once there is something" in done.err
        back = here("control", "resume", target)
        assert (back.status, "it holds" in back.err) == (0, False)
    slip = here("control", "pause", "agent:front-desk.greter")
    assert f"did you mean {GREETER}?" in slip.err
    assert here("control", "resume", "agent:front-desk.greter").status == 0


def test_a_command_that_takes_two_waits_and_tells_how_to_go_on(here: Program) -> None:
    """It is in force once somebody else agrees, from its own record."""
    waits = here("control", "kill", GREETER)
    for_programs = here("control", "kill", "team:front-desk", "--json")
    first, second = here("approvals", "list", "--json").json
    granted = here("approvals", "grant", str(first["record"]), "--as", "ops.ann")
    killed = here("control", "show", "--json").json
    refused = here("approvals", "refuse", str(second["record"]), "--as", "ops.ann", "--json")
    released = here("control", "release", GREETER)

    assert (waits.status, for_programs.status) == (1, 1)
    assert re.match(
        rf"held: record {first['record']} waits for approval: 1 of ops.ann within never; "
        rf"`tidegate approvals grant {first['record']} --as PRINCIPAL` gives it",
        waits.err,
    )
    error = for_programs.json["error"]
    assert (error["type"], error["seq"]) == ("Held", second["record"])
    assert f"granted record {first['record']}, control control.kill from" in said(granted)
    assert re.search(r"allow as record \d+: approved", said(granted))
    assert [(row["target"], row["level"]) for row in killed] == [(GREETER, "killed")]
    assert refused.json["end"]["verdict"] == "deny"
    assert released.status == 0


def test_two_agree_to_what_is_shown(here: Program) -> None:
    """List, show, grant: with the digests that are bound, and who is still asked."""
    held = here("publish", "shout", '"[hello]"', "--as", "outside.website")
    (row,) = here("approvals", "list", "--json").json
    seq = str(row["record"])
    table, shown = here.each(("approvals", "list"), ("approvals", "show", seq))
    whole = here("approvals", "show", seq, "--json").json
    own = here("approvals", "grant", seq)
    one = here("approvals", "grant", seq, "--as", "ops.ann", "--reason", "why not")
    (now,) = here("approvals", "list", "--json").json
    twice = here("approvals", "grant", seq, "--as", "ops.ann")
    two = here("approvals", "grant", seq, "--as", "ops.bob", "--json").json
    late, gone = here.each(("approvals", "grant", seq), ("approvals", "show", seq))

    assert f"`tidegate approvals grant {seq} --as PRINCIPAL` gives it" in said(held)
    assert (row["by"], row["kind"], row["to"]) == ("outside.website", "event", "shout")
    assert "outside.website │ event shout │ 2 of ops.ann ops.bob" in said(table)
    assert "asks 2 of ops.ann ops.bob within 1h (shouting-is-asked-for)" in said(shown)
    assert re.search(rf"message {DIGEST} policies {DIGEST}", said(shown))
    assert "[hello]" in shown.out
    assert (whole["envelope"]["data"], whole["agreed"]) == ("[hello]", [])
    assert (own.status, "none of those who are asked" in own.err) == (3, True)
    assert "it waits on: 2 of ops.ann ops.bob within 1h; agreed so far: ops.ann" in said(one)
    assert f"message {row['message']} policies {row['bundle']}" in said(one)
    assert now["agreed"] == ["ops.ann"]
    assert (twice.status, "ops.ann has agreed already" in twice.err) == (3, True)
    assert (two["end"]["verdict"], two["asked"]) == ("allow", [])
    assert (late.status, gone.status) == (2, 2)
    assert "nothing waits for an approval" in said(here("approvals", "list"))


def test_a_run_is_cancelled_once(here: Program) -> None:
    """It ends where it is; one that has ended already cannot be."""
    assert here("control", "pause", GREETER).status == 0
    started = here("run", "start", "greet-visitor", '{"name": "Bo"}', "--json").json
    cancelled = here("run", "cancel", started["id"][:12], "--reason", "a mistake")
    again = here("run", "cancel", started["id"], "--json")
    nobody, denied = here.each(
        ("run", "cancel", "ffffffffffff"),
        ("run", "cancel", started["id"], "--as", "outside.website"),
    )
    waiting = here("control", "show", "--json").json
    while waiting[0]["held"]:  # what was held for it ends with it
        waiting = here("control", "show", "--json").json
    assert here("control", "resume", GREETER).status == 0

    assert said(cancelled) == f"cancelled run {started['id']}: a mistake "
    assert (again.status, again.json["status"]) == (0, "cancelled")
    assert (nobody.status, "there is no run" in nobody.err) == (2, True)
    assert denied.status == 0  # nothing to do, nothing sent


def test_the_doctor_knows_what_is_stopped(here: Program) -> None:
    """Consumers that stand still are no fault where somebody wants it so."""
    assert here("control", "quarantine", "team:front-desk").status == 0
    done = here("doctor", "--json")
    assert here("control", "release", "team:front-desk").status == 0

    found = {finding["check"]: finding for finding in done.json}
    assert found["controls"] == {
        "check": "controls",
        "status": "ok",
        "detail": "team:front-desk quarantined",
    }
    assert found["topology"]["status"] == "ok"
