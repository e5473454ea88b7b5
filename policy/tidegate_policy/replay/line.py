"""As much of a record as what-if needs. Read many times faster than the whole.

Nothing is verified here: whether a ledger is one is for others to say, see `verify`.
"""

from __future__ import annotations

import msgspec

from tidegate_schemas.envelope import describe
from tidegate_schemas.errors import LedgerError
from tidegate_schemas.subjects import Kind, Verdict


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Of `record.Ingress`."""

    n: int


class Grounds(msgspec.Struct, frozen=True, gc=False):
    """Of `record.Why`."""

    reason: str
    obligations: tuple[str, ...] = ()


class Message(msgspec.Struct, frozen=True):
    """Of an envelope: what policy may look at."""

    id: str
    type: str
    runid: str | None = None
    blueprint: str | None = None
    onbehalfof: str | None = None
    dataclassification: str | None = None
    datasubject: str | None = None
    dataenc: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None


class Line(msgspec.Struct, frozen=True):
    """Of a `record.Record`."""

    ingress: Origin = msgspec.field(name="in")
    by: str
    kind: Kind
    to: str
    verdict: Verdict
    why: Grounds
    envelope: Message | None = None


_decode = msgspec.json.Decoder(Line).decode


def read_line(seq: int, payload: bytes) -> Line:
    """Read a record of the ledger.

    Raises:
        LedgerError: it is none.
    """
    try:
        return _decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LedgerError(f"ledger record {seq} is not of a gateway: {describe(error)}") from error
