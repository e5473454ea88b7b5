"""Commit messages."""

from __future__ import annotations

import pytest

from tidegate.demo.analysis.message import review_message
from tidegate.demo.commits import read_commits
from tidegate.demo.review import CommitMessage

from .conftest import Repository


def rules_of(subject: str, body: str = "", *, merge: bool = False) -> list[str]:
    """The rules that a message breaks."""
    review = review_message(CommitMessage(subject=subject, body=body, merge=merge))
    return [fault.rule for fault in review.faults]


@pytest.mark.parametrize(
    ("subject", "rules"),
    [
        ("Add a gateway", []),
        ("feat(bus)!: add a gateway", []),
        ("ADR-60: Clarify names", []),
        ("Fixes for the gateway", []),
        ("Speed up the gateway...", []),
        ("", ["empty"]),
        ("Added a gateway", ["mood"]),
        ("fix: removes the gateway", ["mood"]),
        ("[bus] Fixing the gateway", ["mood"]),
        ("x" * 40 + " " + "y" * 40, ["subject-length"]),
        ("Add a gateway.", ["full-stop"]),
        ("update", ["terse"]),
        ("fixup! Add a gateway", ["unfinished"]),
        ("WIP: add a gateway", ["unfinished"]),
        ("[wip] add a gateway", ["unfinished"]),
        ("Wiper blades are black", []),
        ('Revert "Added everything that was ever asked for by anybody who asked us for it."', []),
    ],
)
def test_subjects(subject: str, rules: list[str]) -> None:
    """A subject is short, an order, without a full stop, and says that the work is done."""
    assert rules == rules_of(subject)


def test_subjects_of_merges() -> None:
    """Git writes the subjects of merges, so nobody is blamed for them."""
    subject = f"Merge branch '{'x' * 80}' into main."

    assert rules_of(subject, merge=True) == []
    assert rules_of("WIP merge", merge=True) == ["unfinished"]


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        ("", []),
        ("\nBecause.", []),
        ("Because.", ["blank-line"]),
        ("\n" + "word " * 20, ["body-wrap"]),
        ("\n    " + "code " * 20, []),
        ("\n```\n" + "code " * 20 + "\n```\n", []),
        ("\n> " + "quote " * 20, []),
        ("\n| " + "cell | " * 20, []),
        ("\nSee " + "and " * 10 + "https://example.com/" + "x" * 60, []),
        ("\n" + "x" * 200, []),
        ("\nCo-authored-by: " + "Somebody " * 9, []),
    ],
)
def test_bodies(body: str, rules: list[str]) -> None:
    """A blank line stands before a body of wrapped lines; code, quotes and links stay whole."""
    assert rules == rules_of("Add a gateway", body)


def test_messages_as_git_stores_them(repository: Repository) -> None:
    """What the event holds of a message is enough to see a second line that is not blank."""
    repository.commit(message="Add a gateway\n\nBecause.\n")
    repository.commit(message="Add a gateway\nBecause.\n")
    repository.commit(message="")

    found = [rules_of(commit.subject, commit.body) for commit in read_commits(repository.path, 3)]

    assert found == [[], ["blank-line"], ["empty"]]
