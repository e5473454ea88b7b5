"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import structlog

from support import Broker, running_broker

LONG = 40
TESTS = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Keep modules compiled for the hundreds of processes that tests start.

    Nothing is written beside the sources, and nothing depends on how this machine is set up.
    """
    os.environ["PYTHONDONTWRITEBYTECODE"] = ""
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(config.cache.mkdir("bytecode")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: no process is left with one at the end.

    Files of many short tests come last, and fill what is left.
    """
    long = {item.path for item in items if item.get_closest_marker("long")}
    folders = ("system", "deploy")

    def rank(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.relative_to(TESTS).parts[0]
        return item.path not in long, folders.index(folder) if folder in folders else len(folders)

    items.sort(key=rank)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long texts are told apart by number: some hold new keys each time, as no name of a test may.

    The processes that share the tests have to agree on the names.
    """
    return argname if isinstance(val, str) and len(val) > LONG else None


@pytest.fixture(autouse=True)
def _no_logging_state() -> None:
    """Each test begins with the defaults of structlog."""
    structlog.reset_defaults()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Broker]:
    """A broker of the test's own, with streams and consumers, without a gateway."""
    async with running_broker(tmp_path) as running:
        yield running
