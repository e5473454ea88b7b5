"""One ground for the attacks of a file: starting a broker for each would take most of the time."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from .ground import ground
from .judge import Judge


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judge(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Judge]:
    """A judge over a ground of the file's own; at the end it reads the whole ledger again.

    The parameter holds arguments of `ground`; without one it is the product as it is, with
    everybody in an account of their own.
    """
    options = getattr(request, "param", {})
    async with ground(tmp_path_factory.mktemp("ground"), **options) as made:
        over = Judge(made)
        await over.start()
        yield over
        assert await over.end() == []
