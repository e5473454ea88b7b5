"""The Python files that a commit changes, as they were before and as they are after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .git import DIFF, MiB, run

MAX_FILES = 100
MAX_FILE_BYTES = MiB // 2
MAX_BYTES = 8 * MiB

_FOUND = re.compile(rb"[0-9a-f]{40,64} ([a-z]+) (\d{1,18})")
_REQUIRES = re.compile(
    rb"^[ \t]*(?:requires-python|python)[ \t]*=[ \t]*[\"']"
    rb"[^\"'\n]*?(?:>=|==|~=|~|\^)[ \t]*3\.(\d{1,3})",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its text at the commit, and at each parent that has it.

    `requires` is the oldest Python that its project says it supports, e.g. `(3, 12)`.
    """

    path: str
    text: bytes
    before: tuple[bytes, ...] = ()
    requires: tuple[int, int] = (3, 0)


@dataclass(frozen=True, slots=True)
class Sources:
    """The files that were read, and how many were not: over `MAX_FILES`, or too large."""

    files: tuple[Source, ...]
    unread: int = 0


@dataclass(frozen=True, slots=True)
class _Change:
    path: str
    blob: str
    before: tuple[str, ...]

    @property
    def projects(self) -> list[str]:
        """Where a `pyproject.toml` that speaks for the file may be, the nearest first."""
        folders = PurePosixPath(self.path).parents
        return [str(folder / "pyproject.toml") for folder in folders]


def read_sources(repo: Path, sha: str) -> Sources:
    """Read them, with two calls of git at most. Links, submodules and deletions are left out.

    Raises:
        InvalidRepository: no such commit here.
        GitStopped: git was killed.
    """
    arguments = (*DIFF, "--cc", "--raw", "-z", "--no-abbrev", "--no-commit-id")
    listing = run(repo, *arguments, "--end-of-options", sha)
    changes = [change for change in _changes(listing.text) if change.path.endswith(".py")]
    wanted = changes[:MAX_FILES]
    projects = [f"{sha}:{path}" for change in wanted for path in change.projects]
    blobs = [name for change in wanted for name in (change.blob, *change.before)]
    texts = _read(repo, [name for name in dict.fromkeys((*projects, *blobs)) if "\n" not in name])
    files = tuple(
        Source(
            change.path,
            texts[change.blob],
            tuple(texts[name] for name in change.before),
            _requires(texts.get(f"{sha}:{path}", b"") for path in change.projects),
        )
        for change in wanted
        if {change.blob, *change.before} <= texts.keys()
    )
    return Sources(files, len(changes) - len(files))


def _changes(listing: bytes) -> Iterator[_Change]:
    """Regular files that exist after the commit, from `--raw -z`, combined or not."""
    tokens = iter(listing.split(b"\0"))
    for token in tokens:
        parents = len(token) - len(token.lstrip(b":"))
        fields = token.decode("ascii", "replace").lstrip(":").split(" ")
        path = next(tokens, b"")
        if parents == 1 and fields[-1].startswith(("R", "C")):
            path = next(tokens, b"")
        if len(fields) != 2 * parents + 3:
            continue
        modes, names = fields[: parents + 1], fields[parents + 1 : -1]
        if modes[-1].startswith("100"):
            before = [n for m, n in zip(modes, names, strict=True) if m.startswith("100")][:-1]
            yield _Change(path.decode("utf-8", "replace"), names[-1], tuple(before))


def _read(repo: Path, names: list[str]) -> dict[str, bytes]:
    """Contents by name; without what is missing, too large, or beyond the limit of all."""
    if not names:
        return {}
    feed = "".join(f"{name}\n" for name in names).encode()
    text = run(repo, "cat-file", "--batch", feed=feed, limit=MAX_BYTES).text
    contents: dict[str, bytes] = {}
    at = 0
    for name in names:
        end = text.find(b"\n", at)
        if end < 0:
            break
        found = _FOUND.fullmatch(text, at, end)
        at = end + 1
        if found:
            start, at = at, at + int(found[2]) + 1
            if found[1] == b"blob" and at - start <= MAX_FILE_BYTES and at <= len(text):
                contents[name] = text[start : at - 1]
    return contents


def _requires(projects: Iterator[bytes]) -> tuple[int, int]:
    """What the nearest project file that says anything says."""
    found = next(filter(None, map(_REQUIRES.search, projects)), None)
    return (3, int(found[1])) if found else (3, 0)
