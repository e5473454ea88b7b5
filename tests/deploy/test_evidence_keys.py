"""The keys that sign evidence, in files, and the trust file made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.cli.init import init
from tidegate.evidence_keys import (
    OWN_ROLES,
    SigningKeys,
    in_use,
    signing_keys,
    trust_text,
    write_trust,
)
from tidegate.project import Project, load_project
from tidegate_evidence.note import Algorithm, Note, Signer
from tidegate_schemas.errors import InvalidDocument, InvalidInput
from tidegate_schemas.evidence import KeyRole

NOW = 1_800_000_000 * 10**9
DAY = 86_400 * 10**9
W1 = Signer.generate("w1.example", Algorithm.COSIGNATURE)
W2 = Signer.generate("w2.example", Algorithm.COSIGNATURE)


@pytest.fixture
def keys(tmp_path: Path) -> SigningKeys:
    """Keys of a project, made."""
    made = SigningKeys(tmp_path / "keys", "shop")
    made.ensure(NOW)
    return made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A new project with its keys."""
    init(tmp_path / "hello")
    found = load_project(tmp_path / "hello")
    signing_keys(found).ensure(NOW)
    return found


def witnessed(project: Project, text: str) -> Project:
    """The project with settings of evidence."""
    file = project.root / "tidegate.yaml"
    file.write_text(file.read_text() + text)
    return load_project(project.root)


def entry(signer: Signer, url: str = "http://127.0.0.1:1") -> str:
    """A witness of the settings."""
    return f"{{key: {signer.verifier}, url: {url}}}"


