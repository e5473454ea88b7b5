"""Groups: the author says who is in which, the ledger says who is there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policy.kit import MEMBERS, PERMIT
from tidegate_policy.bundle import Bundle, Question
from tidegate_policy.roster import BUILT_IN, Roster
from tidegate_schemas.errors import InvalidPolicy
from tidegate_schemas.subjects import Kind


def entity(kind: str, name: str, *parents: tuple[str, str]) -> dict[str, Any]:
    """One entity of the file."""
    return {
        "uid": {"type": kind, "id": name},
        "attrs": {},
        "parents": [{"type": of, "id": parent} for of, parent in parents],
    }


GROUPS = [
    entity("Agent", "team.sender", ("Group", "inner")),
    entity("Agent", "not.there", ("Group", "inner")),
    entity("Group", "inner", ("Group", "outer")),
    entity("Topic", "x", ("Group", "topics")),
    entity("Capability", "work.do", ("Group", "works"), ("Team", "guests")),
    entity("Team", "team", ("Group", "teams")),
]


def bundle(rules: str, groups: list[Any]) -> Bundle:
    """A bundle with these."""
    return Bundle.of_files({"a.cedar": rules, "entities.json": json.dumps(groups)})


@pytest.mark.parametrize(
    ("scope", "kind", "to", "allowed"),
    [
        ('principal in Group::"inner", action, resource', Kind.EVENT, "x", True),
        ('principal in Group::"outer", action, resource', Kind.EVENT, "x", True),
        ('principal in Group::"teams", action, resource', Kind.EVENT, "x", True),
        ('principal in Group::"topics", action, resource', Kind.EVENT, "x", False),
        ('principal, action, resource in Group::"topics"', Kind.EVENT, "x", True),
        ('principal, action, resource in Group::"topics"', Kind.EVENT, "y", False),
        ('principal, action, resource in Group::"works"', Kind.TASK, "work.do", True),
        ('principal, action, resource in Team::"guests"', Kind.TASK, "work.do", True),
        ('principal, action, resource in Team::"team"', Kind.TASK, "work.do", True),
        ('principal, action, resource in Group::"teams"', Kind.TASK, "work.do", True),
    ],
)
def test_rules_ask_for_groups(scope: str, kind: Kind, to: str, allowed: bool) -> None:
    """Parents of the file come to those that follow from the roster."""
    asked = bundle(f'@id("a") permit ({scope});', GROUPS).snapshot(Roster.of(MEMBERS))

    assert asked.ask(Question("team.sender", kind, to, "x")).allowed is allowed


def test_who_is_not_in_the_roster_is_not_there() -> None:
    """The file cannot let anybody take part, and gives nobody a role."""
    rules = '@id("a") permit (principal in Group::"inner", action, resource);'
    snapshot = bundle(rules, GROUPS).snapshot(BUILT_IN)

    assert not snapshot.ask(Question("not.there", Kind.EVENT, "x", "x")).allowed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[\n{"uid": 1}]', "entities.json:2: an entity is named as"),
        (
            '[\n\n{"uid": {"type": "Robot", "id": "a"}}]',
            "entities.json:3: there is no type 'Robot'",
        ),
        ('[{"uid": {"type": "Topik", "id": "a"}}]', "did you mean Topic?"),
        ('[{"uid": {"type": "Topic", "id": ""}}]', "an id is 1 to 255 printable characters"),
        ('[{"uid": {"type": "Topic", "id": "a"}, "parent": []}]', "did you mean parents?"),
        (
            '[{"uid": {"type": "Agent", "id": "a.b"}, "attrs": {"role": "operator"}}]',
            "not the auth",
        ),
        ('[{"uid": {"type": "Topic", "id": "a"}, "parents": {}}]', "is not a list"),
        (
            '[{"uid": {"type": "Topic", "id": "a"}, "parents": [{"type": "Team", "id": "t"}]}]',
            "of type Topic, it may be in a Group",
        ),
        (
            '[{"uid": {"type": "Topic", "id": "a"}},\n{"uid": {"type": "Topic", "id": "a"}}]',
            'entities.json:2: Topic::"a" is there already',
        ),
        (
            '[{"uid": {"type": "Group", "id": "a"}, "parents": [{"type": "Group", "id": "a"}]}]',
            "a group must not be inside of itself",
        ),
        ("{}", "not a list of entities"),
        ("[\n1, ]", "entities.json:2: malformed JSON"),
        ('[{"uid": 1, "uid": 2}]', "a member is given twice"),
        ("[" * 100_000, "malformed JSON"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(text: str, problem: str) -> None:
    """Each fault with its line, and no bundle comes of it."""
    with pytest.raises(InvalidPolicy) as caught:
        Bundle.of_files({"a.cedar": PERMIT, "entities.json": text})

    assert problem in str(caught.value)


def test_circles_are_found_wherever_they_are() -> None:
    """Also through several groups, and beside good ones."""
    circle = [
        entity("Group", name, ("Group", to)) for name, to in (("a", "b"), ("b", "c"), ("c", "a"))
    ]

    with pytest.raises(InvalidPolicy, match="inside of itself"):
        bundle(PERMIT, [*GROUPS, *circle])
