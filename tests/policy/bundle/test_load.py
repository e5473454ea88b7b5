"""Bundles: loaded as a whole or refused with every reason, and named by what is in them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from policy.kit import PERMIT, loaded, write
from tidegate_policy.bundle import Bundle, Question, load_bundle
from tidegate_policy.roster import BUILT_IN
from tidegate_schemas.errors import InvalidPolicy
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.subjects import Kind

FORBID = '@id("no-secrets") forbid (principal, action, resource == Topic::"secret");'


def problems(folder: Path) -> list[str]:
    """Why a bundle does not load; one line each."""
    with pytest.raises(InvalidPolicy) as caught:
        load_bundle(folder)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="coreutils are not everywhere")
def test_the_digest_is_what_sha256sum_prints(tmp_path: Path) -> None:
    """Anybody can recompute the digest from the files and the schema with two shell commands."""
    files = {"b.cedar": PERMIT, "a.cedar": FORBID, "A.cedar": "// nothing", "é.cedar": ""}
    bundle = load_bundle(write(tmp_path, files))
    (tmp_path / "schema.cedarschema").write_text(bundle.files["schema.cedarschema"])
    names = sorted(path.name for path in tmp_path.iterdir())

    listing = subprocess.run(["sha256sum", *names], cwd=tmp_path, check=True, capture_output=True)

    assert bundle.digest == f"sha256:{hashlib.sha256(listing.stdout).hexdigest()}"


def test_the_digest_depends_on_every_file_and_on_nothing_else(tmp_path: Path) -> None:
    """Two folders with the same files have one digest; any change of bytes or names another."""
    files = {"a.cedar": PERMIT, "b.cedar": FORBID}
    digests = Counter(
        load_bundle(write(tmp_path / name, contents)).digest
        for name, contents in [
            ("same", files),
            ("again", files),
            ("comment in the first", {**files, "a.cedar": f"{PERMIT} // x"}),
            ("newline in the second", {**files, "b.cedar": f"{FORBID}\n"}),
            ("other name", {"a.cedar": PERMIT, "c.cedar": FORBID}),
            ("swapped", {"a.cedar": FORBID, "b.cedar": PERMIT}),
            ("one file more", {**files, "c.cedar": ""}),
        ]
    )
    (tmp_path / "same" / "README").write_text("not a part of it")
    again = load_bundle(tmp_path / "same").digest
    (tmp_path / "same" / "schema.cedarschema").write_text("of yesterday, for an editor")
    with_a_schema = load_bundle(tmp_path / "same").digest
    (tmp_path / "same" / "facts.yaml").write_text("event: { x: { n: Long } }")
    with_facts = load_bundle(tmp_path / "same").digest

    assert sorted(digests.values()) == [1, 1, 1, 1, 1, 2]
    assert digests[again] == 2
    assert digests[with_a_schema] == 2
    assert with_facts not in digests


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was loaded is what the digest stands for, also when files change meanwhile."""
    write(tmp_path, {"a.cedar": PERMIT, "b.cedar": FORBID})
    before = load_bundle(tmp_path)
    read_bytes = Path.read_bytes

    def read_and_change(path: Path) -> bytes:
        content = read_bytes(path)
        path.write_bytes(b"\xff")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_change)
    bundle = load_bundle(tmp_path)

    assert bundle.digest == before.digest
    secret = Question("team.sender", Kind.EVENT, "secret", "secret")
    assert bundle.snapshot(BUILT_IN).ask(secret).policies == ("no-secrets",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("permit (principal, action, resource)", "unexpected end of input"),
        ("permit (principal, action, resource", "unexpected end of input"),
        ('@id("a") permit (principal, action, resource) when { 1 };', "expected Bool"),
        (
            '@id("a") permit (principal, action, resource) when { context.size > 1 };',
            "a: attribute `size` in context",
        ),
        ('@id("a") permit (principal, action, resource is Robot);', "`Robot`"),
        (
            '@id("a") permit (principal, action in Action::"task", resource is Topic);',
            "unable to find an applicable action",
        ),
        ('@id("a") permit (principal, action == Action::"fly", resource);', '`Action::"fly"`'),
        ("permit (principal, action, resource);", "a policy without @id; give it one"),
        ("@id permit (principal, action, resource);", "a policy without @id; give it one"),
        ('@id("") permit (principal, action, resource);', "a policy without @id; give it one"),
        ('@id("a\\nb") permit (principal, action, resource);', "'a\\nb'"),
        (f'@id("{"x" * 129}") permit (principal, action, resource);', "1 to 128 printable"),
        ('@id("a") @id("b") permit (principal, action, resource);', "duplicate annotation"),
        (
            f'{PERMIT}\n@id("everything") {PERMIT[17:]}',
            "@id('everything') is already in bad.cedar:1",
        ),
        (
            '@id("a") @redcat("/x") permit (principal, action, resource);',
            "@redcat is unknown and would be ignored; did you mean @redact?",
        ),
        ('@id("a") permit (principal == ?principal, action, resource);', "a template, and nothing"),
        (
            f'{PERMIT} @id("a") permit (principal, action, resource in ?resource);',
            "a template, and nothing",
        ),
        (b"\xef\xbb\xbf// byte order mark", "invalid token"),
        (b"// caf\xe9", "not UTF-8 at byte 6"),
    ],
)
def test_a_wrong_policy_is_named_with_its_file(
    tmp_path: Path, text: str | bytes, problem: str
) -> None:
    """Each kind of fault refuses the bundle, and the line says in which file it is."""
    write(
        tmp_path,
        {"bad.cedar": text, "good.cedar": FORBID},
    )

    for line in problems(tmp_path):
        assert line.startswith((f"{tmp_path / 'bad.cedar'}:1: ", f"{tmp_path / 'bad.cedar'}:2: "))
        assert "\n" not in line
    assert problem in "\n".join(problems(tmp_path))


