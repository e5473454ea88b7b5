"""The manifest of an agent."""

from pathlib import Path
from typing import Any

import pytest

from tidegate_schemas.documents import loads
from tidegate_schemas.errors import InvalidDocument
from tidegate_schemas.manifest import Manifest, Retry
from tidegate_schemas.subjects import Principal

PATH = Path("agents/ada.yaml")
BASE = """
team: research
name: ada
version: "1.0"
owner: ada@example.org
run: agents.ada:agent
capabilities: [repo.read]
"""


def changed(**fields: str | None) -> str:
    """The manifest with fields replaced, added or (None) left out, each on its own line."""
    lines = {line.partition(": ")[0]: line.partition(": ")[2] for line in BASE.strip().splitlines()}
    return "".join(f"{k}: {v}\n" for k, v in (lines | fields).items() if v is not None)


def faults(text: str) -> list[tuple[int, str, str]]:
    """Line, field and message of what is wrong."""
    with pytest.raises(InvalidDocument) as caught:
        loads(text, Manifest, PATH)
    return [(p.line, p.field, p.message) for p in caught.value.problems]


def test_the_shortest_manifest_gets_the_documented_defaults() -> None:
    """What is not written is as the manifest's class says."""
    made = loads(BASE, Manifest, PATH)

    assert made.principal == Principal("research", "ada")
    assert made.capabilities == ("repo.read",)
    assert (made.subscribes, made.concurrency, made.lease, made.drain) == ((), 8, 30.0, 30.0)
    assert made.retry == Retry(attempts=3, delay=1.0, max_delay=60.0)


def test_a_manifest_comes_back_from_its_plain_values() -> None:
    """What is sent at registration reads back as the same manifest."""
    made = loads(changed(retry="{attempts: 5, delay: 250ms}", lease="2m"), Manifest, PATH)
    assert Manifest.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize("field", ["team", "name", "version", "owner", "run"])
def test_what_is_missing_is_named(field: str) -> None:
    """Each required field is missed by name."""
    assert faults(changed(**{field: None})) == [(1, field, "is required")]


def test_an_agent_without_work_is_refused() -> None:
    """At least one capability or subscription is needed."""
    [(_, _, message)] = faults(changed(capabilities=None))
    assert message == "name at least one entry in `capabilities` or `subscribes`"
    assert loads(changed(capabilities=None, subscribes="[a]"), Manifest, PATH).subscribes == ("a",)


@pytest.mark.parametrize(
    ("field", "value", "at"),
    [
        ("team", "Research", "team"),
        ("team", "a.b", "team"),
        ("name", "'*'", "name"),
        ("name", "\u0430da", "name"),
        ("version", "1.0", "version"),
        ("owner", "[a]", "owner"),
        ("run", "agents.ada", "run"),
        ("run", "agents/ada:agent", "run"),
        ("run", "'agents.ada:agent\n'", "run"),
        ("run", "os:system('ls')", "run"),
        ("capabilities", "[repo.read, repo.>]", "capabilities[1]"),
        ("capabilities", "[repo.read, repo.write, repo.read]", "capabilities[2]"),
        ("capabilities", "repo.read", "capabilities"),
        ("subscribes", "[a, a]", "subscribes[1]"),
        ("subscribes", "{a: b}", "subscribes"),
        ("concurrency", "0", "concurrency"),
        ("concurrency", "10001", "concurrency"),
        ("concurrency", "'8'", "concurrency"),
        ("concurrency", "true", "concurrency"),
        ("lease", "900ms", "lease"),
        ("lease", ".nan", "lease"),
        ("lease", "-30s", "lease"),
        ("drain", "-1", "drain"),
        ("drain", "forever", "drain"),
        ("retry", "{attempts: 1001}", "retry.attempts"),
        ("retry", "{delay: .inf}", "retry.delay"),
        ("retry", "{max_delay: -1}", "retry.max_delay"),
        ("retry", "{backoff: 2}", "retry.backoff"),
        ("colour", "red", "colour"),
    ],
)
def test_a_fault_has_its_field_and_line(field: str, value: str, at: str) -> None:
    """Each fault is the only one, and stands where it was written."""
    text = changed(**{field: value})
    line = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith(field))
    assert [(found[0], found[1]) for found in faults(text)] == [(line, at)]


def test_all_faults_are_named_at_once() -> None:
    """Who mends a file learns of every fault in one go."""
    text = changed(team="A", owner=None, concurrency="0", colour="red")
    assert {field for _, field, _ in faults(text)} == {"team", "owner", "concurrency", "colour"}


@pytest.mark.parametrize("value", [None, [], "text", 5, {"team": b"a"}, {1: 2}, {"team": "\ud800"}])
def test_values_that_are_no_manifest_are_value_errors(value: Any) -> None:
    """The error of pydantic is a ValueError whatever it is given."""
    with pytest.raises(ValueError, match="Manifest"):
        Manifest.model_validate(value)
