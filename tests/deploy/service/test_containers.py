"""The image and the compose file, as their linters see them. No container runs here."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sysconfig
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.npm import INSTALL_SECONDS, install
from tidegate.project import Project
from tidegate.service import parts

_json_schema: Any = importlib.import_module("jsonschema")  # it ships no types

SOURCES = Path(__file__).parent / "node"
DEPLOY = Path(__file__).parents[3] / "deploy"
TASTE = ("service-keys-order", "services-alphabetical-order", "top-level-properties-order")
"""Rules of an order that tells a reader less than the one in which things begin."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """What the file says, once its anchors are resolved."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return found


def test_the_linter_has_nothing_against_the_image() -> None:
    """hadolint, with all of its rules."""
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.timeout(INSTALL_SECONDS + 60)
def test_the_compose_file_is_one(
    compose: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By the schema of the Compose Specification, also what anchors stand for, and by dclint."""
    packages = install(SOURCES, tmp_path_factory.mktemp("node") / "dclint") / "node_modules"
    schema = json.loads((packages / "dclint/schemas/compose.schema.json").read_text("utf-8"))
    off = [f"--disable-rule={rule}" for rule in TASTE]

    _json_schema.Draft7Validator(schema).validate(compose)
    done = subprocess.run(
        [packages / ".bin/dclint", DEPLOY / "compose.yaml", "--max-warnings=0", *off],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_process_has_its_container_and_is_asked_how_it_is(
    compose: dict[str, Any], project: Project
) -> None:
    """The same processes as the services of systemd, of the version that is built here."""
    state = ("--state", "/state")
    services = {name: s for name, s in compose["services"].items() if name != "network"}

    found = {tuple(service["command"]): service for service in services.values()}
    assert found.keys() == {(*part.command, *state) for part in parts(project)}
    for part in parts(project):
        service = found[*part.command, *state]
        asked = ["CMD", "tidegate", "service", "status", part.process, *state]
        name = "broker" if part.name == "broker" else part.process
        asked[4] = name
        assert service["healthcheck"]["test"] == asked
        assert ("broker" in service.get("depends_on", ())) == part.waits
        assert int(service["stop_grace_period"].removesuffix("s")) >= part.grace
    tag = f"tidegate:{version('tidegate')}"
    assert {service["image"] for service in compose["services"].values()} == {tag}
    assert tag in (DEPLOY / "Dockerfile").read_text("utf-8")


def test_no_container_has_more_rights_than_it_needs(compose: dict[str, Any]) -> None:
    """A root file system that cannot be written, no capabilities, no way to more; not as root."""
    for service in compose["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert "\nUSER 10001:10001\n" in (DEPLOY / "Dockerfile").read_text("utf-8")
