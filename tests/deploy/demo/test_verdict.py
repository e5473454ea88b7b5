"""The judgement of four reviews."""

from __future__ import annotations

import msgspec
import pytest

from tidegate.demo.analysis.churn import review_churn
from tidegate.demo.analysis.secrets import review_secrets
from tidegate.demo.analysis.verdict import MAX_REASONS, judge
from tidegate.demo.patch import FilePatch, Patch
from tidegate.demo.review import (
    ComplexFunction,
    Leak,
    MessageFault,
    MessageReview,
    Reviews,
    SyntaxFault,
    SyntaxReview,
)

SPOTLESS = Reviews(
    sha="0" * 40,
    secrets=review_secrets(Patch(())),
    churn=review_churn(Patch(())),
    syntax=SyntaxReview(files=0, faults=(), functions=(), total_functions=0, unread=0),
    message=MessageReview(()),
)
LEAK = Leak("a.py", 3, "password", "k*** (12 characters)")
FAULT = SyntaxFault("a.py", 7, "invalid syntax")


def replace(**changes: object) -> Reviews:
    """Spotless reviews but for some of them."""
    return msgspec.structs.replace(SPOTLESS, **changes)


def secrets(*leaks: Leak) -> Reviews:
    """Reviews that found secrets."""
    return replace(secrets=msgspec.structs.replace(SPOTLESS.secrets, leaks=leaks))


def syntax(**changes: object) -> Reviews:
    """Reviews that found something about Python."""
    assert SPOTLESS.syntax
    return replace(syntax=msgspec.structs.replace(SPOTLESS.syntax, **changes))


def message(*rules: str) -> Reviews:
    """Reviews that found faults in the message."""
    return replace(message=MessageReview(tuple(MessageFault(rule, rule) for rule in rules)))


def lines(count: int) -> Reviews:
    """Reviews of a commit with so many lines."""
    return replace(churn=review_churn(Patch((FilePatch("a.py", deleted=count),))))


def functions(count: int) -> Reviews:
    """Reviews that found complex functions."""
    return syntax(functions=tuple(ComplexFunction("a.py", n, "f", 12, 0) for n in range(count)))


@pytest.mark.parametrize(
    ("reviews", "verdict", "score", "reasons"),
    [
        (SPOTLESS, "approve", 100, 0),
        (replace(syntax=None), "approve", 100, 0),
        (secrets(LEAK), "block", 40, 1),
        (secrets(LEAK, LEAK), "block", 0, 2),
        (syntax(faults=(FAULT,)), "block", 50, 1),
        (syntax(unread=2), "approve", 100, 1),
        (lines(500), "comment", 85, 1),
        (lines(5_000), "comment", 75, 1),
        (functions(2), "approve", 90, 2),
        (functions(5), "comment", 85, 5),
        (message("mood"), "approve", 95, 1),
        (message("mood", "terse", "full-stop"), "comment", 85, 3),
        (message("unfinished"), "comment", 70, 1),
    ],
)
def test_verdicts(reviews: Reviews, verdict: str, score: int, reasons: int) -> None:
    """A secret or broken Python blocks; what is large or careless is commented; all is named."""
    judgement = judge(reviews)

    assert (judgement.verdict, judgement.score) == (verdict, score)
    assert len(judgement.reasons) == reasons


def test_reasons_say_where_and_what() -> None:
    """The gravest reason stands first; each names its place; a secret stays masked."""
    reviews = msgspec.structs.replace(
        syntax(faults=(FAULT,)), secrets=secrets(LEAK).secrets, message=message("mood").message
    )

    assert judge(reviews).reasons == (
        "secret (password) at a.py:3: k*** (12 characters)",
        "does not parse: a.py:7: invalid syntax",
        "message: mood",
    )


def test_what_was_not_read_is_told() -> None:
    """A patch that was cut is a reason, with numbers that claim no more than was read."""
    cut = Patch((FilePatch("a", deleted=1),), complete=False)

    reasons = judge(replace(churn=review_churn(cut), secrets=review_secrets(cut))).reasons

    assert reasons[0].startswith("huge: at least 1 lines in 1 files")
    assert reasons[1].startswith("only the first 0 added lines")


def test_reasons_are_bounded() -> None:
    """However much was found, the list is short and says how much it leaves out."""
    reasons = judge(secrets(*[LEAK] * 50)).reasons

    assert len(reasons) == MAX_REASONS
    assert reasons[-1] == "and 31 more"
