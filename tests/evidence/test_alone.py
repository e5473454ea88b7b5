"""The verifying package stands alone: no network, and next to nothing installed."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import tidegate_evidence
from evidence.kit import WRITER, Log, record

MODULES = sorted(path.stem for path in Path(tidegate_evidence.__file__).parent.glob("[a-z]*.py"))
# Not `_socket`: typing_extensions, where it is installed, asks it for the type of a capsule.
NETWORK = ("socket", "ssl", "_ssl", "asyncio", "nats", "http", "urllib.request")
CHECK = f"""
import importlib, json, pathlib, sys
for name in {MODULES}:
    importlib.import_module("tidegate_evidence." + name)
from tidegate_evidence.audit import audit
from tidegate_evidence.export import Export
from tidegate_evidence.proof import Proof
from tidegate_evidence.trust import Trust
folder, key = pathlib.Path(sys.argv[1]), sys.argv[2]
trust = Trust.of_key(key)
export = Export.open(folder, trust)
report = audit(export.records(), export.checkpoint, export.tiles, export.first, export.last)
proof = Proof.parse((folder / "keys.tlog-proof").read_bytes())
proof.check((folder / "keys.json").read_bytes(), trust)
print(json.dumps([report.holds, export.check_files() == [], sorted(sys.modules)]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export."""
    log = Log.make(tmp_path / "log", [record(seq) for seq in range(1, 301)])
    return log.export(tmp_path / "export")


def check(python: str | Path, folder: Path) -> set[str]:
    """Check an export in a process of its own; which modules that has loaded."""
    command = [str(python), "-c", CHECK, str(folder), str(WRITER.verifier)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    holds, whole, modules = json.loads(done.stdout)
    assert (holds, whole) == (True, True)
    return set(modules)


def test_no_module_that_talks_to_a_network_is_loaded(folder: Path) -> None:
    """Neither by ours nor by what they import."""
    modules = check(sys.executable, folder)
    assert "tidegate_evidence.audit" in modules
    assert modules.isdisjoint(NETWORK)


@pytest.mark.long
def test_it_needs_two_packages(folder: Path, tmp_path: Path) -> None:
    """The wheel, `cryptography` and `msgspec` are all that an auditor installs."""
    root = Path(__file__).parents[2]
    subprocess.run(["uv", "build", "-q", "--wheel", "-o", tmp_path, root], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["uv", "pip", "install", "-q", "--python", str(python)]
    subprocess.run([*install, "cryptography", "msgspec"], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    modules = check(python, folder)
    tops = {name.partition(".")[0] for name in modules}
    assert tops.isdisjoint({"nats", "pydantic", "rich", "tidegate", "tidegate_bus", "typer"})
