"""Rights in words: every subject of the permissions, and nothing besides."""

from __future__ import annotations

import re

import pytest

from tidegate.rights import rights, summary
from tidegate_bus.broker.accounts import account, permissions
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

WHO = Principal("some-team", "some-name")
LOOK_ALIKES = [Principal("gateway", "tail"), Principal("0", "0"), Principal("in", "receipt")]
LINE = re.compile(r"(?P<words>.+) \((?P<subject>\S+)\)")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("who", [WHO, *LOOK_ALIKES], ids=str)
def test_every_subject_is_explained(who: Principal, role: Role) -> None:
    """In words of its own, in the order of the permissions; publishing is not hearing."""
    allowed = permissions(who, role)
    first, *lines = rights(who, role)
    found = [LINE.fullmatch(line) for line in lines]

    assert first.startswith("connect to ")
    assert [m["subject"] for m in found if m] == [*allowed.publish, *allowed.subscribe]
    words = [m["words"] for m in found if m]
    assert len(set(words)) == len(words)
    assert not {"publish", "hear"} & set(words)
    heard = words[len(allowed.publish) :]
    assert all(word.startswith("hear ") for word in heard)
    assert not any(word.startswith("hear ") for word in words[: len(allowed.publish)])


def test_two_roles_that_may_something_else_read_differently() -> None:
    """What a line says follows from the subject, so the same words mean the same right."""
    meaning: dict[str, str] = {}
    for role in Role:
        for line in rights(WHO, role)[1:]:
            found = LINE.fullmatch(line)
            assert found
            assert meaning.setdefault(found["words"], found["subject"]) == found["subject"]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("role", Role)
def test_the_account_is_named_as_it_is(role: Role, together: bool) -> None:
    """In operator mode one for all who submit or receive; else everybody has their own."""
    line = rights(WHO, role, together=together)[0]
    if account(role) == "AGENTS" and not together:
        assert line == "connect to an account of its own, from which no stream can be reached"
    else:
        assert line.startswith(f"connect to the account {account(role)}, ")


def test_the_summary_says_the_same_without_subjects() -> None:
    """In one line, without the account."""
    lines = rights(WHO, Role.PUBLISHER)[1:]
    words = [line.partition(" (")[0] for line in lines]
    assert summary(WHO, Role.PUBLISHER) == ", ".join(words)
    assert str(WHO) not in summary(WHO, Role.PUBLISHER)
