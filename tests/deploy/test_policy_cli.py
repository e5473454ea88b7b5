"""`tidegate policy`: laying out, checking, trying and showing a bundle, without a stack."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from tidegate_policy.bundle import load_bundle

from .test_cli_alone import Program

SAMPLE = Path(__file__).parents[1] / "policy" / "samples" / "payments"


@pytest.fixture
def tidegate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program in a project."""
    monkeypatch.chdir(tmp_path)
    program = Program(monkeypatch, capsys)
    assert program("init", "hello").status == 0
    monkeypatch.chdir(tmp_path / "hello")
    return program


@pytest.fixture
def company(tidegate: Program, tmp_path: Path) -> Path:
    """A copy of the sample."""
    return shutil.copytree(SAMPLE, tmp_path / "company")


def test_a_new_project_passes(tidegate: Program) -> None:
    """What `init` makes is laid out, without fault, and tested."""
    fmt, check, test = tidegate.each(
        ("policy", "fmt", "--check"), ("policy", "check"), ("policy", "test")
    )

    assert (fmt.status, fmt.out) == (0, "")
    assert check.status == 0
    assert "8 rules, 10 tests: nothing to find fault with; sha256:" in check.out
    assert (test.status, test.out, test.err) == (0, "10 passed\n", "")


def test_the_sample_passes(tidegate: Program) -> None:
    """A company with typed facts, groups and every kind of obligation; each rule is reached."""
    folder = str(SAMPLE / "policy")
    fmt, check, test = tidegate.each(
        ("policy", "fmt", "--check", folder),
        ("policy", "check", folder, "--json"),
        ("policy", "test", folder, "--json"),
    )

    assert fmt.status == 0
    assert check.json["faults"] == []
    assert check.json["rules"] >= 20
    assert test.status == 0
    assert test.json["passed"] >= 40
    assert (test.json["failed"], test.json["unreached"]) == (0, [])
    assert check.json["digest"] == test.json["digest"] == load_bundle(SAMPLE / "policy").digest


def test_check_tells_all_that_is_wrong(tidegate: Program, company: Path) -> None:
    """Each fault with its file, its line and a way out; exit status 1."""
    policy = company / "policy"
    (policy / "more.cedar").write_text(
        '@id("a")\n@redcat("/x")\npermit (principal, action, resource);\n\n'
        "permit (principal, action, resource);\n"
    )
    (policy / "tests" / "more.yaml").write_text("- name: x\n  bye: a.b\n")
    (policy / "facts.yml").write_text("")

    done = tidegate("policy", "check", str(policy))
    as_json = tidegate("policy", "check", str(policy), "--json")

    assert done.status == as_json.status == 1
    lines = done.out.splitlines()
    assert lines[:3] == [
        f"{policy}/facts.yml: would be ignored; call it facts.yaml",
        f"{policy}/more.cedar:2: @redcat is unknown and would be ignored; did you mean @redact?",
        f'{policy}/more.cedar:5: a policy without @id; give it one: @id("what-it-is-for")',
    ]
    assert f"{policy}/tests/more.yaml:2: [0].bye: unknown field" in lines
    assert [fault["refused"] for fault in as_json.json["faults"]][:4] == [True] * 3 + [False]
    assert as_json.json["digest"] is None
    assert as_json.json["faults"][1] == {
        "file": f"{policy}/more.cedar",
        "line": 2,
        "what": "@redcat is unknown and would be ignored",
        "hint": "did you mean @redact?",
        "refused": True,
    }


def test_check_knows_the_project(tidegate: Program, company: Path) -> None:
    """Who is in no manifest is most likely a slip; without a project nobody can tell."""
    rule = company / "policy" / "more.cedar"
    rule.write_text('@id("a")\npermit (principal == Agent::"payments.clark", action, resource);\n')

    inside = tidegate("policy", "check", str(company / "policy"))
    (company / "tidegate.yaml").unlink()
    outside = tidegate("policy", "check", str(company / "policy"))

    assert inside.status == 1
    assert f"{rule}:2: a: there is no Agent 'payments.clark'; did you mean payments.c" in inside.out
    assert outside.status == 0
    assert "unknown names were not looked for" in outside.err


