"""Fixtures of the tests of exports."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deploy.test_cli_alone import Program

from .sealing import Sealed, sealed


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncGenerator[Sealed]:
    """A project whose broker runs, with an empty ledger and nothing signed."""
    async with sealed(tmp_path, "test") as made:
        yield made


@pytest.fixture
async def past(tmp_path: Path) -> AsyncGenerator[Sealed]:
    """The same, for ledgers that no gateway writes in the test."""
    async with sealed(tmp_path, "bench") as made:
        yield made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project is the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tidegate(
    here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program in the project."""
    monkeypatch.setenv("COLUMNS", "200")
    return Program(monkeypatch, capsys)
