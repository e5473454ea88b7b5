"""What a bundle answers: checked against the same rules in Python, and against attackers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES, PERMIT, loaded
from tidegate_policy.bundle import Answer, Question, Snapshot
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.subjects import Kind

GHOST = "grey.ghost"
ROSTER = (
    Registration("blue.one", Role.AGENT, ("blue.work", "boom")),
    Registration("blue.two", Role.PUBLISHER),
    Registration("red.one", Role.AGENT, ("red.work",)),
    Registration("red.two", Role.OPERATOR),
    Registration("green.one", Role.COORDINATOR),
)
ROLES = {member.principal: member.role for member in ROSTER}
PROVIDERS = {c: member.principal for member in ROSTER for c in member.capabilities}


def role(of: str) -> str:
    """Of an entity; one that is not in the roster has none, which is an error of the policy."""
    return ROLES[of]


def team(name: str, by: str) -> bool:
    """Whether somebody of the roster belongs to the team."""
    return by in ROLES and by.startswith(f"{name}.")


Rule = tuple[str, str, Callable[[Question], bool]]
RULES: dict[str, Rule] = {
    "agents-answer": (
        'permit (principal, action in Action::"result", resource)'
        ' when { principal.role == "agent" };',
        "permit",
        lambda q: q.kind == Kind.RESULT and role(q.by) == "agent",
    ),
    "blue-tells": (
        'permit (principal in Team::"blue", action in Action::"event", resource);',
        "permit",
        lambda q: q.kind == Kind.EVENT and team("blue", q.by),
    ),
    "no-secrets": (
        'forbid (principal, action, resource == Topic::"secret");',
        "forbid",
        lambda q: q.kind == Kind.EVENT and q.to == "secret",
    ),
    "work-is-for-blue": (
        'forbid (principal, action in Action::"task", resource)'
        ' unless { resource in Team::"blue" || principal.role == "coordinator" };',
        "forbid",
        lambda q: (
            q.kind == Kind.TASK
            and not (team("blue", PROVIDERS.get(q.to, "")) or role(q.by) == "coordinator")
        ),
    ),
    "tasks-of-runs": (
        'permit (principal, action in Action::"task", resource) when { context.in_run };',
        "permit",
        lambda q: q.kind == Kind.TASK and q.in_run,
    ),
    "no-pii": (
        "forbid (principal, action, resource)"
        ' when { context has dataclassification && context.dataclassification == "pii" }'
        ' unless { principal.role == "operator" };',
        "forbid",
        lambda q: q.dataclassification == "pii" and role(q.by) != "operator",
    ),
    "run-commands": (
        'permit (principal, action in Action::"control", resource)'
        ' when { context.to like "run.*" };',
        "permit",
        lambda q: q.kind == Kind.CONTROL and q.to.startswith("run."),
    ),
    "known-types": (
        'permit (principal, action in Action::"event", resource)'
        ' when { ["a.b", "c.d"].contains(context.type) };',
        "permit",
        lambda q: q.kind == Kind.EVENT and q.type in {"a.b", "c.d"},
    ),
    "answers-to-coordinators": (
        'permit (principal, action in Action::"result", resource)'
        ' when { resource.role == "coordinator" };',
        "permit",
        lambda q: q.kind == Kind.RESULT and role(q.to) == "coordinator",
    ),
    "an-error": (
        "forbid (principal, action, resource)"
        ' when { context.to == "boom" && 9223372036854775807 + 1 > 0 };',
        "forbid",
        lambda q: q.to == "boom" and 1 / 0 > 0,
    ),
    "one-may-both": (
        'permit (principal == Agent::"blue.one",'
        ' action in [Action::"task", Action::"event"], resource);',
        "permit",
        lambda q: q.by == "blue.one" and q.kind in {Kind.TASK, Kind.EVENT},
    ),
    "red-commands": (
        'permit (principal is Agent in Team::"red", action, resource is Command);',
        "permit",
        lambda q: team("red", q.by) and q.kind == Kind.CONTROL,
    ),
}

questions = st.builds(
    Question,
    st.sampled_from([*ROLES, GHOST]),
    st.sampled_from([Kind.TASK, Kind.EVENT, Kind.RESULT, Kind.CONTROL]),
    st.sampled_from([*ROLES, GHOST, *PROVIDERS, "secret", "run.start", "run", "a.b", "boom"]),
    st.sampled_from(["a.b", "c.d", "secret", "e", 'a.b"'])
    | st.text(min_size=1).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text)),
    in_run=st.booleans(),
    delegated=st.booleans(),
    blueprint=st.sampled_from(["", "b"]),
    dataclassification=st.sampled_from([None, "pii", "public"]),
    data=st.none(),
)


def oracle(question: Question) -> tuple[bool, tuple[str, ...], bool]:
    """Verdict, deciding rules, and whether a rule failed, by the rules in Python."""
    satisfied: dict[str, list[str]] = {"permit": [], "forbid": []}
    failed = False
    for name, (_, effect, applies) in RULES.items():
        try:
            if applies(question):
                satisfied[effect].append(name)
        except (KeyError, ZeroDivisionError):
            failed = True
    allowed = bool(satisfied["permit"]) and not satisfied["forbid"] and not failed
    # Where a rule fails, none of the others has let anything through.
    deciding = satisfied["forbid"] or ([] if failed else satisfied["permit"])
    return allowed, tuple(sorted(deciding)), failed


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """All rules, spread over three files."""
    texts = ["", "", ""]
    for number, (name, (text, _, _)) in enumerate(RULES.items()):
        texts[number % 3] += f'@id("{name}") {text}\n'
    return loaded(tmp_path_factory.mktemp("bundle"), *texts, roster=ROSTER)


@EXAMPLES
@given(questions)
def test_answers_are_those_of_the_rules(rules: Snapshot, question: Question) -> None:
    """Verdict and deciding policies are what the rules say, also where a rule fails."""
    allowed, deciding, failed = oracle(question)

    answer = rules.ask(question)

    assert (answer.allowed, answer.policies, bool(answer.error)) == (allowed, deciding, failed)


def test_ids_belong_to_their_policies(tmp_path: Path) -> None:
    """Of sixty policies in four files each is named by its own id, whatever its place."""
    names = [f"{number:02}" for number in range(60)]
    texts = [
        "\n".join(
            f'@id("id-{name}") permit (principal, action, resource == Topic::"{name}");'
            for name in names[part::4]
        )
        for part in range(4)
    ]
    bundle = loaded(tmp_path, *texts)

    for name in names:
        question = Question("team.sender", Kind.EVENT, name, "x")
        assert bundle.ask(question) == Answer(True, (f"id-{name}",))


def test_all_deciding_policies_are_named(tmp_path: Path) -> None:
    """Every permit of an admission and every forbid of a denial, sorted; never both."""
    texts = [
        f'@id("{effect}-{name}") {effect} (principal, action, resource)'
        f' when {{ context.in_run || "{effect}" == "permit" }};'
        for name in "bac"
        for effect in ("forbid", "permit")
    ]
    bundle = loaded(tmp_path, *texts)
    question = Question("team.sender", Kind.EVENT, "x", "x")

    assert bundle.ask(question) == Answer(True, ("permit-a", "permit-b", "permit-c"))
    assert bundle.ask(question._replace(in_run=True)) == Answer(
        False, ("forbid-a", "forbid-b", "forbid-c")
    )


def test_an_error_of_a_policy_is_a_no(tmp_path: Path) -> None:
    """The engine skips a policy that fails, also a forbid; the bundle says no instead."""
    fails = "forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };"
    bundle = loaded(tmp_path, f'@id("two") {fails} @id("one") {fails}', PERMIT)

    answer = bundle.ask(Question("team.sender", Kind.EVENT, "x", "x"))

    assert not answer.allowed
    first, second = answer.error.split("; ")
    assert first.startswith("error while evaluating policy `one`: integer overflow")
    assert second.startswith("error while evaluating policy `two`: integer overflow")


@pytest.mark.parametrize("error", [ValueError("a\nb"), KeyError(), RuntimeError("x" * 1000)])
def test_an_engine_that_raises_is_a_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever the engine raises, the gateway goes on and nothing is permitted."""

    def fail(*_: Any) -> None:
        raise error

    bundle = loaded(tmp_path, PERMIT)
    monkeypatch.setattr(cedarpy, "is_authorized_batch", fail)

    answer = bundle.ask(Question("team.sender", Kind.EVENT, "x", "x"))

    assert not answer.allowed
    assert 0 < len(answer.error) <= 300
    assert "\n" not in answer.error


