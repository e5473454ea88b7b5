"""The judgement: four reviews become one word, one number and the reasons for both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from tidegate.demo.review import Judgement, Reviews, SyntaxReview

APPROVE_FROM = 90
MAX_REASONS = 20

_SECRET, _SYNTAX, _HUGE, _LARGE, _COMPLEX, _UNFINISHED, _MESSAGE = 60, 50, 25, 15, 5, 30, 5
_MOST_COMPLEX, _MOST_MESSAGE = 15, 15


def judge(reviews: Reviews) -> Judgement:
    """Weigh the reviews.

    A secret or broken Python blocks. Otherwise 100 points less the penalties: from
    `APPROVE_FROM` on it is approved, though small faults are still named; below, commented.
    """
    blocking = list(_blocking(reviews))
    costs = [*blocking, *_size(reviews), *_complexity(reviews.syntax), *_wording(reviews)]
    score = max(0, 100 - sum(cost for cost, _ in costs))
    verdict: Literal["approve", "comment", "block"]
    verdict = "block" if blocking else "approve" if score >= APPROVE_FROM else "comment"
    reasons = [reason for _, reason in costs]
    if len(reasons) > MAX_REASONS:
        reasons[MAX_REASONS - 1 :] = [f"and {len(reasons) - MAX_REASONS + 1} more"]
    return Judgement(sha=reviews.sha, verdict=verdict, score=score, reasons=tuple(reasons))


def _blocking(reviews: Reviews) -> Iterator[tuple[int, str]]:
    for leak in reviews.secrets.leaks:
        yield _SECRET, f"secret ({leak.rule}) at {leak.path}:{leak.line}: {leak.masked}"
    if reviews.syntax:
        for fault in reviews.syntax.faults:
            yield _SYNTAX, f"does not parse: {fault.path}:{fault.line}: {fault.text}"


def _size(reviews: Reviews) -> Iterator[tuple[int, str]]:
    churn = reviews.churn
    if churn.level != "ok":
        least = "" if churn.complete else "at least "
        yield (
            _HUGE if churn.level == "huge" else _LARGE,
            f"{churn.level}: {least}{churn.added + churn.deleted} lines in {churn.files} files, "
            f"most in {churn.largest or 'none'}",
        )
    if not reviews.secrets.complete:
        yield 0, f"only the first {reviews.secrets.lines} added lines were searched for secrets"


def _complexity(syntax: SyntaxReview | None) -> Iterator[tuple[int, str]]:
    if syntax is None:
        return
    for n, function in enumerate(syntax.functions):
        grew = f", was {function.before}" if function.before else ""
        yield (
            _COMPLEX if n * _COMPLEX < _MOST_COMPLEX else 0,
            f"complex: {function.name} at {function.path}:{function.line} "
            f"has {function.complexity}{grew}",
        )
    if syntax.unread:
        yield 0, f"{syntax.unread} Python files were not read"


def _wording(reviews: Reviews) -> Iterator[tuple[int, str]]:
    for n, fault in enumerate(reviews.message.faults):
        small = _MESSAGE if n * _MESSAGE < _MOST_MESSAGE else 0
        cost = _UNFINISHED if fault.rule in ("empty", "unfinished") else small
        yield cost, f"message: {fault.text}"
