"""Units as systemd's own tools read them, and as people do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tidegate.project import Project, State, load_project
from tidegate.service import Manager, parts, units
from tidegate.service.units import unit_name
from tidegate_schemas.errors import InvalidInput

GOLDEN = Path(__file__).parent / "golden"
SYSTEM = Manager("tidegate", "/opt/tidegate/bin/python")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def at(project: Project, root: Path) -> Project:
    """The same project in another folder."""
    return replace(project, root=root, state=State(root / ".tidegate"))


def analyze(folder: Path, *arguments: str) -> str:
    """What `systemd-analyze` says of all units of a folder; it must have nothing against them."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "SYSTEMD_COLORS": "0"}
    done = subprocess.run(
        ["systemd-analyze", *arguments, *sorted(map(str, folder.iterdir()))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stderr + done.stdout


def written(project: Project, manager: Manager, folder: Path) -> Path:
    """A folder with the units of a project."""
    folder.mkdir()
    for name, text in units(project, manager).items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "tidegate-hello.target",
        "tidegate-hello-gateway.service",
        "tidegate-hello-agent-front-desk.greeter.service",
    ],
)
def test_a_unit_explains_itself(project: Project, name: str) -> None:
    """What each line is for stands above it."""
    assert (GOLDEN / name).read_text() == units(at(project, Path("/srv/hello")), SYSTEM)[name]


@needs_systemd
@pytest.mark.parametrize("owner", ["tidegate", None])
def test_systemd_has_nothing_against_any_unit(
    project: Project, tmp_path: Path, owner: str | None
) -> None:
    """Also where the project is in a folder that has to be quoted, of the machine and of a user."""
    root = tmp_path / 'my 100% "bus" $HOME; a\\b: żółw'
    project.root.rename(root)
    manager = Manager(owner, sys.executable)
    folder = written(load_project(root), manager, tmp_path / "units")

    assert analyze(folder, "verify", *([] if owner else ["--user"])) == ""


@needs_systemd
def test_services_of_the_machine_are_confined(project: Project, tmp_path: Path) -> None:
    """Systemd itself finds little to object to: 0 is best, 10 is worst."""
    folder = written(project, SYSTEM, tmp_path / "units")
    (folder / "tidegate-hello.target").unlink()

    for unit in sorted(folder.iterdir()):
        alone = tmp_path / unit.stem
        alone.mkdir()
        shutil.copy(unit, alone)
        said = analyze(alone, "security", "--offline=true", "--threshold=25", "--no-pager")
        exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert exposure
        assert float(exposure[1]) <= 2.0, said


def test_an_agent_sees_its_own_key_and_no_other(project: Project) -> None:
    """Nor anything else of the state: not the ledger's files, not what signs, not the vault."""
    (agent,) = (part for part in parts(project) if part.name.startswith("agent-"))
    text = units(project, SYSTEM)[unit_name(project, agent)]
    state = project.state

    assert f"TemporaryFileSystem={state.folder}:ro\n" in text
    shown = re.findall(rf"-?{state.folder}/(\S+)", "\n".join(re.findall("Bind.*=(.*)", text)))
    assert shown == [
        "run",
        "address",
        "tls.location",
        "tls",
        "keys/front-desk.greeter.nk",
        "keys/front-desk.greeter.creds",
    ]


def test_only_the_broker_sees_the_files_of_the_ledger(project: Project) -> None:
    """Who could write them would not need the gateway."""
    seeing = [
        part.name
        for part in parts(project)
        if not part.private and project.state.store not in part.hidden
    ]

    assert seeing == ["broker"]


def test_who_has_witnesses_reaches_other_machines(project: Project) -> None:
    """A notary without any, and a console on loopback, do not."""
    name = "tidegate-hello-notary.service"
    key = "witness+01234567+" + "A" * 44
    settings = project.settings.model_validate(
        {
            "project": "hello",
            "evidence": {"witnesses": [{"key": key, "url": "https://witness.example"}]},
            "console": {"host": "0.0.0.0"},  # noqa: S104 - to see what is written then
        }
    )
    open_ = units(replace(project, settings=settings), SYSTEM)

    assert "IPAddressDeny=any" in units(project, SYSTEM)[name]
    assert "IPAddressDeny" not in open_[name]
    assert "IPAddressDeny" not in open_["tidegate-hello-console.service"]


def test_a_worker_has_the_time_that_its_manifest_gives_it(project: Project) -> None:
    """It drains, and some seconds more."""
    manifest = project.manifests[0].model_copy(update={"drain": 120.0})
    found = units(replace(project, manifests=(manifest,)), SYSTEM)

    text = found["tidegate-hello-agent-front-desk.greeter.service"]
    assert "TimeoutStopSec=135\n" in text


def test_a_folder_that_no_unit_can_name_is_refused(project: Project) -> None:
    """Nothing is written then."""
    with pytest.raises(InvalidInput, match="cannot be written in a unit"):
        units(at(project, Path("/srv/a\nb")), SYSTEM)
