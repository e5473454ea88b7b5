"""The newest signed head of a ledger, from the broker."""

from __future__ import annotations

import msgspec
import nats.errors

from tidegate_schemas import subjects
from tidegate_schemas.errors import Unavailable

from .connection import Connection

_ANSWER_SECONDS = 5.0


async def newest_head(connection: Connection, partition: int = 0) -> bytes | None:
    """The note that the writer of a ledger published last; None where there is none.

    Nothing of it is verified.

    Raises:
        Unavailable: the broker does not answer, or refuses.
    """
    stream = subjects.heads_stream(partition)
    request = msgspec.json.encode({"last_by_subj": subjects.head(partition)})
    try:
        answer = await connection.nats.request(
            subjects.direct_get(stream), request, timeout=_ANSWER_SECONDS
        )
    except (nats.errors.Error, TimeoutError) as error:
        raise Unavailable(f"{stream} does not answer {connection.principal}: {error}") from error
    status = (answer.headers or {}).get("Status")
    if status == "404":
        return None
    if status is not None:
        raise Unavailable(f"{stream}: {status} {(answer.headers or {}).get('Description', '')}")
    return answer.data
