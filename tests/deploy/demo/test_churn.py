"""Size of a change."""

from __future__ import annotations

import pytest

from tidegate.demo.analysis.churn import is_generated, review_churn
from tidegate.demo.git import read_patch
from tidegate.demo.patch import FilePatch, Patch
from tidegate.demo.review import ChurnReview

from .conftest import Repository


def test_a_commit_is_measured(repository: Repository) -> None:
    """Files, lines, binary files and the largest file are those of the commit."""
    repository.commit({"a": "1\n2\n3\n", "gone": "gone\n"})
    repository.git("rm", "--quiet", "gone")
    sha = repository.commit({"a": "1\n2\n", "b": "1\n2\n3\n4\n", "bin": b"\0", "uv.lock": "1\n"})

    expected = ChurnReview(
        level="ok",
        files=4,
        added=4,
        deleted=2,
        generated=1,
        binary=1,
        largest="b",
        largest_lines=4,
        complete=True,
    )
    assert expected == review_churn(read_patch(repository.path, sha))


@pytest.mark.parametrize(
    ("files", "lines", "level"),
    [
        (0, 0, "ok"),
        (1, 400, "ok"),
        (1, 401, "large"),
        (20, 1, "ok"),
        (21, 1, "large"),
        (1, 2_001, "huge"),
        (101, 0, "huge"),
    ],
)
def test_levels(files: int, lines: int, level: str) -> None:
    """Many lines or many files make a change large, then huge."""
    patch = Patch(tuple(FilePatch(str(n), deleted=lines) for n in range(files)))

    assert level == review_churn(patch).level


def test_generated_files_do_not_count() -> None:
    """Ten thousand lines of a lock file are no work for readers."""
    patch = Patch((FilePatch("web/package-lock.json", deleted=10_000), FilePatch("a", deleted=1)))

    review = review_churn(patch)

    assert (review.level, review.files, review.deleted, review.generated) == ("ok", 1, 1, 10_000)
    assert not is_generated("lock.py")


def test_what_is_too_long_to_read_is_huge() -> None:
    """A patch that was cut is huge, and its numbers are lower bounds."""
    review = review_churn(Patch((FilePatch("a", deleted=1),), complete=False))

    assert (review.level, review.complete) == ("huge", False)
