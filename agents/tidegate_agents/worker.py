"""The worker daemon: takes deliveries, runs handlers, publishes results, gives up with a record.

Handlers run beside the bus, never on its event loop: `async` ones on a loop of their own in another
thread, plain ones in a thread each. A handler that blocks cannot keep the worker from extending
its lease.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram

from tidegate_bus.broker.accounts import MAX_PAYLOAD
from tidegate_bus.connection import Connection
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_bus.keys import Keys
from tidegate_bus.publisher import Publisher
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import (
    Denied,
    InvalidEnvelope,
    InvalidInput,
    Permanent,
    Refused,
    Rejected,
    TidegateError,
    Unavailable,
    Unopened,
)
from tidegate_schemas.personal import PERSONAL, is_personal
from tidegate_schemas.record import Reason, Receipt, Record
from tidegate_schemas.subjects import Kind
from tidegate_schemas.vocabulary import DEADLETTER, RESULT

from .agent import Agent, Runner, check_handlers, describe
from .costs import Costs

if TYPE_CHECKING:  # `from tidegate import …` is for publishers too, who read no manifest
    from tidegate_bus.telemetry import Health
    from tidegate_schemas.manifest import Manifest

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.worker")

_CRASHES = 10
"""Deliveries beyond the attempts that may end without an answer, by crash, drain or lost lease,
before the message is taken for one that kills its workers."""
_MOST_PAUSED = 256
"""Messages that may wait for their next attempt here before no more are taken."""
_UNSETTLED_SECONDS = 60.0
_KEPT_SECONDS = 600.0
"""Until a refused dead letter is submitted again; the gateway remembers the verdict as long."""
_AGAIN_SECONDS = 0.5
_BEAT_SECONDS = 1.0
_MOST_HISTORY = 100
_SHORT_ERROR = 200
_KEY_SECONDS = 5.0

HANDLED = Counter("tidegate_handled", "Deliveries by how they ended", ["to", "outcome"])
RUNNING = Gauge("tidegate_handlers_running", "Messages that are handled at the moment")
SECONDS = Histogram("tidegate_handler_seconds", "Time in a handler", ["to"])


@dataclass(slots=True)
class _Context:
    """See `tidegate_agents.agent.Context`."""

    envelope: Envelope
    record: Record
    delivered: int
    log: structlog.stdlib.BoundLogger
    _worker: Worker
    _bus_loop: asyncio.AbstractEventLoop
    _costs: Costs

    def spend(self, unit: str, amount: Decimal | int | str) -> None:
        """See `Context`; from any thread."""
        self._costs.add(unit, amount)

    async def publish(self, envelope: Envelope) -> Receipt:
        """See `Context`; called on the handlers' loop, done on the bus's."""
        submitting = self._worker.submit(_caused_by(self.envelope, envelope))
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(submitting, self._bus_loop)
        )


@dataclass(slots=True)
class _Work:
    """A delivery, and what went wrong with it in this worker."""

    delivery: Delivery
    envelope: Envelope
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    costs: Costs = field(default_factory=Costs)
    denied: bool = False
    unopened: Unopened | None = None

    @property
    def record(self) -> Record:
        return self.delivery.record

    @property
    def personal(self) -> bool:
        """Whether its data, and what is made of it, is about people."""
        return is_personal(self.envelope) and self.envelope.dataenc is None

    def says(self, error: BaseException) -> str:
        """An error, for the log: it may quote data, and a log is for ever."""
        return type(error).__name__ if self.personal else describe(error)

    def lost(self, error: Unopened) -> None:
        """Its data is gone: from now on there is nothing to be said but that."""
        self.envelope = self.delivery.record.message() or self.envelope
        self.history, denied = [], self.denied
        self.failed(error)
        self.denied = denied

    def failed(self, error: BaseException) -> None:
        self.denied = isinstance(error, Denied)
        entry = {"time": rfc3339(time.time_ns()), "error": describe(error)}
        self.history.append({"attempt": len(self.history) + 1, **entry})


class _Released(Exception):
    """No error: the worker drains, another one goes on in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Worker:
    """Runs one agent. Start as many as you like: they share the work of the agent.

    A message stays with the worker that took it until it is answered: also between attempts, and
    while the bus is away. So its handler is not run again without need, its attempts are counted
    in one place, and its dead letter knows them all.
    """

    def __init__(
        self, connection: Connection, agent: Agent, manifest: Manifest, health: Health
    ) -> None:
        """See the class.

        Raises:
            InvalidInput: handlers and manifest differ, or the connection is not the agent's.
        """
        if connection.principal != manifest.principal:
            raise InvalidInput(f"connected as {connection.principal}, not {manifest.principal}")
        check_handlers(agent, manifest)
        self._connection = connection
        self._agent = agent
        self._manifest = manifest
        self._health = health
        self._keys = Keys(connection)
        self._held: dict[int, asyncio.Task[None]] = {}
        self._paused = 0
        self._slots = asyncio.Semaphore(manifest.concurrency)
        self._inbox = Inbox(connection, self._take)
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()

    async def ready(self) -> None:
        """Wait until deliveries are being taken."""
        await self._ready.wait()

    def stop(self) -> None:
        """Drain: take no more, let handlers finish, give back what does not, and end `run`."""
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`, then drain.

        Raises:
            Unavailable: the connection was closed for good.
        """
        self._publisher = await Publisher.start(self._connection)
        self._loop = asyncio.get_running_loop()
        self._handlers = Runner()
        try:
            await self._inbox.start()
            self._want()
            self._ready.set()
            _log.info("ready", agent=str(self._manifest.principal))
            await self._until_stopped()
            await self._drain()
        finally:
            await self._inbox.close()
            for task in self._held.values():
                task.cancel()
            await asyncio.gather(*self._held.values(), return_exceptions=True)
            await self._handlers.close()

    async def submit(self, envelope: Envelope) -> Receipt:
        """Publish as the agent, again and again until the gateway has answered.

        Raises:
            Refused: it said no.
            InvalidInput: it is larger than the broker takes.
        """
        if (size := len(encode(envelope))) > MAX_PAYLOAD:
            raise InvalidInput(f"{size} bytes, the broker takes {MAX_PAYLOAD} at most")
        while True:
            try:
                return await self._publisher.publish(envelope)
            except Unavailable as error:
                _log.warning("will publish again", id=envelope.id, error=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _until_stopped(self) -> None:
        agent = str(self._manifest.principal)
        while not self._stop.is_set():
            if self._connection.nats.is_closed:
                raise Unavailable(f"the connection of {agent} is closed")
            running = len(self._held) - self._paused
            self._health.beat(running=running, paused=self._paused, agent=agent)
            try:
                async with asyncio.timeout(_BEAT_SECONDS):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _drain(self) -> None:
        try:
            await self._inbox.drain()
        except Exception as error:  # the broker went away; leases run out, others go on
            _log.warning("cannot drain", error=describe(error))
        if self._held:
            _log.info("draining", running=len(self._held), seconds=self._manifest.drain)
            await asyncio.wait(self._held.values(), timeout=self._manifest.drain)
        _log.info("drained", unfinished=len(self._held))

    def _take(self, delivery: Delivery) -> None:
        seq = delivery.record.seq
        if seq in self._held:  # the broker has lost count; the one that is handled settles both
            _log.info("came again while it is handled", seq=seq, delivered=delivery.delivered)
            self._want()
            return
        task = asyncio.create_task(self._settle(delivery))
        self._held[seq] = task
        task.add_done_callback(lambda _: self._forget(seq))
        self._want()

    def _forget(self, seq: int) -> None:
        del self._held[seq]
        self._want()

    def _want(self) -> None:
        """Keep as many deliveries on request as there are hands free."""
        busy = len(self._held) - self._paused
        RUNNING.set(busy)
        taking = not self._stop.is_set() and self._paused < _MOST_PAUSED
        self._inbox.want(max(0, self._manifest.concurrency - busy) if taking else 0)

    async def _settle(self, delivery: Delivery) -> None:
        """Handle a delivery and settle it; the lease is extended all the while."""
        lease = asyncio.create_task(self._extend(delivery))
        outcome = "released"
        try:
            outcome = await self._handle(delivery)
            await delivery.done()
        except _Released as released:
            await delivery.postpone(released.seconds)
        except asyncio.CancelledError:  # the drain's time is over
            await delivery.postpone(0)
            raise
        except Exception as error:  # a fault of ours
            _log_fault(delivery.record, error)
            await delivery.postpone(_UNSETTLED_SECONDS)
            outcome = "unsettled"
        finally:
            lease.cancel()
            HANDLED.labels(delivery.record.to, outcome).inc()

    async def _extend(self, delivery: Delivery) -> None:
        while True:
            await asyncio.sleep(self._manifest.lease / 3)
            await delivery.extend()

    async def _handle(self, delivery: Delivery) -> str:
        """Attempt it until it is done, or until no further attempt helps; says which."""
        envelope = delivery.record.message()
        assert envelope is not None  # what is admitted could be read
        if self._stop.is_set():  # it was on its way to us when we stopped
            raise _Released(0)
        work = _Work(delivery, envelope)
        log = _log.bind(seq=work.record.seq, to=work.record.to, id=envelope.id)
        if envelope.dataenc is not None:
            await self._open(work)
        while True:
            try:
                await self._attempt(work, log)
            except Unopened as error:
                work.lost(error)
                log.error("dead letter", error=describe(error))
                await self._give_up(work, log)
                return "dead"
            except Exception as error:
                work.failed(error)
                helps = error.retryable if isinstance(error, TidegateError) else True
                if not helps or len(work.history) >= self._manifest.retry.attempts:
                    log.error("dead letter", error=work.says(error), attempts=len(work.history))
                    await self._give_up(work, log)
                    return "dead"
                seconds = self._pause_after(work)
                log.warning("failed, will retry", error=work.says(error), seconds=seconds)
                HANDLED.labels(work.record.to, "retried").inc()
                await self._pause(seconds)
            else:
                return "done"

    async def _open(self, work: _Work) -> None:
        """Have personal data opened; where it cannot be, the attempt says so."""
        while True:
            try:
                work.envelope = await self._keys.open_one(work.record, timeout=_KEY_SECONDS)
            except Unopened as error:
                work.unopened = error
            except Unavailable as error:
                _log.warning("will ask again for a key", seq=work.record.seq, error=str(error))
                await self._pause(_KEY_SECONDS)
                continue
            return

    async def _attempt(self, work: _Work, log: structlog.stdlib.BoundLogger) -> None:
        record, delivered = work.record, work.delivery.delivered
        if work.unopened:
            raise work.unopened
        if delivered > self._manifest.retry.attempts + _CRASHES:
            raise Unanswered(delivered)
        handler = self._agent.handlers.get((record.kind, record.to))
        if handler is None:
            raise Permanent(f"this version has no handler for {record.kind} {record.to}")
        context = _Context(
            work.envelope,
            record,
            delivered + len(work.history),
            log,
            self,
            self._loop,
            work.costs,
        )
        arguments = handler.arguments(context)
        async with self._slots:
            with SECONDS.labels(handler.to).time():
                result = await self._handlers.run(handler, arguments)
        if record.kind is Kind.TASK:
            await self.submit(_result(self._manifest, work, result))

    async def _give_up(self, work: _Work, log: structlog.stdlib.BoundLogger) -> None:
        """Leave the dead letter. Where not even that is let through, the message stays here."""
        history = work.history[-_MOST_HISTORY:]
        while True:
            try:
                await self.submit(_dead_letter(self._manifest, work, history))
            except Unopened as error:  # since it was handled
                work.lost(error)
                history = work.history
                continue
            except Rejected as error:
                if history:
                    history = []  # too large: say less
                    continue
                log.error("dead letter rejected, message kept", error=str(error))
            except Refused as error:
                if error.reason == Reason.ERASED:  # just now
                    work.lost(Unopened(Unopened.ERASED, error.detail))
                    history = work.history
                    work.denied = True
                    continue
                log.error("dead letter refused, message kept", error=str(error))
            else:
                return
            await self._pause(_KEPT_SECONDS)

    def _pause_after(self, work: _Work) -> float:
        from .backoff import pause  # here, because it reads manifests

        name = f"{self._manifest.principal}:{work.record.seq}:{work.delivery.delivered}"
        return round(pause(self._manifest.retry, name, len(work.history)) / 1e9, 3)

    async def _pause(self, seconds: float) -> None:
        """Wait with the lease held but no hand busy; released at once when the worker drains."""
        until = self._loop.time() + seconds
        self._paused += 1
        self._want()
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        finally:
            self._paused -= 1
            self._want()
        raise _Released(max(0.0, until - self._loop.time()))


def _log_fault(record: Record, error: Exception) -> None:
    message = record.message()
    if message and is_personal(message):  # a traceback quotes
        _log.error("not settled", seq=record.seq, error=type(error).__name__)
    else:
        _log.exception("not settled", seq=record.seq, error=describe(error))


class Unanswered(Permanent):
    """A message that was delivered again and again; dead letters show this name."""

    def __init__(self, delivered: int) -> None:
        super().__init__(
            f"delivered {delivered} times without an answer: its handler kills the worker, or "
            "takes longer than the lease"
        )


def _caused_by(cause: Envelope, envelope: Envelope) -> Envelope:
    return msgspec.structs.replace(
        envelope,
        correlationid=envelope.correlationid or cause.correlationid or cause.id,
        causationid=envelope.causationid or cause.id,
        causationsource=envelope.causationsource
        or (None if envelope.causationid else _source(cause)),
        onbehalfof=envelope.onbehalfof or cause.onbehalfof,  # rights shrink along the way
        **_about(cause, envelope),
    )


def _source(cause: Envelope) -> str | None:
    """What names a cause besides its id: of an event its source, see `Envelope.key`."""
    return cause.source if cause.kind in (None, Kind.EVENT) else None


def _about(cause: Envelope, envelope: Envelope) -> dict[str, str | None]:
    """What is said because of personal data is personal, unless its author says what it is."""
    if not is_personal(cause) or envelope.dataclassification not in (None, PERSONAL):
        return {}
    return {
        "dataclassification": PERSONAL,
        "datasubject": envelope.datasubject or cause.datasubject,
    }


def _answer(manifest: Manifest, work: _Work, type: str, data: Any) -> Envelope:
    """A result or a dead letter. Its id follows from the message alone, so that a task has one.

    Handled twice, by two workers or after a crash, the second answer is a duplicate to the gateway,
    also when the first was a result and the second gives up. Only a denied result does not stand
    in the way of the dead letter that says so.
    """
    record, envelope = work.record, work.envelope
    name = f"{record.by}\n{envelope.key}" + ("\ndenied" if work.denied else "")
    identity = hashlib.sha256(name.encode()).hexdigest()[:32]
    try:
        return Envelope.new(
            type,
            data,
            id=identity,
            source=f"tidegate:{manifest.principal}",
            now=time.time_ns(),
            kind="result",
            to=record.by,
            correlationid=envelope.correlationid or envelope.id,
            causationid=envelope.id,
            causationsource=_source(envelope),
            answers=str(record.seq),
            runid=envelope.runid,
            stepid=envelope.stepid,
            attempt=envelope.attempt,
            subject=envelope.subject,
            costs=work.costs.text(),
            dataclassification=PERSONAL if work.personal else None,
            datasubject=envelope.datasubject if work.personal else None,
        )
    except InvalidEnvelope as error:
        raise InvalidInput(f"the result is no JSON: {error.detail}") from error


def _result(manifest: Manifest, work: _Work, data: Any) -> Envelope:
    return _answer(manifest, work, RESULT, data)


def _dead_letter(manifest: Manifest, work: _Work, history: list[dict[str, Any]]) -> Envelope:
    data = {
        "error": work.history[-1]["error"][: None if history else _SHORT_ERROR],
        "agent": str(manifest.principal),
        "version": manifest.version,
        "record": work.record.seq,
        "attempts": len(work.history),
        "history": history,
    }
    return _answer(manifest, work, DEADLETTER, data)