def test_a_failed_test_says_what_was_decided(tidegate: Program) -> None:
    """By which rules and why, with the line of the case; and which rules no test reaches."""
    cases = Path("policy/tests/greeting.yaml")
    cases.write_text(
        "- name: a guest may\n  by: outside.website\n  task: greeting.write\n  expect: allow\n"
        "- name: fine\n  by: tidegate.operator\n  control: run.start\n  expect: allow\n"
    )

    done = tidegate("policy", "test")
    chosen = tidegate("policy", "test", "-k", "fine")

    assert done.status == 1
    assert done.out.splitlines() == [
        f"failed {Path.cwd() / cases}:1: a guest may",
        "  expected allow, is deny",
        "  deny by only-the-coordinator-assigns-tasks, forbidden",
        "1 failed, 1 passed",
    ]
    assert done.err.startswith("note: no test reaches agents-answer, coordinator-announces-ends, ")
    assert (chosen.status, chosen.out, chosen.err) == (0, "1 passed\n", "")


def test_test_refuses_what_is_no_bundle_and_what_is_no_case(tidegate: Program) -> None:
    """Both are bad input: nothing was tried."""
    cases = Path("policy/tests/greeting.yaml")
    cases.write_text("- nam: x\n")
    wrong_case = tidegate("policy", "test")
    Path("policy/main.cedar").write_text("permit (")
    wrong_rule = tidegate("policy", "test")

    assert wrong_case.status == wrong_rule.status == 2
    assert f"{Path.cwd() / cases}:1: [0].nam: unknown field" in wrong_case.err
    assert "main.cedar:1: unexpected end of input" in wrong_rule.err


def test_fmt_lays_out_and_loses_nothing(tidegate: Program) -> None:
    """Files are written anew with their mode, links stay links; --check only tells."""
    path = Path("policy/main.cedar")
    before = path.read_text()
    elsewhere = Path("elsewhere.cedar")
    elsewhere.write_text('@id("x")permit(principal,action,resource);')
    Path("policy/link.cedar").symlink_to(elsewhere.absolute())
    path.write_text(before.replace("\n  ", " "))
    path.chmod(0o640)

    check = tidegate("policy", "fmt", "--check")
    done = tidegate("policy", "fmt")
    again = tidegate("policy", "fmt")

    both = f"{Path.cwd()}/policy/link.cedar\n{Path.cwd()}/policy/main.cedar\n"
    assert (check.status, check.out) == (1, both)
    assert "2 would be laid out anew" in check.err
    assert (done.status, done.out) == (0, both)
    assert (again.status, again.out) == (0, "")
    assert path.read_text() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert Path("policy/link.cedar").is_symlink()
    assert elsewhere.read_text() == '@id("x")\npermit (principal, action, resource);\n'


def test_fmt_tells_what_does_not_parse(tidegate: Program) -> None:
    """It is left as it is, and the others are laid out."""
    Path("policy/bad.cedar").write_text("\npermit (")
    Path("policy/good.cedar").write_text('@id("x")permit(principal,action,resource);')

    done = tidegate("policy", "fmt")

    assert done.status == 2
    assert "policy/bad.cedar:2: unexpected end of input" in done.err
    assert Path("policy/good.cedar").read_text().startswith('@id("x")\n')


def test_show_lists_rules_with_what_they_oblige_to(tidegate: Program, company: Path) -> None:
    """As a table, as JSON, as the schema for editors, as the digest."""
    folder = str(company / "policy")
    table, as_json, schema, digest = tidegate.each(
        ("policy", "show", folder),
        ("policy", "show", folder, "--json"),
        ("policy", "show", folder, "--schema"),
        ("policy", "show", folder, "--digest"),
    )

    assert [done.status for done in (table, as_json, schema, digest)] == [0] * 4
    assert "rate_limit 10/1h per team" in table.out
    assert "support.cedar:" in table.out
    bundle = load_bundle(company / "policy")
    assert digest.out == f"{bundle.digest}\n"
    assert schema.out == bundle.files["schema.cedarschema"]
    assert as_json.json["digest"] == bundle.digest
    (rule,) = [one for one in as_json.json["rules"] if one["id"] == "refund-small-amounts"]
    assert rule == {
        "id": "refund-small-amounts",
        "effect": "permit",
        "obligations": ["rate_limit:10/1h per team#refund-small-amounts"],
        "shadow": False,
        "learn": False,
        "file": "payments.cedar",
        "line": bundle.rules["refund-small-amounts"].line,
    }
    assert as_json.json["facts"]["task payments.pay"]["iban"] == {
        "type": "String",
        "at": "/to/iban",
        "required": True,
    }
    assert tidegate("policy", "show", folder, "--schema", "--digest").status == 2


@pytest.mark.parametrize("command", ["fmt", "check", "test", "show"])
def test_a_folder_that_is_not_there_is_bad_input(tidegate: Program, command: str) -> None:
    """It says what is looked for."""
    done = tidegate("policy", command, "nowhere")

    assert done.status == 2
    assert "nowhere is no folder; policies are *.cedar files in one" in done.err
