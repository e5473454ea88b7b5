"""The console while the index of the ledger is not written."""

from __future__ import annotations

import fcntl
from pathlib import Path

from support import until
from tidegate.bus import Bus
from tidegate.testing import running_project
from tidegate_schemas.envelope import Envelope

from .kit import ANN, WEBSITE, Ground, project


async def test_live_figures_go_on_and_pages_say_that_search_is_behind(tmp_path: Path) -> None:
    """Until it is written again; then all of it is found."""
    made = project(tmp_path)
    lock = made.state.index.with_name("index.db.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # somebody else was to write it, and does not
        async with running_project(made.root, made.state.folder, faces=("console",)) as running:
            ground = Ground(running)
            async with ground.visitor(ANN) as ann:
                async with await Bus.of_project(str(WEBSITE), made.root, made.state.folder) as bus:
                    last = await bus.publish(Envelope.new("metric", {"value": 1}))

                async def told() -> bool:
                    page = await ann.get("/")
                    return 'id="behind"' in page and f'id="records">{last.seq}<' in page

                await until(told)
                assert "Search is behind" in await ann.get("/ledger")
                fcntl.flock(file, fcntl.LOCK_UN)

                async def found() -> bool:
                    page = await ann.get("/ledger?to=metric")
                    return f"/ledger/{last.seq}" in page and 'id="behind"' not in page

                await until(found)
