"""`POST /v1/events`: CloudEvents in, verdicts or acceptance out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tidegate_bus import binding
from tidegate_bus.binding import Mode
from tidegate_bus.publisher import Publisher
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import NoReceipt, TidegateError
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Principal, Verdict

from .callers import Callers
from .exchange import Exchange
from .links import Links
from .messages import Heard, location
from .problems import problem_of, unfit

Wait = Literal["verdict", "accepted"]

_WAITS: dict[str, Wait] = {"verdict": "verdict", "accepted": "accepted"}
_QUERIES: dict[bytes, Wait] = {b"wait=verdict": "verdict", b"wait=accepted": "accepted"}
_VERDICT_SECONDS = 10.0
_ACCEPT_SECONDS = 5.0
_AT_ONCE = 256
"""Events of a batch that are on their way together."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the bus says of an event.

    Attributes:
        verdict: None while it waits for one.
        seq: of the record; of the first one, for a duplicate.
        was: of a duplicate, the first verdict.
    """

    id: str
    source: str
    status: int
    verdict: Verdict | None = None
    seq: int | None = None
    reason: str | None = None
    detail: str = ""
    policies: tuple[str, ...] = ()
    was: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes: of a request's body, and of an envelope."""

    body: int
    envelope: int


class Submission:
    """Publishes for callers, and knows what was accepted."""

    def __init__(self, links: Links, heard: Heard) -> None:
        self._links = links
        self._heard = heard

    async def publisher(self, principal: Principal) -> Publisher:
        """Of somebody.

        Raises:
            Unavailable: the broker does not answer.
        """
        link = self._links.open(principal) or await self._links.of(principal)
        return link.publisher

    async def submit(
        self, publisher: Publisher, by: Principal, envelope: Envelope, wait: Wait
    ) -> Outcome:
        """Publish an event.

        Returns:
            200 with the verdict; 202 when the durable ingress has it and no verdict came, or none
            was waited for.

        Raises:
            TidegateError: it was refused, or is not known to be accepted.
        """
        receipt: Receipt | None = None
        try:
            if wait == "accepted":
                await publisher.publish(
                    envelope, wait="accepted", timeout=_ACCEPT_SECONDS, when_full="raise"
                )
            else:
                receipt = await publisher.publish(
                    envelope, timeout=_VERDICT_SECONDS, when_full="raise"
                )
        except NoReceipt as error:
            if not error.accepted:
                raise
        self._heard.add(by, envelope, receipt.seq if receipt else None)
        if receipt is None:
            return Outcome(envelope.id, envelope.source, 202)
        return Outcome(
            envelope.id,
            envelope.source,
            200,
            receipt.verdict,
            receipt.seq,
            receipt.reason,
            receipt.detail,
            receipt.policies,
            receipt.was,
        )


class Events:
    """Takes events.

    Args:
        callers: who sends.
        submission: where they go.
        limits: sizes.
    """

    def __init__(self, callers: Callers, submission: Submission, limits: Limits) -> None:
        self._callers = callers
        self._submission = submission
        self._limits = limits

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request."""
        caller = await self._callers.of(exchange.header(b"authorization"), exchange.certificate)
        wait = wait_of(exchange)
        headers: list[tuple[bytes, bytes]] = exchange.scope["headers"]
        content_type = exchange.header(b"content-type")
        mode = binding.mode_of(content_type, headers)
        body = await exchange.body(self._limits.body)
        limit = self._limits.envelope
        match mode:
            case Mode.BINARY:
                envelope = binding.read_binary(content_type, headers, body, limit=limit)
            case Mode.STRUCTURED:
                envelope = binding.read_structured(body, limit=limit)
            case Mode.BATCHED:
                batch = binding.read_batch(body, limit=limit)
                self._callers.charge(caller, len(batch))
                await self._batch(exchange, caller.principal, batch, wait)
                return
        publisher = await self._submission.publisher(caller.principal)
        outcome = await self._submission.submit(publisher, caller.principal, envelope, wait)
        where = (("location", location(envelope)),)
        await exchange.answer(outcome.status, msgspec.json.encode(outcome), headers=where)

    async def _batch(
        self, exchange: Exchange, by: Principal, batch: list[Envelope], wait: Wait
    ) -> None:
        """Publish events; the answer says in their order what became of each."""
        publisher = await self._submission.publisher(by)
        retry: list[tuple[str, str]] = []

        async def one(envelope: Envelope) -> dict[str, Any]:
            try:
                outcome = await self._submission.submit(publisher, by, envelope, wait)
            except TidegateError as error:
                problem = problem_of(error)
                retry[:] = retry or [h for h in problem.headers if h[0] == "retry-after"]
                return {"id": envelope.id, "source": envelope.source, **problem.document}
            found: dict[str, Any] = msgspec.to_builtins(outcome)
            return found

        outcomes: list[dict[str, Any]] = []
        for start in range(0, len(batch), _AT_ONCE):
            some = batch[start : start + _AT_ONCE]
            outcomes += await asyncio.gather(*map(one, some))
        statuses = {outcome["status"] for outcome in outcomes}
        good = statuses <= {200, 202}
        status = 207 if not good else 202 if 202 in statuses else 200
        await exchange.answer(status, msgspec.json.encode(outcomes), headers=retry)


def wait_of(exchange: Exchange) -> Wait:
    """What is to be waited for: the verdict, unless the client says that acceptance will do.

    Raises:
        Problem: it says something else.
    """
    query = exchange.scope["query_string"]
    if query in _QUERIES:  # as most do it
        return _QUERIES[query]
    if query:
        asked = exchange.query(("wait",)).get("wait", "verdict")
        if asked not in _WAITS:
            detail = f"wait={asked[:40]}; it is verdict or accepted"
            raise unfit(detail, "parameter", "wait")
        return _WAITS[asked]
    if b"prefer" in exchange.headers and exchange.preference().asynchronous:
        return "accepted"
    return "verdict"
