"""What commands share that tell the bus to do something: who says it, and what becomes of it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from tidegate.bus import Bus
from tidegate.project import State, address, client_tls, find_project
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.connection import Connection, connect
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Reason, Receipt
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import OPERATOR

from .console import Held


def held(receipt: Receipt) -> str:
    """For what a message waits, and what ends that."""
    if receipt.reason == Reason.APPROVAL_REQUIRED or not receipt.detail:
        return (
            f"record {receipt.seq} waits for approval: {receipt.detail or 'see there'}; "
            f"`tidegate approvals grant {receipt.seq} --as PRINCIPAL` gives it"
        )
    return (
        f"record {receipt.seq} is held: {receipt.detail}; `tidegate control show` tells more, "
        "`tidegate control resume` or `release` ends it"
    )


@contextlib.asynccontextmanager
async def buses(
    principal: str, project: Path | None, state: Path | None
) -> AsyncGenerator[tuple[Bus, Bus]]:
    """The bus of the operator, who may read the ledger, and that of whoever acts."""
    async with await Bus.of_project(str(OPERATOR), project, state) as operator:
        if principal == str(OPERATOR):
            yield operator, operator
        else:  # may submit, need not be allowed to read
            async with await Bus.of_project(principal, project, state) as sender:
                yield operator, sender


async def say(bus: Bus, to: str, data: Any, **attributes: Any) -> Receipt:
    """Give a command and wait until it is in force.

    Args:
        bus: of who gives it.
        to: the command.
        data: of it.
        attributes: of the envelope.

    Raises:
        Held: it must be agreed to first.
        Denied: policy, or a rule of the gateway, said no.
        NoReceipt: nothing was heard of it.
    """
    receipt = await bus.publish(
        Envelope.new(
            to,
            data,
            id=uuid.uuid4().hex,
            source="tidegate:cli",
            kind="control",
            to=to,
            **attributes,
        )
    )
    if receipt.verdict is Verdict.HOLD:
        raise Held(held(receipt), receipt.seq)
    return receipt


async def registrar(project: Path | None, state: Path | None) -> Connection:
    """A connection that sees the consumers of a running stack.

    Raises:
        InvalidInput: no project, no running stack, or its keys are not here.
        NotConnected: the stack does not answer.
    """
    where = State(state or find_project(project or Path.cwd()) / ".tidegate")
    key, tls = where.keyring.path(REGISTRAR), client_tls(where)
    return await connect(address(where), REGISTRAR, key, tls=tls)