@pytest.mark.parametrize("role", Role)
def test_policy_sees_the_role_that_the_roster_gives(tmp_path: Path, role: Role) -> None:
    """Whatever it is."""
    text = f'@id("a") permit (principal, action, resource) when {{ principal.role == "{role}" }};'
    bundle = loaded(tmp_path, text, roster=[Registration("a.b", role)])

    assert bundle.ask(Question("a.b", Kind.EVENT, "x", "x")).allowed


def test_without_policies_there_is_no_bundle(tmp_path: Path) -> None:
    """An empty folder, one that is not there and a file are refused: they would permit nothing."""
    (tmp_path / "file").write_text(PERMIT)
    for name in ("empty", "missing", "file"):
        folder = tmp_path / name
        if name == "empty":
            write(folder, {})
        assert f"{folder}: no *.cedar file; without policies nothing may move" in problems(folder)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A folder instead of a file and a dangling link are faults."""
    (tmp_path / "folder.cedar").mkdir()
    (tmp_path / "link.cedar").symlink_to(tmp_path / "nowhere")

    assert problems(tmp_path) == [
        f"{tmp_path / 'folder.cedar'}: Is a directory",
        f"{tmp_path / 'link.cedar'}: No such file or directory",
    ]


@pytest.mark.parametrize("name", ["a\nb.cedar", "a\\b.cedar", "\x1b[2J.cedar"])
def test_a_name_that_sha256sum_would_write_differently_is_refused(
    tmp_path: Path, name: str
) -> None:
    """A file name cannot pretend to be a second line under the digest."""
    write(tmp_path, {name: PERMIT, "good.cedar": FORBID})

    (problem,) = problems(tmp_path)
    assert repr(str(tmp_path / name)) in problem


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """Whoever mends a bundle sees all that is wrong with it, not the first fault only."""
    write(
        tmp_path,
        {
            "a.cedar": "permit (principal, action, resource);",
            "b.cedar": "permit (",
            "c.cedar": b"\xff",
            "d.cedar": PERMIT,
            "e.cedar": f"{PERMIT} {FORBID}",
        },
    )

    assert [Path(line.partition(":")[0]).name for line in problems(tmp_path)] == [
        "a.cedar",
        "b.cedar",
        "c.cedar",
        "e.cedar",
    ]


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 5_000 + "true" + ")" * 5_000,
        "[" * 5_000 + "1" + "]" * 5_000 + ".contains(1)",
        "{a: " * 5_000 + "1" + "}" * 5_000 + " has b",
        "!(" * 5_000 + "true" + ")" * 5_000,
        "true && " * 5_000 + "true",
        'context.to == "x" || ' * 5_000 + "true",
        "if true then true else " * 5_000 + "true",
        "1 + " * 5_000 + "1 == 1",
        "context" + ".a" * 5_000 + " == 1",
        "context" + '["a"]' * 5_000 + " == 1",
        'context.to == "x" || ' * 150 + "true",
    ],
)
def test_a_policy_too_deep_for_the_engine_is_refused(tmp_path: Path, condition: str) -> None:
    """Policies that would end the process inside the engine are a fault of their file."""
    text = f'@id("deep") permit (principal, action, resource) when {{ {condition} }};'
    write(tmp_path, {"deep.cedar": text})

    (problem,) = problems(tmp_path)
    assert problem.startswith(f"{tmp_path / 'deep.cedar'}:1: ")
    assert "more than" in problem or "exceeds" in problem


def test_brackets_in_texts_and_comments_are_not_nesting(tmp_path: Path) -> None:
    """A policy may speak of brackets, and a file may hold many policies."""
    brackets = "(" * 5_000
    text = f'when {{ context.type == "{brackets}\\"(" }}; // {brackets}\n'
    many = [f'@id("{n}") permit (principal, action, resource) {text}' for n in range(200)]

    bundle = loaded(tmp_path, "".join(many))

    question = Question("team.sender", Kind.EVENT, "x", f'{brackets}"(')
    assert len(bundle.ask(question).policies) == 200


def test_ids_that_no_record_could_hold_are_refused(tmp_path: Path) -> None:
    """A record names every policy that decided; so many and so long ids would not fit in it."""
    write(
        tmp_path,
        {"a.cedar": "".join(f'@id("{n:0128}") {PERMIT[17:]}\n' for n in range(1025))},
    )

    assert problems(tmp_path) == [
        f"{tmp_path}: the ids of its policies are 131200 bytes, at most 131072"
    ]


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("facts.yml", "call it facts.yaml"),
        ("entities.yaml", "call it entities.json"),
        ("tests/a.yml", "call it tests/a.yaml"),
        ("more/a.cedar", "policies are in no folder of their own"),
    ],
)
def test_no_file_is_left_out_of_a_bundle(tmp_path: Path, name: str, way_out: str) -> None:
    """What lies beside the policies and looks like a part of them does not vanish silently."""
    write(tmp_path, {"good.cedar": PERMIT})
    write((tmp_path / name).parent, {Path(name).name: PERMIT})

    assert problems(tmp_path) == [f"{tmp_path / name}: would be ignored; {way_out}"]


@pytest.mark.parametrize(
    "name", ["a.txt", "tests/a/b.yaml", "x/a.cedar", "../a.cedar", "/a.cedar", "facts.yml"]
)
def test_only_files_of_a_bundle_are_taken(name: str) -> None:
    """Whatever somebody proposes, nothing but the files of a bundle becomes one."""
    with pytest.raises(InvalidPolicy, match="would be ignored"):
        Bundle.of_files({"a.cedar": PERMIT, name: PERMIT.replace("everything", "other")})


def test_a_schema_that_does_not_follow_is_refused() -> None:
    """The schema in a bundle is the one that the gateway uses, or the bundle is refused."""
    schema = Bundle.of_files({"a.cedar": PERMIT}).files["schema.cedarschema"]

    with pytest.raises(InvalidPolicy, match=r"schema\.cedarschema: is not the schema"):
        Bundle.of_files({"a.cedar": PERMIT, "schema.cedarschema": schema + "// mine"})
