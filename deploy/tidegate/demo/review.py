"""What travels in the demo: the commit under review, four reviews of it, one judgement.

Lists are short on purpose (an envelope is bounded): where one is cut, a number beside it tells
how many there were.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Sha = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]
"""A commit id, in full. Nothing else may become an argument of git."""


class CommitRef(msgspec.Struct, frozen=True, kw_only=True):
    """Where a commit is: the reviewers read the rest from the repository themselves.

    They read whichever repository the publisher of the event names, and report of secrets no more
    than a masked form: who may publish `repo.commit` is a matter of policy.
    """

    repo: str
    sha: Sha


class ChangedFile(msgspec.Struct, frozen=True):
    """One file of a commit, by its new path; `added` and `deleted` are null for a binary file."""

    path: str
    added: int | None
    deleted: int | None


class Commit(CommitRef, frozen=True, kw_only=True):
    """The data of the event `repo.commit`.

    Attributes:
        repo: absolute path of the repository.
        parents: none for a root commit, two or more for a merge.
        subject: first line of the message.
        body: all that follows the first line, verbatim, so that it begins with a blank line.
        authored: RFC 3339, in the author's offset.
        files: what the commit changed; of a merge, what differs from every parent.
        omitted: how many more files there are, left out to keep the envelope small.
        shortened: the subject, the body or the author's name was cut for the same reason.
    """

    parents: tuple[Sha, ...]
    subject: str
    body: str
    author: str
    authored: str
    files: tuple[ChangedFile, ...]
    omitted: int = 0
    shortened: bool = False


class CommitMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The task of `review.message`; fields as in `Commit`."""

    subject: str
    body: str
    merge: bool = False


class Leak(msgspec.Struct, frozen=True):
    """A secret in an added line. `masked` shows enough to find it and too little to use it."""

    path: str
    line: int
    rule: str
    masked: str


class SecretsReview(msgspec.Struct, frozen=True, kw_only=True):
    """What `review.secrets` found.

    Attributes:
        leaks: the first of them.
        total: how many there are.
        lines: added lines that were searched.
        binary: files that were not searched, because git takes them for binary.
        complete: False when the patch was too long to be read to its end.
    """

    leaks: tuple[Leak, ...]
    total: int
    lines: int
    binary: int
    complete: bool


class ChurnReview(msgspec.Struct, frozen=True, kw_only=True):
    """How much a commit asks of its readers.

    Attributes:
        level: judged by `files`, `added` and `deleted`, without `generated`.
        files, added, deleted: what people have to read.
        generated: changed lines of lock files and the like; not in the numbers above.
        binary: how many of the files are binary.
        largest, largest_lines: the file with the most changed lines; empty when there is none.
        complete: False when the patch was too long, so that the numbers are lower bounds.
    """

    level: Literal["ok", "large", "huge"]
    files: int
    added: int
    deleted: int
    generated: int
    binary: int
    largest: str
    largest_lines: int
    complete: bool


class SyntaxFault(msgspec.Struct, frozen=True):
    """A Python file that does not parse and that parsed, or was not there, before the commit."""

    path: str
    line: int
    text: str


class ComplexFunction(msgspec.Struct, frozen=True):
    """A function that the commit made too complex; `before` is 0 when it is new."""

    path: str
    line: int
    name: str
    complexity: int
    before: int


class SyntaxReview(msgspec.Struct, frozen=True, kw_only=True):
    """What `review.syntax` found in the changed Python files.

    Attributes:
        files: how many were read.
        faults: files that the commit broke, the first of them.
        functions: the worst that it made too complex.
        total_functions: how many it made too complex.
        unread: files that were too many or too large.
    """

    files: int
    faults: tuple[SyntaxFault, ...]
    functions: tuple[ComplexFunction, ...]
    total_functions: int
    unread: int


class MessageFault(msgspec.Struct, frozen=True):
    """Something that a reader of the history will stumble over."""

    rule: str
    text: str


class MessageReview(msgspec.Struct, frozen=True):
    """What `review.message` found."""

    faults: tuple[MessageFault, ...]


class Reviews(msgspec.Struct, frozen=True, kw_only=True):
    """The task of `review.verdict`. `syntax` is null when the commit touches no Python."""

    sha: Sha
    secrets: SecretsReview
    churn: ChurnReview
    syntax: SyntaxReview | None
    message: MessageReview


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What the team says of a commit. `score` is 0 to 100; `reasons` come gravest first."""

    sha: Sha
    verdict: Literal["approve", "comment", "block"]
    score: int
    reasons: tuple[str, ...]
