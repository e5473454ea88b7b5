"""The project folder, and the whole review as the coordinator would run it, without a bus."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import msgspec
import pytest

from tidegate.demo import PROJECT
from tidegate.demo.commits import EVENT, as_event, read_commits
from tidegate.demo.review import Judgement
from tidegate.project import check_blueprints, load_project
from tidegate_agents.agent import check_handlers, load_agent
from tidegate_agents.run import Dispatch, Dispatched, Run, Succeeded, advance, due, start
from tidegate_schemas import Envelope, Kind
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.documents import load
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.settings import Settings

from .conftest import Repository

AGENTS = ("churn", "message", "rogue", "secrets", "syntax", "verdict")
REVIEWS = ["churn", "message", "secrets", "syntax"]


def manifest(name: str) -> Manifest:
    """The manifest of an agent."""
    return load(PROJECT / "agents" / f"{name}.yaml", Manifest)


def blueprint() -> Blueprint:
    """The blueprint."""
    return load(PROJECT / "blueprints" / "review-commit.yaml", Blueprint)


def review(repository: Repository, sha: str) -> tuple[Judgement, list[list[str]]]:
    """The judgement of a commit, and which steps ran at the same time."""
    (commit,) = (c for c in read_commits(repository.path, 100) if c.sha == sha)
    envelope = as_event(commit)
    run = start("run", blueprint(), sha, envelope.payload(), {"data": envelope.payload()}, 0)
    waves: list[list[str]] = []
    while tasks := [command for command in due(run) if isinstance(command, Dispatch)]:
        waves.append(sorted(task.step for task in tasks))
        for task in tasks:
            run = perform(run, task)
    assert run.status == "succeeded", run.error
    return msgspec.convert(run.output, Judgement), waves


def perform(run: Run, task: Dispatch) -> Run:
    """Have the agent of a task handle it."""
    team, _, name = task.task.partition(".")
    handler = load_agent(manifest(name).run).handlers[Kind.TASK, task.task]
    payload = Envelope.new(task.task, task.data).payload(handler.payload)
    output: Any = handler.function(payload)
    if inspect.iscoroutine(output):
        output = asyncio.run(output)
    at, by = (task.step, task.index, task.attempt, 0), f"{team}.{name}"
    run = advance(run, Dispatched(*at, by))
    return advance(run, Succeeded(*at, by, msgspec.to_builtins(output)))


def test_settings() -> None:
    """One outside system may publish, and the demo leaves room on the disk."""
    settings = load(PROJECT / "tidegate.yaml", Settings)

    assert settings.project == "review-demo"
    assert settings.publishers == ("outside.git",)
    assert settings.server.ledger_bytes < 2**30


def test_the_project_loads_as_a_whole() -> None:
    """Manifests, blueprint and policy agree, and every expression compiles."""
    project = load_project(PROJECT)
    check_blueprints(project)

    assert {str(m.principal) for m in project.manifests} == {f"review.{n}" for n in AGENTS}
    assert len(list(project.policy.glob("*.cedar"))) == 1


@pytest.mark.parametrize("name", AGENTS)
def test_agents_handle_what_their_manifests_say(name: str) -> None:
    """Each agent is found in code and handles its capability, the rogue its event."""
    found = manifest(name)
    check_handlers(load_agent(found.run), found)

    expected = ((), (EVENT,)) if name == "rogue" else ((f"review.{name}",), ())
    assert (found.capabilities, found.subscribes) == expected
    assert found.name == name


def test_a_good_commit_is_approved(repository: Repository) -> None:
    """Four reviews run at the same time, then the judgement."""
    sha = repository.commit({"a.py": "x = 1\n"}, "Add a constant\n\nBecause it is needed.\n")

    judgement, waves = review(repository, sha)

    assert judgement == Judgement(sha=sha, verdict="approve", score=100, reasons=())
    assert waves == [REVIEWS, ["verdict"]]


def test_a_bad_commit_is_blocked(repository: Repository) -> None:
    """What each of the reviewers finds is among the reasons."""
    secret = "AKIA" + "Q3EGRIVVUOWHZ2TQ"
    files = {"a.py": f"key = '{secret}'\nx = (\n", "b.txt": "line\n" * 500}
    sha = repository.commit(files, "WIP: add everything")

    judgement, _ = review(repository, sha)

    assert judgement.verdict == "block"
    assert [reason.split()[0].rstrip(":") for reason in judgement.reasons] == [
        "secret",
        "does",
        "large",
        "message",
    ]
    assert secret[4:] not in " ".join(judgement.reasons)


def test_python_is_reviewed_only_where_there_is_some(repository: Repository) -> None:
    """Without Python the syntax step is skipped, and the judgement does without it."""
    sha = repository.commit({"py.txt": "x\n"}, "Add text")

    judgement, waves = review(repository, sha)

    assert judgement.verdict == "approve"
    assert waves == [[name for name in REVIEWS if name != "syntax"], ["verdict"]]


def test_python_is_reviewed_where_the_event_may_not_name_it(repository: Repository) -> None:
    """When the event leaves files out, the syntax step looks for itself."""
    files = {f"{n:04}{'x' * 200}.txt": "x\n" for n in range(1000)}
    sha = repository.commit(files | {"z.py": "("}, "Add much")

    judgement, waves = review(repository, sha)

    assert waves[0] == REVIEWS
    assert any("z.py" in reason for reason in judgement.reasons)


def test_a_merge_and_an_empty_commit(repository: Repository) -> None:
    """Commits that change nothing themselves are approved, with the subject that git wrote."""
    repository.commit({"a.txt": "1\n"}, "Begin work")
    repository.git("checkout", "--quiet", "-b", "side" + "x" * 80)
    repository.commit({"b.txt": "2\n"}, "Go on")
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "--no-edit", "side" + "x" * 80)
    merge = repository.head
    empty = repository.commit(message="Trigger the build")

    for sha in (merge, empty):
        assert review(repository, sha)[0].score == 100
