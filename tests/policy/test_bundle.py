"""Bundles: loaded as a whole or refused with every reason, and named by what is in them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from policy.kit import PERMIT, loaded, write
from tidegate_policy import bundle as module
from tidegate_policy.bundle import SCHEMA, Question, load_bundle, write_bundle
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
    (tmp_path / "tidegate.cedarschema").write_text(SCHEMA)
    names = sorted(path.name for path in tmp_path.iterdir())

    listing = subprocess.run(["sha256sum", *names], cwd=tmp_path, check=True, capture_output=True)

    assert bundle.digest == f"sha256:{hashlib.sha256(listing.stdout).hexdigest()}"


def test_the_digest_depends_on_every_file_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(module, "SCHEMA", SCHEMA + "\n")
    with_other_schema = load_bundle(tmp_path / "same").digest

    assert sorted(digests.values()) == [1, 1, 1, 1, 1, 2]
    assert digests[again] == 2
    assert with_other_schema not in digests


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
    secret = Question("team.sender", Kind.EVENT, "secret", "secret", False, None)
    assert bundle.ask(secret).policies == ("no-secrets",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("permit (principal, action, resource)", "unexpected end of input"),
        ("permit (principal, action, resource", "unexpected end of input"),
        ('@id("a") permit (principal, action, resource) when { 1 };', "expected Bool"),
        ('@id("a") permit (principal, action, resource) when { context.size > 1 };', "policy `a`"),
        ('@id("a") permit (principal, action, resource is Robot);', "`Robot`"),
        (
            '@id("a") permit (principal, action == Action::"task", resource is Topic);',
            "unable to find an applicable action",
        ),
        ('@id("a") permit (principal, action == Action::"fly", resource);', '`Action::"fly"`'),
        ("permit (principal, action, resource);", "policy0 has no @id; give it one"),
        ("@id permit (principal, action, resource);", "policy0 has no @id; give it one"),
        ('@id("") permit (principal, action, resource);', "policy0 has no @id; give it one"),
        ('@id("a\\nb") permit (principal, action, resource);', "'a\\nb'"),
        (f'@id("{"x" * 129}") permit (principal, action, resource);', "1 to 128 printable"),
        ('@id("a") @id("b") permit (principal, action, resource);', "duplicate annotation"),
        (f'{PERMIT}\n@id("everything") {PERMIT[17:]}', "@id('everything') is already in bad.cedar"),
        ('@id("a") @redcat("/x") permit (principal, action, resource);', "@redcat of a is unknown"),
        ('@id("a") permit (principal == ?principal, action, resource);', "policy0 is a template"),
        (f'{PERMIT} @id("a") permit (principal, action, resource in ?resource);', "is a template"),
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
        assert line.startswith(f"{tmp_path / 'bad.cedar'}: ")
        assert "\n" not in line
    assert problem in "\n".join(problems(tmp_path))


@pytest.mark.parametrize("role", Role)
def test_policy_sees_the_role_that_the_roster_gives(tmp_path: Path, role: Role) -> None:
    """Whatever it is."""
    text = f'@id("a") permit (principal, action, resource) when {{ principal.role == "{role}" }};'
    bundle = loaded(tmp_path, text, roster=[Registration("a.b", role)])

    assert bundle.ask(Question("a.b", Kind.EVENT, "x", "x", False, None)).allowed


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

    assert [Path(line.partition(": ")[0]).name for line in problems(tmp_path)] == [
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
    assert problem.startswith(f"{tmp_path / 'deep.cedar'}: ")


def test_brackets_in_texts_and_comments_are_not_nesting(tmp_path: Path) -> None:
    """A policy may speak of brackets, and a file may hold many policies."""
    brackets = "(" * 5_000
    text = f'when {{ context.type == "{brackets}\\"(" }}; // {brackets}\n'
    many = [f'@id("{n}") permit (principal, action, resource) {text}' for n in range(200)]

    bundle = loaded(tmp_path, "".join(many))

    question = Question("team.sender", Kind.EVENT, "x", f'{brackets}"(', False, None)
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


def test_a_bundle_is_put_together_from_files(tmp_path: Path) -> None:
    """What was in the folder before is gone."""
    sources = [tmp_path / "one.cedar", tmp_path / "two.cedar"]
    for source, text in zip(sources, (PERMIT, FORBID), strict=True):
        source.write_text(text)
    folder = write(tmp_path / "bundle", {"stale.cedar": "permit ("})

    write_bundle(folder, sources)

    assert {path.name for path in folder.iterdir()} == {"one.cedar", "two.cedar"}
    first = load_bundle(folder).digest
    write_bundle(folder, reversed(sources))
    assert load_bundle(folder).digest == first


@pytest.mark.parametrize("names", [("a/x.cedar", "b/x.cedar"), ("a/x.txt",), ("a/x",)])
def test_no_policy_is_left_out_of_a_bundle(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Two files of one name, or a file that would not be read, do not vanish silently."""
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(PERMIT)

    with pytest.raises(InvalidPolicy, match=paths[-1].name):
        write_bundle(tmp_path / "bundle", paths)
