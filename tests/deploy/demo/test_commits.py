"""The outside system: what it reads from a repository, and the events it makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.demo.commits import as_event, read_commits
from tidegate.demo.git import InvalidRepository
from tidegate.demo.review import ChangedFile, Commit
from tidegate_schemas import Kind
from tidegate_schemas.envelope import decode, encode
from tidegate_schemas.errors import InvalidInput

from .conftest import Repository


def test_commits_come_oldest_first_with_what_git_knows_of_them(repository: Repository) -> None:
    """A commit carries its message split at the first line, its author and its files."""
    first = repository.commit({"a.py": "a\n"}, "Begin\n\nBecause.\n")
    second = repository.commit({"a.py": "b\nc\n", "b.txt": "b\n"}, "Go on")

    one, two = read_commits(repository.path, 10)

    assert (first, (), "Begin", "\nBecause.") == (one.sha, one.parents, one.subject, one.body)
    assert (second, (first,), "Go on", "") == (two.sha, two.parents, two.subject, two.body)
    assert (one.author, one.authored) == ("Ada", "2026-01-31T12:00:00+02:00")
    assert (ChangedFile("a.py", 1, 0),) == one.files
    assert (ChangedFile("a.py", 2, 1), ChangedFile("b.txt", 1, 0)) == two.files
    assert str(repository.path) == one.repo


def test_the_limit_takes_the_newest(repository: Repository) -> None:
    """With a limit, the last commits are read and the older ones are not."""
    shas = [repository.commit(message=f"Do {n}") for n in range(4)]

    assert shas[2:] == [commit.sha for commit in read_commits(repository.path, 2)]
    with pytest.raises(ValueError, match="at least 1"):
        read_commits(repository.path, 0)


def test_hard_commits(repository: Repository) -> None:
    """Binary files, renames, deletions, empty commits, odd names and links are all read."""
    odd = os.fsdecode(b"caf\xe9\t\"'.txt")
    repository.commit({"old.txt": "x\n" * 20, "gone.txt": "1\n2\n", "bin": b"\0\1"})
    repository.git("mv", "old.txt", "new name.txt")
    repository.git("rm", "--quiet", "gone.txt")
    (repository.path / "link").symlink_to("bin")
    repository.commit({odd: "é\n"}, "Move it")
    repository.commit(message="Do nothing")

    root, hard, empty = read_commits(repository.path, 3)

    assert ChangedFile("bin", None, None) in root.files
    assert {
        ChangedFile("new name.txt", 0, 0),
        ChangedFile("gone.txt", 0, 2),
        ChangedFile("link", 1, 0),
        ChangedFile("caf\ufffd\t\"'.txt", 1, 0),
    } == set(hard.files)
    assert empty.files == ()


def test_a_merge_lists_what_differs_from_every_parent(repository: Repository) -> None:
    """A clean merge lists no files; one that was resolved by hand lists what the hand changed."""
    repository.commit({"a.py": "1\n2\n3\n"})
    repository.conflict({"a.py": "1\nmain\n3\n"}, {"a.py": "1\nside\n3\n", "b.py": "b\n"})
    resolved = repository.commit({"a.py": "1\nboth\nof\n3\n"}, "Merge by hand")

    merge = read_commits(repository.path, 10)[-1]

    assert (resolved, 2) == (merge.sha, len(merge.parents))
    assert (ChangedFile("a.py", 2, 0),) == merge.files

    repository.git("checkout", "--quiet", "-b", "other")
    repository.commit({"c.py": "c\n"})
    repository.git("checkout", "--quiet", "main")
    repository.commit({"d.py": "d\n"})
    repository.git("merge", "--quiet", "--no-ff", "--no-edit", "other")
    assert read_commits(repository.path, 1)[0].files == ()


def test_submodules_are_listed_like_files(repository: Repository, tmp_path: Path) -> None:
    """A submodule counts as one changed line: the commit it stands at."""
    inner = Repository(tmp_path / "inner")
    inner.commit({"a.py": "a\n"})
    repository.git("submodule", "--quiet", "add", str(inner.path), "sub")
    repository.commit()

    (commit,) = read_commits(repository.path, 1)

    assert ChangedFile("sub", 1, 0) in commit.files


def test_messages_in_other_encodings(repository: Repository) -> None:
    """A message with a declared encoding is read in it; stray bytes become U+FFFD."""
    repository.write("a", "a")
    repository.git("add", "--all")
    latin = "Grüße".encode("latin-1")
    repository.git("-c", "i18n.commitEncoding=latin-1", "commit", "-q", "-F", "-", feed=latin)
    text = repository.git("cat-file", "commit", repository.commit(message="Stray ?"))
    raw = text.encode().replace(b"?", b"\xff")
    repository.git("reset", "-q", repository.git("hash-object", "-wtcommit", "--stdin", feed=raw))

    declared, stray = read_commits(repository.path, 2)

    assert declared.subject == "Grüße"
    assert stray.subject == "Stray \ufffd"


def test_bare_repositories_and_folders_within(repository: Repository, tmp_path: Path) -> None:
    """A bare clone and a folder inside of a work tree give the same commits."""
    sha = repository.commit({"in/a.py": "a\n"})
    bare = tmp_path / "bare.git"
    repository.git("clone", "--quiet", "--bare", str(repository.path), str(bare))

    for path in (repository.path, bare, repository.path / "in"):
        (commit,) = read_commits(path, 5)
        assert (sha, (ChangedFile("in/a.py", 1, 0),)) == (commit.sha, commit.files)


def test_repositories_with_long_ids(repository: Repository) -> None:
    """Repositories that use SHA-256 are read as well."""
    repository.git("init", "--quiet", "--object-format=sha256", "long")
    long = repository.path / "long"
    repository.git("-C", "long", "commit", "--quiet", "--allow-empty", "--message=Begin")

    (commit,) = read_commits(long, 1)

    assert len(commit.sha) == 64
    assert as_event(commit).payload(Commit) == commit


def test_what_is_no_repository(repository: Repository, tmp_path: Path) -> None:
    """A missing folder, a plain one and an empty repository are InvalidInput with the path."""
    plain = tmp_path / "plain"
    plain.mkdir()

    for path in (tmp_path / "missing", plain, repository.path):
        with pytest.raises(InvalidRepository) as caught:
            read_commits(path, 1)
        assert isinstance(caught.value, InvalidInput)
        assert path == caught.value.repo
        assert caught.value.detail


def test_a_machine_without_git(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git in PATH the error says so."""
    repository.commit()
    monkeypatch.setenv("PATH", "")

    with pytest.raises(InvalidRepository, match="git is not installed"):
        read_commits(repository.path, 1)


