"""Identities that change while the bus is down: in force as soon as it is up again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tidegate.project import load_project
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_schemas.subjects import Principal

from .test_cli import Shell, bytecode
from .test_cli_identity import NO_NEWCOMERS, connects, secret


@contextlib.contextmanager
def running(shell: Shell) -> Generator[None]:
    """The stack of a project."""
    process = shell.up(shell.folder / "up.log")
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (shell.folder / "up.log").read_text()


def test_nobody_slips_in_at_a_start(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """In operator mode: neither who was revoked meanwhile, nor whom policy refuses.

    All others are there.
    """
    outside = Shell(tmp_path, bytecode(pytestconfig))
    assert outside("init", "hello").status == 0
    shell, seed = outside.there(tmp_path / "hello"), new_seed()
    settings = shell.folder / "tidegate.yaml"
    settings.write_text(settings.read_text() + "server: {mode: operator}\n")
    project = load_project(shell.folder)
    keyring = project.state.keyring
    with running(shell):
        website = keyring.path(Principal("outside", "website")).read_text()
        assert asyncio.run(connects(project, website))
    done = shell("identity", "revoke", "outside.website")
    assert (done.status, "in force when the stack starts" in done.err) == (0, True)
    with running(shell):
        assert not asyncio.run(connects(project, website))
    (shell.folder / "policy" / "more.cedar").write_text(NO_NEWCOMERS)
    add = ("identity", "add", "no.entry", "--role", "publisher", "--key", public_key(seed))
    assert shell(*add).status == 0

    with running(shell):
        shown = shell("identity", "show", "no.entry", "--json").json
        assert (shown["state"], shown["rights"]) == ("refused", [])
        assert not asyncio.run(connects(project, secret(project, "no.entry", seed)))
        assert asyncio.run(connects(project, keyring.path(project.manifests[0].principal)))
