"""A project whose processes are to be services."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.cli.init import init
from tidegate.project import Project, load_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The one that `tidegate init` makes."""
    init(tmp_path / "hello")
    return load_project(tmp_path / "hello")
