"""Reading a repository: within bounds, and the same whatever is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.demo.git import GitStopped, InvalidRepository, read_patch, run
from tidegate.demo.patch import FilePatch

from .conftest import Repository


def test_output_is_bounded(repository: Repository) -> None:
    """Git is stopped at the limit, and what was read says that it is not all."""
    sha = repository.commit({"a.txt": "x" * 99 + "\n" + "y\n" * 500_000})

    assert len(run(repository.path, "show", sha, limit=1000).text) == 1000
    patch = read_patch(repository.path, sha, limit=1000)
    assert not patch.complete
    assert 0 < len(patch.files[0].added) < 1000


def test_time_is_bounded(repository: Repository) -> None:
    """Git is killed when its time is over; that is worth a retry."""
    with pytest.raises(GitStopped) as caught:
        run(repository.path, "-c", "alias.wait=!sleep 60", "wait", timeout=0.2)

    assert caught.value.retryable


def test_a_commit_that_is_not_there(repository: Repository) -> None:
    """An unknown id, or one that looks like an option, is an error that names the repository."""
    repository.commit()

    for sha in ("0" * 40, "--output=stolen"):
        with pytest.raises(InvalidRepository, match="project"):
            read_patch(repository.path, sha)
    assert not list(repository.path.glob("stolen*"))


def test_configuration_of_the_repository_changes_nothing(repository: Repository) -> None:
    """Colours, prefixes, external diffs and text conversions of the owner are not in force."""
    repository.commit({"a.txt": "1\n", ".gitattributes": "*.txt diff=own\n"})
    sha = repository.commit({"a.txt": "1\n2\n"})
    trap = repository.path / "trap"
    expected = read_patch(repository.path, sha)
    for name, value in {
        "color.ui": "always",
        "diff.external": f"touch {trap};",
        "diff.mnemonicPrefix": "true",
        "diff.own.textconv": f"touch {trap};",
        "diff.own.command": f"touch {trap};",
        "diff.renames": "false",
        "diff.relative": "true",
        "log.showSignature": "true",
    }.items():
        repository.git("config", name, value)

    assert expected == read_patch(repository.path, sha)
    assert expected.files[0].added == [(2, b"2")]
    assert not trap.exists()


def test_patches_of_hard_commits(repository: Repository) -> None:
    """Renames, deletions, binary files, odd names and lines that look like headers are read."""
    repository.commit({"old": "".join(f"{n}\n" for n in range(20)), "gone": "1\n2\n"})
    repository.git("mv", "old", "new name")
    repository.git("rm", "--quiet", "gone")
    new = "".join(f"{n}\n" for n in range(20)) + "++ b/evil\n-- a/evil"
    sha = repository.commit({"new name": new, 'tab\t"q"': "@@ -1 +1 @@\n", "bin": b"\0"})

    files = {file.path: file for file in read_patch(repository.path, sha).files}

    assert FilePatch("bin", binary=True) == files["bin"]
    assert FilePatch("gone", deleted=2) == files["gone"]
    assert FilePatch("new name", [(21, b"++ b/evil"), (22, b"-- a/evil")]) == files["new name"]
    assert FilePatch('tab\t"q"', [(1, b"@@ -1 +1 @@")]) == files['tab\t"q"']
    assert len(files) == 4


def test_patches_of_merges(repository: Repository) -> None:
    """Of a merge, only lines that stand in no parent count, with their line numbers."""
    repository.commit({"a": "1\n2\n3\n4\n"})
    repository.conflict({"a": "1\nmain\n3\n4\n"}, {"a": "1\nside\n3\n4\n", "b": "b\n"})
    sha = repository.commit({"a": "1\nmain\nside\nown\n3\n", "b": "b\n"})

    (file,) = read_patch(repository.path, sha).files

    assert FilePatch("a", [(4, b"own")], deleted=1) == file


def test_patches_of_merges_of_three(repository: Repository) -> None:
    """An octopus merge is read like any other."""
    repository.commit({"a": "0\n"})
    for name in ("one", "two"):
        repository.git("checkout", "--quiet", "-b", name, "main")
        repository.commit({name: f"{name}\n", "a": f"{name}\n"})
    repository.git("checkout", "--quiet", "main")
    repository.commit({"main": "main\n", "a": "main\n"})
    repository.git("merge", "-q", "--no-commit", "--strategy=ours", "one", "two")
    sha = repository.commit({"a": "all\n"})

    assert len(repository.git("rev-parse", f"{sha}^@").split()) == 3
    assert (FilePatch("a", [(1, b"all")]),) == read_patch(repository.path, sha).files


def test_submodules_and_empty_commits(repository: Repository, tmp_path: Path) -> None:
    """A submodule is a file of one line; an empty commit has no files."""
    inner = Repository(tmp_path / "inner")
    inner.commit({"a.py": "a\n"})
    repository.git("submodule", "--quiet", "add", str(inner.path), "sub")
    with_submodule, empty = repository.commit(), repository.commit()

    files = {file.path: file.lines for file in read_patch(repository.path, with_submodule).files}

    assert files["sub"] == 1
    assert read_patch(repository.path, empty).files == ()
