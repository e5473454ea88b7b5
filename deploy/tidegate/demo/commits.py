"""The outside system: reads the last commits of a repository and makes an event of each.

It stands for whatever a team already has (a forge's webhook, a CI job): it knows the envelope
and nothing else of the bus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidegate_schemas import Envelope

from .git import DIFF, InvalidRepository, Output, read_patch, run
from .review import ChangedFile, Commit

EVENT = "repo.commit"
MAX_DATA_BYTES = 160 * 1024
"""Leaves room for the other attributes below 200 KiB, and for the answers of the reviewers."""
MAX_SUBJECT = 1_000
MAX_BODY = 16_000
MAX_AUTHOR = 200

_LOG = ("log", "-z", "--reverse", "--no-patch", "--no-show-signature", "--encoding=UTF-8")
_FORMAT = "--format=%H%n%P%n%an%n%aI%n%B"


def read_commits(repo: Path, limit: int) -> list[Commit]:
    """The last commits that HEAD reaches, as `git log` would list them, oldest first.

    Merges are among them. Bare repositories are read as well as others. In a shallow clone the
    oldest commit looks like a root commit that adds every file.

    Args:
        repo: folder of the repository, or a folder inside of it.
        limit: how many at most.

    Raises:
        InvalidRepository: it is none, it has no commits, or git is missing.
        GitStopped: git was killed.
        ValueError: a limit below 1.
    """
    if limit < 1:
        raise ValueError("the limit is at least 1")
    where = _absolute(repo)
    log = run(repo, *_LOG, _FORMAT, f"--max-count={limit}", "HEAD", "--")
    entries = [text.split("\n", 4) for text in _whole(repo, log).split("\0")[:-1]]
    shas = "".join(f"{entry[0]}\n" for entry in entries)
    diff = run(repo, *DIFF, "--stdin", "--numstat", "-z", feed=shas.encode())
    changed = dict(_changed_files(_whole(repo, diff)))
    commits: list[Commit] = []
    for sha, parents, author, authored, message in entries:
        ancestry = tuple(parents.split())
        files = changed.get(sha, []) if len(ancestry) < 2 else _merged_files(repo, sha)
        subject, _, body = message.strip("\n").partition("\n")
        commit = Commit(
            repo=where,
            sha=sha,
            parents=ancestry,
            subject=subject[:MAX_SUBJECT],
            body=body[:MAX_BODY],
            author=author[:MAX_AUTHOR],
            authored=authored,
            files=(),
            shortened=len(subject) > MAX_SUBJECT
            or len(body) > MAX_BODY
            or len(author) > MAX_AUTHOR,
        )
        commits.append(_with_files(commit, files))
    return commits


def as_event(commit: Commit) -> Envelope:
    """The event that tells of a commit. The same commit gives the same envelope, byte for byte.

    Raises:
        InvalidEnvelope: the path of the repository is too long for a URI of 1,024 characters.
    """
    place = hashlib.sha256(commit.repo.encode()).hexdigest()[:16]
    return Envelope.new(
        EVENT,
        commit,
        source=Path(commit.repo).as_uri(),
        subject=commit.sha,
        id=f"{commit.sha}.{place}",
        correlationid=commit.sha,
    )


def _absolute(repo: Path) -> str:
    where = str(repo.resolve())
    try:
        where.encode()
    except UnicodeEncodeError:
        raise InvalidRepository(repo, "its path is not UTF-8") from None
    return where


def _whole(repo: Path, output: Output) -> str:
    if not output.complete:
        raise InvalidRepository(repo, "the history is too long; ask for fewer commits")
    return output.text.decode("utf-8", "replace")


def _changed_files(numstat: str) -> Iterator[tuple[str, list[ChangedFile]]]:
    """Read `--stdin --numstat -z`: a commit id, then its files; of a rename, both names follow."""
    tokens = iter(numstat.split("\0"))
    files: list[ChangedFile] = []
    for token in tokens:
        match token.split("\t", 2):
            case [added, deleted, path]:
                if not path:
                    _, path = next(tokens, ""), next(tokens, "")
                files.append(ChangedFile(path, _count(added), _count(deleted)))
            case _:
                files = []
                yield token, files


def _count(digits: str) -> int | None:
    return int(digits) if digits.isdecimal() else None


def _merged_files(repo: Path, sha: str) -> list[ChangedFile]:
    return [
        ChangedFile(file.path, None, None)
        if file.binary
        else ChangedFile(file.path, len(file.added), file.deleted)
        for file in read_patch(repo, sha).files
    ]


def _with_files(commit: Commit, files: list[ChangedFile]) -> Commit:
    """The commit with as many of its files as fit."""
    room = MAX_DATA_BYTES - len(msgspec.json.encode(commit))
    kept = 0
    for file in files:
        room -= len(msgspec.json.encode(file)) + 1
        if room < 0:
            break
        kept += 1
    return msgspec.structs.replace(commit, files=tuple(files[:kept]), omitted=len(files) - kept)
