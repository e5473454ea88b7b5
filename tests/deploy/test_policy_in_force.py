"""`tidegate policy activate`, `rollback`, `history`, and what `up` does with new policies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tidegate.cli.init import init
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate.testing import running_project

from .test_cli import Shell, here, tidegate
from .test_cli_alone import Program

__all__ = ["here", "tidegate"]  # fixtures

NO_VISITS = '@id("no-visits") forbid (principal, action in Action::"event", resource);\n'


@pytest.fixture
def stricter(tidegate: Shell, tmp_path: Path) -> Path:
    """A folder with the project's policies, and one that forbids all events."""
    for path in (tidegate.folder / "policy").glob("*.cedar"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "strict.cedar").write_text(NO_VISITS)
    return tmp_path


def digest(here: Program, folder: Path | str) -> str:
    """Of a bundle."""
    return here("policy", "show", "--digest", str(folder)).out.strip()


def test_policies_come_into_force_and_go_back_while_the_stack_runs(
    here: Program, stricter: Path
) -> None:
    """From the record on that says so, and the ledger has every one that ever was."""
    before = digest(here, "policy")
    strict = digest(here, stricter)
    done = here("policy", "activate", str(stricter), "--reason", "an incident", "--json")
    assert (done.status, done.json["verdict"], done.json["bundle"]) == (0, "allow", strict)
    refused = here("publish", "greeting.requested", "{}")
    assert (refused.status, "no-visits" in refused.err) == (3, True)

    again = here("policy", "activate", str(stricter))
    assert (again.status, "is in force already" in again.err) == (2, True)

    back = here("policy", "rollback")
    assert (back.status, back.out.startswith(before)) == (0, True)
    assert here("publish", "greeting.requested", "{}").status == 0
    assert here("policy", "rollback", strict[7:19]).status == 0
    assert here("policy", "rollback", before).status == 0

    lines = here("policy", "history", "--json").json
    in_force = [line["bundle"] for line in lines if line["what"] == "in force"]
    assert in_force[-4:] == [strict, before, strict, before]
    assert [line["bundle"] for line in lines if line["what"] == "proposed"].count(strict) == 1
    assert "an incident" in here("policy", "history").out


@pytest.mark.parametrize(
    ("command", "bundle", "why"),
    [
        ("rollback", "00000000", "the ledger has no bundle 00000000"),
        ("activate", "00000000", "the ledger has no bundle 00000000"),
        ("activate", "no-such-folder", "is neither a folder nor the digest of a bundle"),
    ],
)
def test_what_the_ledger_does_not_have_cannot_be_activated(
    here: Program, command: str, bundle: str, why: str
) -> None:
    """It is bad input, and nothing changes."""
    done = here("policy", command, bundle)
    assert (done.status, why in done.err) == (2, True)


def test_who_may_not_put_policies_in_force_does_not(here: Program, stricter: Path) -> None:
    """The website's key is at hand, and policy says no."""
    done = here("policy", "activate", str(stricter), "--as", "outside.website")
    assert (done.status, "not_permitted" in done.err) == (3, True)
    assert here("publish", "greeting.requested", "{}").status == 0


def test_a_bundle_that_locks_out_is_refused(here: Program, tmp_path: Path) -> None:
    """The receipt says what would go wrong, and the policies before stay in force."""
    (tmp_path / "all.cedar").write_text(
        '@id("a") permit (principal, action in Action::"task", resource);'
    )
    done = here("policy", "activate", str(tmp_path))
    assert (done.status, "nobody could go back" in done.err) == (3, True)
    assert here("publish", "greeting.requested", "{}").status == 0


def test_an_activation_that_somebody_must_agree_to_is_not_in_force(
    here: Program, tidegate: Shell, tmp_path: Path
) -> None:
    """A program that goes on only with policies in force sees it by the exit status."""
    for path in (tidegate.folder / "policy").glob("*.cedar"):
        (tmp_path / path.name).write_text(path.read_text())
    asked = tmp_path / "asked.cedar"
    asked.write_text(
        '@id("two-decide") @require_approval("1 of front-desk.greeter") permit (principal,'
        ' action in Action::"control", resource == Command::"policy.activate")\n'
        'when { context.to == "policy.activate" };'
        '@id("answers") permit (principal == Agent::"front-desk.greeter",'
        ' action in Action::"control", resource == Command::"approval.grant");'
    )
    assert here("policy", "activate", str(tmp_path)).status == 0
    waits = here("policy", "rollback")
    found = here("policy", "rollback", "--json")
    seq = str(found.json["error"]["seq"])
    assert (waits.status, found.status) == (1, 1)
    assert "waits for approval: 1 of front-desk.greeter" in waits.err
    assert here("approvals", "grant", seq, "--as", "front-desk.greeter").status == 0
    last = here("policy", "history", "--json").json[-1]
    assert (last["what"], last["record"] > int(seq)) == ("in force", True)
    assert last["bundle"] != digest(here, tmp_path)


def test_a_report_goes_with_the_activation(here: Program, stricter: Path, tmp_path: Path) -> None:
    """What `diff` wrote is taken as it is, and not once it was changed."""
    file = tmp_path / "report.json"
    assert here("policy", "diff", "--bundle", str(stricter), "--report", str(file)).status == 0
    report = json.loads(file.read_text())
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps({**report, "records": report["records"] + 1}))
    for path, why in ((changed, "it was changed"), (tmp_path / "none", "No such file")):
        done = here("policy", "activate", str(stricter), "--report", str(path))
        assert (done.status, why in done.err) == (2, True)
    assert here("policy", "activate", str(stricter), "--report", str(file)).status == 0
    other = here("policy", "rollback", "--report", str(file))
    assert (other.status, "its report is about another change" in other.err) == (3, True)
    back = tmp_path / "back.json"
    assert here("policy", "diff", "--bundle", report["from"], "--report", str(back)).status == 0
    assert here("policy", "rollback", "--report", str(back)).status == 0


async def test_a_stack_says_it_when_changed_policies_do_not_come_into_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here they must come with a report; the stack runs under those before."""
    folder = tmp_path / "hello"
    init(folder)
    async with running_project(folder, folder / ".tidegate"):
        pass
    with (folder / "tidegate.yaml").open("a") as settings:
        settings.write("gateway: { policy_report: true }\n")
    (folder / "policy" / "strict.cedar").write_text(NO_VISITS)
    lines: list[str] = []
    monkeypatch.chdir(folder)
    here = Program(monkeypatch, capsys)
    async with Stack(load_project(folder), on_line=lambda _, line: lines.append(line)):
        published = await asyncio.to_thread(here, "publish", "greeting.requested", "{}")
        doctor = await asyncio.to_thread(here, "doctor", "--json")
    (policy,) = (finding for finding in doctor.json if finding["check"] == "policy")

    assert published.status == 0
    assert (policy["status"], "is in force" in policy["detail"]) == ("ok", True)
    said = "\n".join(lines)
    assert "are not in force; those before still are" in said
    assert "demand a report" in said
