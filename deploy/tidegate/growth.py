"""Giving the ledger more room: the one change of its stream, made while the bus is down.

Nobody who can connect to a running bus may change the ledger's stream. So a broker is started with
nobody in it but a user of the moment, who may change that stream and do nothing else; its key is
never written down.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tidegate_bus.broker.accounts import MAX_PAYLOAD
from tidegate_bus.broker.server import Server
from tidegate_bus.connection import connect
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.identity.operator_mode import account_key
from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.identity import BUILT_IN_TEAM
from tidegate_schemas.subjects import Principal

from .project import Project
from .stack import locked

_WHO = Principal(BUILT_IN_TEAM, "growth")


async def grow_ledger(project: Project) -> tuple[int, int]:
    """Let the ledger's stream take as many bytes as the settings say.

    Returns:
        How many it took before, and takes now.

    Raises:
        InvalidInput: a stack runs here, there is no ledger, or it would not grow.
        Unavailable: the broker does not start, or refuses.
    """
    state, wanted = project.state, project.settings.server.ledger_bytes
    if not state.store.is_dir():
        raise InvalidInput(f"there is no ledger in {state.folder} yet; `tidegate up` makes it")
    ledger, seed = subjects.ledger_stream(0), new_seed()
    info, update = subjects.stream_info(ledger), f"$JS.API.STREAM.UPDATE.{ledger}"
    # nats-server keeps the streams of an account under the account's name.
    operated = project.settings.server.mode == "operator"
    account = account_key(state.authority, "BUS") if operated else "BUS"
    document: dict[str, Any] = {
        "server_name": "tidegate",
        "listen": "127.0.0.1:-1",
        "max_payload": MAX_PAYLOAD,
        "jetstream": {"store_dir": str(state.store), "max_file_store": 2**62},
        "accounts": {
            account: {
                "jetstream": "enabled",
                "users": [
                    {
                        "nkey": public_key(seed),
                        "permissions": {
                            "publish": {"allow": [info, update]},
                            "subscribe": {"allow": [f"{subjects.inbox(_WHO)}.>"]},
                        },
                    }
                ],
            }
        },
    }
    with locked(state.folder / "lock"), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nats.conf"
        file.write_text(json.dumps(document, ensure_ascii=False), "utf-8")
        async with (
            await Server.start(file, state.logs / "growth.log", timeout=600) as server,
            await connect(server.url, _WHO, seed) as connection,
        ):
            found = (await connection.api(info))["config"]
            before = int(found["max_bytes"])
            if wanted <= before:
                raise InvalidInput(
                    f"the ledger takes {before} bytes already; set `server.ledger_bytes` in "
                    f"{project.root / 'tidegate.yaml'} to more. It never shrinks"
                )
            await connection.api(update, {**found, "max_bytes": wanted})
    return before, wanted