def test_each_role_has_a_key_of_its_own(keys: SigningKeys, tmp_path: Path) -> None:
    """Made once, in files that only the owner may read; the writer's name is that of the log."""
    made = {role: keys.read(role)[0].signer for role in OWN_ROLES}
    keys.ensure(NOW + DAY)

    assert {role: keys.signers(role) for role in OWN_ROLES} == {
        role: [signer] for role, signer in made.items()
    }
    assert {role: (s.name, s.algorithm) for role, s in made.items()} == {
        KeyRole.WRITER: ("shop/0", Algorithm.NOTE),
        KeyRole.NOTARY: ("shop/notary", Algorithm.COSIGNATURE),
        KeyRole.EXPORT: ("shop/export", Algorithm.NOTE),
    }
    assert len({signer.seed for signer in made.values()}) == 3
    for path in (tmp_path / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_both_keys_sign_until_the_old_one_is_dropped(keys: SigningKeys) -> None:
    """The newer one is first; a key whose time is over is not missed before somebody looks."""
    old = keys.signers(KeyRole.WRITER)[0]
    version = keys.version()
    new = keys.rotate(KeyRole.WRITER, 86_400.0, NOW).signer
    assert keys.version() != version

    keys.drop_old(KeyRole.WRITER, NOW + DAY - 1)
    assert keys.signers(KeyRole.WRITER) == [new, old]
    keys.drop_old(KeyRole.WRITER, NOW + DAY)
    assert keys.signers(KeyRole.WRITER) == [new]


def test_a_second_rotation_lengthens_no_overlap(keys: SigningKeys) -> None:
    """A key that gives way does so when that was said first, or sooner."""
    old = keys.signers(KeyRole.NOTARY)[0]
    middle = keys.rotate(KeyRole.NOTARY, 86_400.0, NOW).signer
    new = keys.rotate(KeyRole.NOTARY, 10 * 86_400.0, NOW).signer
    assert keys.signers(KeyRole.NOTARY) == [new, middle, old]
    keys.drop_old(KeyRole.NOTARY, NOW + DAY)
    assert keys.signers(KeyRole.NOTARY) == [new, middle]

    last = keys.rotate(KeyRole.NOTARY, 0.0, NOW).signer
    keys.drop_old(KeyRole.NOTARY, NOW)
    assert keys.signers(KeyRole.NOTARY) == [last]


@pytest.mark.parametrize("text", ["", "\n", "x", "PRIVATE+KEY+shop/0+00000000+AAAA 2026", "é"])
def test_what_is_no_key_is_said_without_quoting_it(
    keys: SigningKeys, tmp_path: Path, text: str
) -> None:
    """The file is named; an empty one is like none."""
    (tmp_path / "keys" / "writer").write_text(text)

    with pytest.raises(InvalidInput, match="writer") as caught:
        keys.signers(KeyRole.WRITER)

    assert "PRIVATE+KEY+shop" not in str(caught.value)


def test_keys_of_another_log_or_open_to_others_are_refused(
    keys: SigningKeys, tmp_path: Path
) -> None:
    """Nothing is signed with them."""
    with pytest.raises(InvalidInput, match="not named other/notary"):
        SigningKeys(tmp_path / "keys", "other").signers(KeyRole.NOTARY)
    (tmp_path / "keys" / "export").chmod(0o644)
    with pytest.raises(InvalidInput, match="chmod 600"):
        keys.signers(KeyRole.EXPORT)


def test_the_trust_file_names_every_key_that_counts(project: Project) -> None:
    """All valid keys of the writer; the notary by any of its own; a quorum of the witnesses."""
    keys = signing_keys(project)
    keys.rotate(KeyRole.WRITER, 86_400.0, NOW)
    project = witnessed(
        project, f"evidence: {{witnesses: [{entry(W1)}, {entry(W2)}], quorum: 1}}\n"
    )
    writers = [s.verifier for s in keys.signers(KeyRole.WRITER)]
    (notary,) = (s.verifier for s in keys.signers(KeyRole.NOTARY))
    name, w1, w2 = (f"{k.name}+{k.key_id.hex()}" for k in (notary, W1.verifier, W2.verifier))

    write_trust(project)

    assert project.state.trust.read_text().splitlines() == [
        f"log {writers[0]}",
        f"log {writers[1]}",
        f"witness {name} {notary}",
        f"group notary any {name}",
        f"witness {w1} {W1.verifier} http://127.0.0.1:1",
        f"witness {w2} {W2.verifier} http://127.0.0.1:1",
        f"group witnesses 1 {w1} {w2}",
        "group everybody all notary witnesses",
        "quorum everybody",
    ]
    assert [key.role for key in in_use(project).keys] == [
        "writer",
        "writer",
        "notary",
        "export",
        "witness",
        "witness",
    ]


def test_without_witnesses_the_notary_is_enough(project: Project) -> None:
    """And a key that was dropped is not named."""
    signing_keys(project).rotate(KeyRole.NOTARY, 0.0, NOW)
    assert trust_text(project).count("\nwitness ") == 2
    signing_keys(project).drop_old(KeyRole.NOTARY, NOW)

    assert trust_text(project).splitlines()[-1] == "quorum notary"
    assert trust_text(project).count("\nwitness ") == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"witnesses: [{entry(W1)}, {entry(W1)}]", "there already"),
        (f"witnesses: [{entry(Signer.generate('w'))}]", "makes no cosignatures"),
        (f"witnesses: [{entry(W1)[:-40]}, url: 'http://x'}}]", "0].key"),
    ],
)
def test_witnesses_that_cannot_sign_are_said_by_their_place(
    project: Project, text: str, what: str
) -> None:
    """Nothing starts with them."""
    with pytest.raises(InvalidInput, match=what.replace("]", r"\]")):
        trust_text(witnessed(project, f"evidence: {{{text}}}\n"))


def test_a_quorum_can_be_met(project: Project) -> None:
    """More than there are witnesses is an error of the settings, with its line."""
    with pytest.raises(InvalidDocument, match="2 of 1 witnesses"):
        witnessed(project, f"evidence: {{witnesses: [{entry(W1)}], quorum: 2}}\n")


def test_signatures_of_both_keys_verify(keys: SigningKeys) -> None:
    """A note that is signed during the overlap satisfies whoever knows either key."""
    keys.rotate(KeyRole.WRITER, 86_400.0, NOW)
    signers = keys.signers(KeyRole.WRITER)
    note = Note("x\n").signed(*(signer.sign("x\n", 0) for signer in signers))

    assert [signer.verifier.check(Note.parse(note.encode())) for signer in signers] == [0, 0]
