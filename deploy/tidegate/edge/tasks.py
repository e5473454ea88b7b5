"""`POST /v1/tasks/{capability}`: give a task to an agent, and wait for its answer or come back."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec

from tidegate_bus import binding
from tidegate_bus.binding import Mode
from tidegate_bus.tasks import end
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, InvalidName
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Principal, Verdict, check_destination
from tidegate_schemas.vocabulary import DEADLETTER

from .callers import Callers
from .events import Limits, Outcome, Submission, Wait
from .exchange import Exchange
from .follower import Follower, Seen
from .links import Links
from .messages import Messages, location, opened
from .problems import Problem, unfit

SOURCE = "tidegate:edge"
"""Source of a task whose sender names none."""
MOST_SECONDS = 60
"""How long an answer is waited for at most, whatever a client prefers."""

_KEY = b"idempotency-key"
_LEDGER_SECONDS = 5.0
_LAG_SECONDS = 0.25
_MOST_KEY = 256


class Tasks:
    """Takes tasks.

    Args:
        callers: who sends.
        submission: where they go.
        links: opens sealed answers, as who asked.
        limits: sizes.
        follower: hears answers.
        messages: finds those of before.
        stopping: set when the edge is to end: then nobody waits on.
    """

    def __init__(
        self,
        callers: Callers,
        submission: Submission,
        links: Links,
        limits: Limits,
        follower: Follower,
        messages: Messages,
        stopping: asyncio.Event,
    ) -> None:
        self._callers = callers
        self._submission = submission
        self._links = links
        self._limits = limits
        self._follower = follower
        self._messages = messages
        self._stopping = stopping

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request."""
        caller = await self._callers.of(exchange.header(b"authorization"), exchange.certificate)
        exchange.query(())
        by, preference = caller.principal, exchange.preference()
        envelope = await self._envelope(exchange)
        publisher = await self._submission.publisher(by)
        seconds = min(preference.wait or 0, MOST_SECONDS)
        if not seconds:
            wait: Wait = "accepted" if preference.asynchronous else "verdict"
            outcome = await self._submission.submit(publisher, by, envelope, wait)
            await self._later(exchange, envelope, outcome)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        async with self._follower.attend(_LEDGER_SECONDS):
            with self._follower.result(by, envelope.id) as answer:
                outcome = await self._submission.submit(publisher, by, envelope, "verdict")
                again = outcome.verdict is Verdict.DUPLICATE
                found = await self._result(by, envelope, answer, deadline, again=again)
        if found is None:
            await self._later(exchange, envelope, outcome)
        else:
            await self._finished(exchange, by, envelope, found, seconds)

    async def _result(
        self,
        by: Principal,
        task: Envelope,
        answer: asyncio.Future[Seen],
        deadline: float,
        *,
        again: bool,
    ) -> Record | None:
        """The answer, if it comes in time.

        Args:
            by: who asked.
            task: what was asked.
            answer: the answer when it comes.
            deadline: of the event loop's clock.
            again: it was asked before, so that the answer may have come already; then the index
                is looked into, which lags a little.
        """
        now = asyncio.get_running_loop().time
        stop = asyncio.create_task(self._stopping.wait())
        try:
            while True:
                if again and (found := await self._messages.answer(by, task.id)):
                    return found
                left = max(deadline - now(), 0.0)
                waiting: set[asyncio.Future[Any]] = {answer, stop}
                await asyncio.wait(
                    waiting,
                    timeout=min(left, _LAG_SECONDS) if again else left,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if answer.done():
                    return answer.result().stored.record()
                if stop.done() or now() >= deadline:
                    return None
        finally:
            await end(stop)

    async def _later(self, exchange: Exchange, envelope: Envelope, outcome: Outcome) -> None:
        """The task is on its way: where to ask for its result."""
        body = msgspec.json.encode(msgspec.structs.replace(outcome, status=202))
        await exchange.answer(202, body, headers=(("location", location(envelope)),))

    async def _finished(
        self, exchange: Exchange, by: Principal, task: Envelope, record: Record, seconds: int
    ) -> None:
        """The result, as an event in binary mode; or why there is none."""
        result = await opened(await self._links.of(by), record)
        if result.type == DEADLETTER:
            raise _dead(result, record, task)
        message = binding.write(result)
        kind = "application/json"
        headers = [("location", location(task)), ("preference-applied", f"wait={seconds}")]
        for name, value in message.headers:
            if name == "content-type":
                kind = value
            else:
                headers.append((name, value))
        await exchange.answer(200, message.body, kind, headers)

    async def _envelope(self, exchange: Exchange) -> Envelope:
        """The task of a request: an event, or its data alone."""
        capability = exchange.parameters["capability"]
        try:
            check_destination(capability)
        except InvalidName as error:
            raise unfit(str(error), "parameter", "capability") from None
        key = _key(exchange)
        content_type = exchange.header(b"content-type")
        headers: list[tuple[bytes, bytes]] = exchange.scope["headers"]
        mode = Mode.BINARY
        if (content_type or "").lower().startswith("application/cloudevents"):
            mode = binding.mode_of(content_type, headers)
        body = await exchange.body(self._limits.body)
        route: dict[str, Any] = {"kind": "task", "to": capability}
        match mode:
            case Mode.BINARY:
                named = {"specversion": "1.0", "source": SOURCE, "type": capability}
                defaults = named | route | {"id": key or uuid.uuid4().hex}
                envelope = binding.read_binary(
                    content_type, headers, body, defaults=defaults, limit=self._limits.envelope
                )
            case Mode.STRUCTURED:
                envelope = binding.read_structured(body, limit=self._limits.envelope)
            case Mode.BATCHED:
                fault = "one task a request; `/v1/events` takes several"
                raise InvalidEnvelope(binding.MEDIA_TYPE, fault, "Content-Type")
        return _routed(envelope, capability, key, mode)


def _routed(envelope: Envelope, capability: str, key: str | None, mode: Mode) -> Envelope:
    """The envelope, if it is what the path and the key say."""
    place = "/{}" if mode is Mode.STRUCTURED else "ce-{}"
    said = {"kind": (envelope.kind, "task"), "to": (envelope.to, capability)}
    for name, (value, expected) in said.items():
        if value not in (None, expected):
            fault = f"`{name}` is {value}, the path says {expected}"
            raise InvalidEnvelope("malformed", fault, place.format(name))
    if key not in (None, envelope.id):
        fault = "the event has an id of its own, which is its idempotency key"
        raise InvalidEnvelope("malformed", fault, "Idempotency-Key")
    return msgspec.structs.replace(envelope, kind="task", to=capability)


def _key(exchange: Exchange) -> str | None:
    """What makes a repeated request the same task; in quotes or not."""
    key = exchange.header(_KEY)
    if key is None:
        return None
    key = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not key or len(key) > _MOST_KEY or not key.isascii() or not key.isprintable():
        detail = f"1 to {_MOST_KEY} printable characters of ASCII"
        raise Problem(
            400, "invalid", "Not as it should be", detail, at={"header": "Idempotency-Key"}
        )
    return key


def _dead(result: Envelope, record: Record, task: Envelope) -> Problem:
    """Nobody could give a result."""
    match result.payload():
        case {"error": str(error)}:
            detail = error
        case _:
            detail = "it does not say why"
    more = {"id": task.id, "source": task.source, "by": record.by, "seq": record.seq}
    return Problem(502, "dead-letter", "The agent gave up", detail, more=more)
