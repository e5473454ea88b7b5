"""Size of a change: how much a commit asks of its readers."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from tidegate.demo.patch import FilePatch, Patch
from tidegate.demo.review import ChurnReview

LARGE_LINES, LARGE_FILES = 400, 20
"""Studies of code review see attention drop at a few hundred lines."""
HUGE_LINES, HUGE_FILES = 2_000, 100

_GENERATED_NAMES = frozenset(
    {
        "Cargo.lock",
        "composer.lock",
        "Gemfile.lock",
        "go.sum",
        "package-lock.json",
        "Pipfile.lock",
        "pnpm-lock.yaml",
        "poetry.lock",
        "uv.lock",
        "yarn.lock",
    }
)
_GENERATED_ENDS = (".min.js", ".min.css", ".map", ".pb.go", "_pb2.py", ".snap")


def review_churn(patch: Patch) -> ChurnReview:
    """Measure a change. One too long to be read whole is huge, whatever was counted."""
    read = [file for file in patch.files if not is_generated(file.path)]
    added = sum(len(file.added) for file in read)
    deleted = sum(file.deleted for file in read)
    largest = max(read, key=lambda file: file.lines, default=FilePatch(""))
    lines, files = added + deleted, len(read)
    level: Literal["ok", "large", "huge"] = "ok"
    if not patch.complete or lines > HUGE_LINES or files > HUGE_FILES:
        level = "huge"
    elif lines > LARGE_LINES or files > LARGE_FILES:
        level = "large"
    return ChurnReview(
        level=level,
        files=files,
        added=added,
        deleted=deleted,
        generated=sum(file.lines for file in patch.files) - lines,
        binary=sum(file.binary for file in read),
        largest=largest.path if largest.lines else "",
        largest_lines=largest.lines,
        complete=patch.complete,
    )


def is_generated(path: str) -> bool:
    """Whether a file is, by its name, written by a tool and read by nobody."""
    return PurePosixPath(path).name in _GENERATED_NAMES or path.endswith(_GENERATED_ENDS)
