"""`tidegate agent`: list, and run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tidegate.bus import Bus
from tidegate.processes import running
from tidegate.project import Project, address, client_tls, open_project
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.connection import connect
from tidegate_schemas import subjects
from tidegate_schemas.errors import Unavailable
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import DEADLETTER, OPERATOR

from . import process
from .console import JsonOption, ProjectOption, StateOption, group, out, print_json, run, table

app = group("Run agents and look at them.")


app.command("run")(process.worker)


@app.command("list")
def list_(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """List the project's agents.

    How many workers each has, what waits for them, and what became of their work.
    """
    here = open_project(project, state)
    rows = run(_list(here, project, state))
    if as_json:
        print_json(rows)
        return
    columns = (
        "agent",
        "version",
        "workers",
        "waiting",
        "in work",
        "results",
        "dead letters",
        "denied",
    )
    out.print(table("", columns, ([row[c.replace(" ", "_")] for c in columns] for row in rows)))


async def _list(here: Project, project: Path | None, state: Path | None) -> list[dict[str, Any]]:
    results, dead, denied = Counter[str](), Counter[str](), Counter[str]()
    async with await Bus.of_project(str(OPERATOR), project, state) as bus:
        async for record in bus.records():
            if record.verdict is Verdict.DENY:
                denied[record.by] += 1
            elif record.kind is Kind.RESULT and record.verdict is Verdict.ALLOW:
                message = record.message()
                gave_up = message is not None and message.type == DEADLETTER
                (dead if gave_up else results)[record.by] += 1
    workers = Counter(info.name for info in running(here.state))
    rows: list[dict[str, Any]] = []
    key, url = here.state.keyring.path(REGISTRAR), address(here.state)
    async with await connect(url, REGISTRAR, key, tls=client_tls(here.state)) as connection:
        for manifest in here.manifests:
            name = str(manifest.principal)
            info = subjects.consumer_info(
                subjects.ledger_stream(0), subjects.consumer(manifest.principal)
            )
            try:
                consumer = await connection.api(info)
            except Unavailable:
                consumer = {}
            rows.append(
                {
                    "agent": name,
                    "version": manifest.version,
                    "workers": workers[name],
                    "waiting": consumer.get("num_pending"),
                    "in_work": consumer.get("num_ack_pending"),
                    "results": results[name],
                    "dead_letters": dead[name],
                    "denied": denied[name],
                    "capabilities": manifest.capabilities,
                    "subscribes": manifest.subscribes,
                }
            )
    return rows
