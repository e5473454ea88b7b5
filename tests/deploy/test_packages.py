"""What is in the wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_says_that_it_is_typed() -> None:
    """PEP 561: else what users import has no types for their checker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert len(packages) == 6
    assert [name for name in packages if not (ROOT / name / "py.typed").is_file()] == []