texts = st.text(min_size=1, max_size=50).filter(lambda text: text.isprintable())


@EXAMPLES
@given(texts, texts, st.none() | texts)
@pytest.mark.parametrize("kind", [Kind.TASK, Kind.EVENT, Kind.RESULT, Kind.CONTROL])
def test_no_text_of_a_sender_is_read_as_policy(
    hostile: Snapshot, kind: Kind, to: str, type: str, label: str | None
) -> None:
    """Quotes, operators and entity names in `to`, `type` and label are nothing but text."""
    answer = hostile.ask(Question("team.sender", kind, to, type, dataclassification=label))

    assert answer == Answer(False, ())


@pytest.mark.parametrize(
    "text",
    [
        'x" || true || "',
        'good" }; permit (principal, action, resource); //',
        'Topic::"good"',
        '"good"',
        "good ",
        "Good",
        "\\u{67}ood",
        '{"__entity": {"type": "Topic", "id": "good"}}',
        '{"__extn": {"fn": "ip", "arg": "10.0.0.1"}}',
        "*",
        "$",
    ],
)
def test_no_text_of_a_sender_stands_for_another(hostile: Snapshot, text: str) -> None:
    """Only the very text of the policy fits it."""
    asked = Question("team.sender", Kind.EVENT, text, text, dataclassification=text)

    assert hostile.ask(asked) == Answer(False, ())
    good = asked._replace(to="good")
    assert hostile.ask(good) == Answer(True, ("good-place",))
    assert hostile.ask(asked._replace(type="good", dataclassification="good")).policies == (
        "good-texts",
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Permits what is called good and nothing else."""
    return loaded(
        tmp_path_factory.mktemp("bundle"),
        '@id("good-place") permit (principal, action, resource == Topic::"good");',
        '@id("good-texts") permit (principal, action, resource) when'
        ' { context.type == "good" && context has dataclassification'
        ' && context.dataclassification == "good" };',
    )
