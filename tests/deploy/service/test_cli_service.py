"""`tidegate service`, on a machine that systemd does not run, and with one that is made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.test_cli_alone import Program
from tidegate.project import Project
from tidegate.service import systemd as module
from tidegate.service import units
from tidegate.service.units import Manager


@pytest.fixture
def tidegate(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Program:
    """The program in the project's folder, for a user whose home is empty, without a systemd."""
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_BOOTED", tmp_path / "nothing")
    return Program(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where units of this user are."""
    return tmp_path / "systemd" / "user"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tidegate: Program) -> Path:
    """A machine that systemd runs: what its programs are told, a line each."""
    log, programs = tmp_path / "told", tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "journalctl"):
        script = programs / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\ncat {tmp_path}/answer\n')
        script.chmod(0o755)
    (tmp_path / "answer").touch()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(module, "_BOOTED", tmp_path)
    return log


def test_install_writes_the_units_and_says_what_each_may_touch(
    tidegate: Program, folder: Path, project: Project
) -> None:
    """A second time there is nothing to do; uninstall leaves nothing."""
    done = tidegate("service", "install", "--user")

    assert done.status == 0
    assert "no systemd runs this machine" in done.err
    assert "systemctl --user enable --now tidegate-hello.target" in done.out
    for word in ("gateway", "decides on every message", "this machine", "jetstream"):
        assert word in done.out
    assert {path.name for path in folder.iterdir()} == units(project, Manager(None)).keys()
    assert "as they were in" in tidegate("service", "install", "--user").out
    assert "tidegate-hello.target" in tidegate("service", "uninstall", "--user").out
    assert "nothing was there" in tidegate("service", "uninstall", "--user").out
    assert not [*folder.iterdir()]


def test_nothing_is_written_when_it_is_only_to_be_shown(
    tidegate: Program, folder: Path, project: Project
) -> None:
    """Neither with --print, which gives the text of all, nor with --dry-run."""
    shown = tidegate("service", "install", "--owner", "tidegate", "--print")
    dry = tidegate("service", "install", "--user", "--dry-run")

    for name, text in units(project, Manager("tidegate")).items():
        assert f"### {name}\n{text}" in shown.out
    assert f"would be written in {folder}: tidegate-hello.target" in dry.out
    assert not folder.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs a folder of root")
def test_nothing_runs_as_root(tidegate: Program) -> None:
    """Whom nothing holds back; another user is to be named."""
    done = tidegate("service", "install", "--dry-run")

    assert done.status == 2
    assert "belongs to root" in done.err
    assert "--owner" in done.err


def test_without_systemd_status_and_logs_say_so(tidegate: Program, project: Project) -> None:
    """And what there is instead."""
    status, logs = tidegate.each(("service", "status", "gateway"), ("service", "logs"))

    assert (status.status, logs.status) == (1, 2)
    assert "no systemd runs this machine" in status.err
    assert "not ready" in status.out
    assert f"`tidegate up` keeps logs in {project.state.logs}" in logs.err


def test_somebody_who_is_no_process_is_not_known(tidegate: Program) -> None:
    """Agents are known by their own name too."""
    done = tidegate("service", "status", "front-desk.greeter", "front-desk.nobody")

    assert done.status == 2
    assert "no process front-desk.nobody; known: broker, gateway, notary" in done.err


def test_systemd_is_told_what_there_is(tidegate: Program, told: Path) -> None:
    """After units were written, and before they are removed: they are stopped first."""
    tidegate("service", "install", "--user")
    tidegate("service", "uninstall", "--user")

    install, disable, stop, reload = told.read_text().splitlines()
    assert install == reload == "systemctl --user daemon-reload"
    assert disable == "systemctl --user disable --now tidegate-hello.target"
    assert stop.startswith("systemctl --user stop tidegate-hello-")
    assert "tidegate-hello-broker.service" in stop


def test_status_shows_what_systemd_says(tidegate: Program, told: Path, tmp_path: Path) -> None:
    """Its state, and how often it had to start a process again; or that it does not know it."""
    blocks = [
        f"Id=tidegate-hello-{name}.service\nLoadState={load}\nActiveState={state}\n"
        f"SubState={sub}\nNRestarts={again}\n"
        for name, load, state, sub, again in (
            ("broker", "loaded", "active", "running", 3),
            ("gateway", "not-found", "inactive", "dead", 0),
        )
    ]
    (tmp_path / "answer").write_text("\n".join(blocks))

    broker, gateway = tidegate("service", "status", "broker", "gateway", "--json").json

    assert broker["systemd"] == "active (running), 3 restarts"
    assert gateway["systemd"] == "not installed"
    assert broker["health"] == gateway["health"] == "not ready"
    assert told.read_text().startswith("systemctl show --property=Id,LoadState,")


def test_a_systemd_that_says_no_is_quoted(tidegate: Program, told: Path, tmp_path: Path) -> None:
    """With what was asked, and what it said."""
    script = tmp_path / "bin" / "systemctl"
    script.write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")

    done = tidegate("service", "status")

    assert done.status == 2
    assert "systemctl show" in done.err
    assert "Failed to connect to bus" in done.err


def test_logs_are_those_of_the_journal(
    tidegate: Program, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the processes that are named, as many lines as are asked for."""
    became: list[list[str]] = []

    def become(_: str, words: list[str]) -> None:
        became.append(words)

    monkeypatch.setattr(os, "execvp", become)

    tidegate("service", "logs", "gateway", "-f", "-n", "5", "--user")

    assert became == [
        ["journalctl", "--user", "--lines=5", "--follow", "--unit=tidegate-hello-gateway.service"]
    ]
