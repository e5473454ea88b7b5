"""Real git repositories in a temporary folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


class Repository:
    """A repository to commit to; nobody's configuration but ours is in force."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, feed: bytes | None = None) -> str:
        """Run git and return what it writes."""
        settings = ("-c", "commit.gpgSign=false", "-c", "protocol.file.allow=always")
        done = subprocess.run(
            ["git", "-C", str(self.path), *settings, *arguments],
            input=feed,
            capture_output=True,
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_AUTHOR_NAME": "Ada",
                "GIT_AUTHOR_EMAIL": "ada@example.com",
                "GIT_AUTHOR_DATE": "2026-01-31T12:00:00+02:00",
                "GIT_COMMITTER_NAME": "Bob",
                "GIT_COMMITTER_EMAIL": "bob@example.com",
                "GIT_COMMITTER_DATE": "2026-01-31T12:00:00+02:00",
            },
        )
        return done.stdout.decode("utf-8", "replace").strip()

    def write(self, path: str, content: str | bytes) -> None:
        """Write a file of the work tree; odd bytes of the path as `os.fsdecode` gives them."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(
        self, files: Mapping[str, str | bytes] | None = None, message: str = "Change it"
    ) -> str:
        """Write files, commit all there is, return the id."""
        for path, content in (files or {}).items():
            self.write(path, content)
        self.git("add", "--all")
        options = ("--quiet", "--allow-empty", "--allow-empty-message", "--cleanup=verbatim")
        self.git("commit", *options, "--file=-", feed=message.encode())
        return self.head

    @property
    def head(self) -> str:
        """The id of the newest commit."""
        return self.git("rev-parse", "HEAD")

    def conflict(self, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
        """Commit on two branches and begin to merge; the caller resolves and commits."""
        self.git("checkout", "--quiet", "-b", "side")
        self.commit(theirs, "Change it on the side")
        self.git("checkout", "--quiet", "main")
        self.commit(ours, "Change it on main")
        self.git("merge", "--quiet", "--no-commit", "--no-ff", "--strategy=ours", "side")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository."""
    return Repository(tmp_path / "project")
