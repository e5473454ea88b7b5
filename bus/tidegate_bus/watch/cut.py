"""Cutting all connections at once, so that everybody asks anew for what was lost."""

from __future__ import annotations

import msgspec

from tidegate_bus.connection import Connection
from tidegate_schemas.errors import Unavailable

from .monitoring import Picture

_CONNZ = "$SYS.REQ.SERVER.PING.CONNZ"
_PAGE = 1024


async def cut_all(connection: Connection) -> int:
    """Cut every client but this one; how many. They reconnect by themselves, in milliseconds.

    Args:
        connection: of the warden.

    Raises:
        Unavailable: the broker does not answer.
    """
    cids: set[int] = set()
    offset = 0
    while True:
        body = await connection.api(_CONNZ, {"sort": "cid", "limit": _PAGE, "offset": offset})
        try:
            answer = msgspec.convert(body, Picture)
        except msgspec.ValidationError as error:
            raise Unavailable(f"{_CONNZ}: {error}") from error
        cids |= {row.cid for row in answer.data.connections}
        if len(answer.data.connections) < _PAGE:
            break
        offset += _PAGE - 1
    for cid in sorted(cids - {connection.nats.client_id}):
        await connection.api(f"$SYS.REQ.SERVER.{answer.server.id}.KICK", {"cid": cid})
    return len(cids) - 1
