"""What keeps a sandbox from the bus whose messages are delivered again in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.bus import Bus
from tidegate.cli.init import init
from tidegate.identities import ensure_keys
from tidegate.project import SANDBOX, load_project
from tidegate_schemas.errors import InvalidInput, NotConnected


async def test_a_handler_in_a_sandbox_does_not_reach_the_bus_of_its_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in the folder of the project, where address and keys are; it is told why not."""
    init(tmp_path / "hello")
    project = load_project(tmp_path / "hello")
    ensure_keys(project, 0)
    project.state.address.write_text("nats://127.0.0.1:1\n")
    monkeypatch.chdir(project.root)
    with pytest.raises(NotConnected):
        await Bus.of_project("outside.website")

    monkeypatch.setenv(SANDBOX, "1")
    with pytest.raises(InvalidInput, match="messages of the past"):
        await Bus.of_project("outside.website")
