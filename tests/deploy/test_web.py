"""The HTTP server that is part of a process."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette

from tidegate.web import WebServer
from tidegate_schemas.errors import InvalidInput


async def test_a_second_server_leaves_the_address_of_the_first(tmp_path: Path) -> None:
    """One that runs keeps its file; the second ends with where the first is."""
    written = tmp_path / "edge.url"
    written.write_text("http://127.0.0.1:1 of one that was killed\n", "utf-8")
    first = WebServer(Starlette(), "127.0.0.1", 0, written)
    with pytest.raises(InvalidInput, match=f"runs already, at {first.url};"):
        WebServer(Starlette(), "127.0.0.1", 0, written)
    assert written.read_text("utf-8") == f"{first.url}\n"
    first.stop()
    await first.run()
    assert not written.exists()
