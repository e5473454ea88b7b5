"""`POST /v1/webhooks/{name}` over HTTP, see `webhooks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .events import Limits
from .exchange import Exchange
from .problems import Problem

if TYPE_CHECKING:  # rules cost memory that a project without webhooks does without
    from .webhooks import Webhooks


class Hooks:
    """Takes webhooks.

    Args:
        webhooks: those that there are, if any.
        limits: sizes.
    """

    def __init__(self, webhooks: Webhooks | None, limits: Limits) -> None:
        self._webhooks = webhooks
        self._limits = limits

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request."""
        name = exchange.parameters["name"]
        if not self._webhooks or name not in self._webhooks:
            detail = "webhooks stand in tidegate.yaml, under edge.webhooks"
            raise Problem(
                404, "unknown-webhook", "No such webhook", detail, at={"parameter": "name"}
            )
        body = await exchange.body(self._limits.body)
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in exchange.headers.items()
        }
        client = exchange.scope["client"]
        answer = await self._webhooks.take(name, headers, body, client[0] if client else None)
        await exchange.answer(answer.status, answer.body, answer.kind)
