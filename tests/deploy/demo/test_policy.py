"""The demo's policy, asked through the bundle that the gateway loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.demo import PROJECT
from tidegate.project import load_project
from tidegate_policy.bundle import Answer, Question, Snapshot, load_bundle
from tidegate_policy.roster import BUILT_IN, Roster
from tidegate_schemas.identity import Registration, is_built_in
from tidegate_schemas.subjects import Kind

REVIEWERS = ("churn", "message", "secrets", "syntax", "verdict")
EVERYBODY = (
    "outside.git",
    "tidegate.coordinator",
    "tidegate.operator",
    "review.rogue",
    *(f"review.{name}" for name in REVIEWERS),
)

PERMITS = {
    ("outside.git", Kind.EVENT, "repo.commit"): "outside-tells-of-commits",
    ("tidegate.coordinator", Kind.EVENT, "run.finished"): "coordinator-tells-of-ends",
    ("tidegate.coordinator", Kind.CONTROL, "blueprint.register"): "coordinator-keeps-its-books",
    ("tidegate.coordinator", Kind.CONTROL, "run.timeout"): "coordinator-keeps-its-books",
    ("tidegate.coordinator", Kind.CONTROL, "run.cancel"): "coordinator-keeps-its-books",
    ("tidegate.operator", Kind.CONTROL, "identity.register"): "operator-runs-the-bus",
    ("tidegate.operator", Kind.CONTROL, "identity.revoke"): "operator-runs-the-bus",
    ("tidegate.operator", Kind.CONTROL, "evidence.keys"): "operator-runs-the-bus",
    ("tidegate.operator", Kind.CONTROL, "run.start"): "operator-runs-the-bus",
    ("tidegate.operator", Kind.CONTROL, "run.cancel"): "operator-runs-the-bus",
    ("tidegate.operator", Kind.CONTROL, "audit.replay"): "operator-runs-the-bus",
    ("tidegate.operator", Kind.CONTROL, "privacy.erase"): "operator-runs-the-bus",
    **{
        ("tidegate.coordinator", Kind.TASK, f"review.{name}"): "coordinator-assigns-reviews"
        for name in REVIEWERS
    },
    **{
        (f"review.{name}", Kind.RESULT, "tidegate.coordinator"): "reviewers-answer-the-coordinator"
        for name in REVIEWERS
    },
}
DESTINATIONS = {
    Kind.EVENT: ("repo.commit", "run.finished", "anything.else"),
    Kind.CONTROL: (
        "audit.replay",
        "evidence.keys",
        "privacy.erase",
        "identity.register",
        "identity.revoke",
        "evidence.keys",
        "blueprint.register",
        "run.cancel",
        "run.start",
        "run.timeout",
        "anything.else",
    ),
    Kind.TASK: (*(f"review.{name}" for name in REVIEWERS), "anything.else"),
    Kind.RESULT: EVERYBODY,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The policies and the roster of the demo."""
    folder = tmp_path_factory.mktemp("bundle")
    project = load_project(PROJECT, folder)
    capabilities = {str(m.principal): m.capabilities for m in project.manifests}
    members = [
        Registration(str(who), role, capabilities.get(str(who), ()))
        for who, role in project.principals
        if not is_built_in(str(who))
    ]
    return load_bundle(project.policy).snapshot(Roster.of([*BUILT_IN.members.values(), *members]))


def ask(bundle: Snapshot, by: str, kind: Kind, to: str) -> Answer:
    """What policy says, inside and outside of a run: it must be the same."""
    inside, outside = (bundle.ask(Question(by, kind, to, to, in_run)) for in_run in (True, False))
    assert inside == outside
    assert not inside.error
    return inside


def test_who_may_do_what(bundle: Snapshot) -> None:
    """Of everybody, every kind and every destination, exactly the listed ones are permitted."""
    permitted: dict[tuple[str, Kind, str], str] = {}
    for by in EVERYBODY:
        for kind, destinations in DESTINATIONS.items():
            for to in destinations:
                answer = ask(bundle, by, kind, to)
                if answer.allowed:
                    (permitted[(by, kind, to)],) = answer.policies

    assert permitted == PERMITS


@pytest.mark.parametrize("by", [name for name in EVERYBODY if name != "tidegate.coordinator"])
def test_denied_work_names_the_rule(bundle: Snapshot, by: str) -> None:
    """Whoever assigns work and is not the coordinator is told which policy forbids it."""
    answer = ask(bundle, by, Kind.TASK, "review.verdict")

    assert answer == Answer(False, ("only-the-coordinator-assigns-work",))


def test_the_rogue_may_do_nothing(bundle: Snapshot) -> None:
    """The rogue agent is in the team of the reviewers and may still not send anything."""
    for kind, destinations in DESTINATIONS.items():
        assert not any(ask(bundle, "review.rogue", kind, to).allowed for to in destinations)


def test_policies_explain_themselves() -> None:
    """A comment for people stands before every policy."""
    for path in sorted(Path(PROJECT / "policy").glob("*.cedar")):
        lines = path.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            if line.startswith("@id("):
                assert lines[number - 1].startswith("// "), line
