"""`POST /v1/webhooks/{name}` over HTTP, see `webhooks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bodies import Bodies
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
        bodies: bytes of all bodies of webhooks that are in memory. Anybody can send one, so they
            take no room from those who are known.
    """

    def __init__(self, webhooks: Webhooks | None, limits: Limits, bodies: int) -> None:
        self._webhooks = webhooks
        self._limits = limits
        self._bodies = Bodies(bodies)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request."""
        name = exchange.parameters["name"]
        if not self._webhooks or name not in self._webhooks:
            detail = "webhooks stand in tidegate.yaml, under edge.webhooks"
            raise Problem(
                404, "unknown-webhook", "No such webhook", detail, at={"parameter": "name"}
            )
        headers: dict[str, str] = {}
        for raw, value in exchange.scope["headers"]:
            field, text = raw.decode("latin-1"), value.decode("latin-1")
            # One that comes again is a list (RFC 9110, 5.3): so nobody reads another one of them.
            headers[field] = f"{headers[field]}, {text}" if field in headers else text
        shown = self._webhooks.shown(name, headers, exchange.client)
        body = await exchange.body(self._limits.body, self._bodies)
        answer = await self._webhooks.take(name, headers, shown, body, exchange.client)
        await exchange.answer(answer.status, answer.body, answer.kind)
