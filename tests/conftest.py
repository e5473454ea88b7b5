"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import structlog

from support import Broker, running_broker

LONG = 40


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