def test_variables_of_a_hook_do_not_lead_elsewhere(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIT_DIR, as git sets it for hooks, does not win over the path that was asked for."""
    sha = repository.commit()
    other = Repository(tmp_path / "other")
    other.commit(message="Another")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))

    assert [sha] == [commit.sha for commit in read_commits(repository.path, 5)]


def test_an_event_is_the_same_every_time(repository: Repository) -> None:
    """Id and bytes follow from the repository and the commit, so a repeat is known as one."""
    sha = repository.commit({"a.py": "a\n"})

    one, two = (as_event(read_commits(repository.path, 1)[0]) for _ in range(2))

    assert encode(one) == encode(two)
    assert one.destination() == (Kind.EVENT, "repo.commit")
    assert one.id.startswith(sha)
    assert (sha, repository.path.as_uri()) == (one.correlationid, one.source)
    assert sha == one.payload(Commit).sha


def test_copies_of_a_repository_are_different_sources(
    repository: Repository, tmp_path: Path
) -> None:
    """The same commit in another clone has another id."""
    repository.commit()
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", str(repository.path), str(clone))

    ids = {as_event(read_commits(path, 1)[0]).id for path in (repository.path, clone)}

    assert len(ids) == 2


def test_a_large_commit_is_cut_to_fit(repository: Repository) -> None:
    """However many files and however long the text, an event stays below 200 KiB and says so."""
    name = "\x01" * 100 + "{:04}"
    files = {name.format(n): "x\n" for n in range(1500)}
    repository.commit(files, "\x01" * 2_000 + "\n\n" + "\x01" * 50_000)

    (commit,) = read_commits(repository.path, 1)

    assert commit.shortened
    assert 0 < commit.omitted < 1500
    assert len(commit.files) + commit.omitted == 1500
    assert len(encode(as_event(commit))) < 200 * 1024
    assert commit == decode(encode(as_event(commit))).payload(Commit)
