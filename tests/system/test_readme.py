"""The README is run: every command and every snippet in it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support import until
from tidegate_agents.agent import load_agent
from tidegate_policy.bundle import Bundle
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.documents import loads
from tidegate_schemas.settings import Settings
from tidegate_schemas.subjects import Kind

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
TIDEGATE = Path(sysconfig.get_path("scripts")) / "tidegate"
ENVIRONMENT = {**os.environ, "PATH": f"{TIDEGATE.parent}{os.pathsep}{os.environ['PATH']}"}


class Block(NamedTuple):
    """A fenced block of the README."""

    language: str
    text: str


def _blocks(*languages: str) -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found if language in languages]


def _transcript(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands, each with the lines that are shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown.rstrip("\n").split("\n") if shown.strip() else []


def _normal(line: str) -> str:
    """Without what differs from run to run: numbers, ids, amounts of white space."""
    line = re.sub(r"\b[0-9a-f]{16,}\b", "ID", line)
    return re.sub(r"\s+", " ", re.sub(r"[\d,]*\d(\.\d+)?", "N", line)).strip()


def _assert_shows(expected: list[str], output: str) -> None:
    """The output has the expected lines in order; `…` stands for any lines."""
    lines = [_normal(line) for line in output.splitlines()]
    at, skipping = 0, False
    for line in expected:
        if line == "…":
            skipping = True
            continue
        if line.endswith(" …"):  # the rest of the line is of that machine
            begin = _normal(line.removesuffix("…"))
            lines = [begin if shown.startswith(begin) else shown for shown in lines]
            line = line.removesuffix("…")
        wanted = _normal(line)
        place = lines.index(wanted, at) if skipping and wanted in lines[at:] else at
        assert place < len(lines), f"{line!r} is not in:\n{output}"
        assert wanted == lines[place], f"{line!r} is not what came:\n{output}"
        at, skipping = place + 1, False
    assert skipping or at == len(lines), f"more than is shown:\n{output}"


def test_the_two_commands_are_all_the_set_up() -> None:
    """The README names exactly the two commands that continuous integration runs."""
    first, second = (block.text.strip() for block in _blocks("sh"))

    assert first == "pip install uv && uv run tidegate demo"
    assert second == "pip install uv && uv run pytest"


def test_the_demo_prints_what_the_readme_shows() -> None:
    """The transcript of the demo is a true one: its lines come, with other numbers."""
    shown = next(block.text for block in _blocks("text") if "tidegate demo" in block.text)
    ((command, expected),) = _transcript(shown)
    arguments = command.removeprefix("uv run tidegate ").split()

    done = subprocess.run(
        [TIDEGATE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110
    )

    assert done.returncode == 0, done.stderr + done.stdout
    _assert_shows(expected, done.stderr + done.stdout)


@pytest.mark.timeout(180)
def test_the_project_tour_goes_as_shown(tmp_path: Path) -> None:
    """Every command of the tour runs in order and prints what is shown."""
    first, second, http, many, third, *rest = _blocks("console")
    evidence, stranger, personal, replay, identities, services = rest
    folder = tmp_path
    up: subprocess.Popen[str] | None = None
    log = tmp_path / "up.log"
    try:
        for command, expected in _transcript(first.text):
            if command.startswith("cd "):
                folder /= command.removeprefix("cd ")
            elif command == "tidegate up":
                with log.open("w") as lines:
                    up = subprocess.Popen(
                        [TIDEGATE, "up"], cwd=folder, stderr=lines, env=ENVIRONMENT, text=True
                    )
                asyncio.run(until(lambda: "Ctrl-C stops" in log.read_text(), seconds=60))
                _assert_shows(expected, log.read_text())
            else:
                _assert_shows(expected, _run(command, folder)[1])
        statuses: list[int] = []
        for command, expected in _transcript(second.text):
            if "timeline" in command:
                asyncio.run(until(lambda c=command: "ends run" in _run(c, folder)[1]))
            status, output = _run(command, folder)
            statuses.append(status)
            _assert_shows(expected, output)
        assert statuses == [0, 3, 2, 0, 0]
        _check_program(folder)
        for command, expected in _transcript(http.text + many.text + third.text + evidence.text):
            status, output = _run(command, folder)
            assert status == 0, output
            _assert_shows(expected, output)
        _check_as_a_stranger(stranger.text, folder, tmp_path / "elsewhere")
        for command, expected in _transcript(
            personal.text + replay.text + identities.text + services.text
        ):
            if "timeline private" in command:
                asyncio.run(until(lambda c=command: "ends run" in _run(c, folder)[1]))
            status, output = _run(command, folder)
            assert status == 0, output
            _assert_shows(expected, output)
        status, output = _run(
            """tidegate run start greet-visitor '{"name": "Ada"}' --wait""", folder
        )
        assert (status, "Hello, Ada!" in output) == (0, True), output
    finally:
        if up:
            up.send_signal(signal.SIGINT)
            assert up.wait(60) == 0, log.read_text()


def _check_as_a_stranger(text: str, project: Path, folder: Path) -> None:
    """What somebody does who has a copy of the export, and the writer's key from elsewhere."""
    shutil.copytree(project / "audit", folder / "audit")
    keys = json.loads(_run("tidegate evidence keys --json", project)[1])
    (key,) = (one["key"] for one in keys if one["role"] == "writer")
    for command, expected in _transcript(text):
        status, output = _run(command, folder, KEY=key)
        assert status == 0, output
        _assert_shows(expected, output)


def _run(command: str, folder: Path, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def _check_program(folder: Path) -> None:
    """The program that publishes says what was decided."""
    (program,) = (b.text for b in _blocks("python") if "asyncio.run" in b.text)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    _assert_shows(["allow as record 9", "denied: not_permitted"], done.stdout)


def test_the_agent_snippet_is_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent of the README loads and handles its capability."""
    (snippet,) = (b.text for b in _blocks("python") if "agent.task" in b.text)
    (tmp_path / "readme_agent.py").write_text(snippet)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert {(Kind.TASK, "greeting.write")} == set(load_agent("readme_agent:agent").handlers)


def test_the_policy_snippet_loads() -> None:
    """The policy of the README passes every check of a bundle."""
    (snippet,) = (b.text for b in _blocks("cedar"))

    assert Bundle.of_files({"readme.cedar": snippet}).digest.startswith("sha256:")


def test_the_blueprint_snippet_loads() -> None:
    """The workflow of the README is a blueprint."""
    (snippet,) = (b.text for b in _blocks("yaml") if "blueprint:" in b.text)

    assert loads(snippet, Blueprint, Path("readme.yaml")).blueprint == "greet-visitor"


@pytest.mark.parametrize("snippet", [b.text for b in _blocks("yaml") if "blueprint:" not in b.text])
def test_the_settings_snippets_load(snippet: str) -> None:
    """Each is a part of `tidegate.yaml`."""
    text = f"project: readme\npublishers: [outside.website]\n{snippet}"

    assert loads(text, Settings, Path("readme.yaml")).project == "readme"
