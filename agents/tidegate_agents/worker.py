"""The worker daemon: takes deliveries, runs handlers, publishes results, gives up with a record.

Handlers run beside the bus, never on its event loop: `async` ones on a loop of their own in another
thread, plain ones in a thread each. A handler that blocks cannot keep the worker from extending
its lease.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram

from tidegate_bus.connection import Connection
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_bus.publisher import Publisher
from tidegate_bus.telemetry import Health
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import (
    InvalidEnvelope,
    InvalidInput,
    Permanent,
    Refused,
    TidegateError,
    Unavailable,
)
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.record import Receipt, Record
from tidegate_schemas.subjects import Kind
from tidegate_schemas.vocabulary import DEADLETTER, RESULT

from .agent import Agent, Handler, check_handlers
from .backoff import pause

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.worker")

_CRASHES = 10
"""Deliveries beyond the attempts that may end without an answer, by crash, drain or lost lease,
before the message is taken for one that kills its workers."""
_BEAT_SECONDS = 1.0

HANDLED = Counter("tidegate_handled", "Deliveries by how they ended", ["to", "outcome"])
RUNNING = Gauge("tidegate_handlers_running", "Handlers that are running")
SECONDS = Histogram("tidegate_handler_seconds", "Time in a handler", ["to"])


@dataclass(slots=True)
class _Context:
    """See `tidegate_agents.agent.Context`."""

    envelope: Envelope
    record: Record
    delivered: int
    log: structlog.stdlib.BoundLogger
    _publisher: Publisher
    _bus_loop: asyncio.AbstractEventLoop

    async def publish(self, envelope: Envelope) -> Receipt:
        """See `Context`; called on the handlers' loop, done on the bus's."""
        publishing = self._publisher.publish(_caused_by(self.envelope, envelope))
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(publishing, self._bus_loop)
        )


@dataclass(slots=True)
class _Failures:
    """What went wrong with one message in this process."""

    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def add(self, error: BaseException) -> None:
        entry = {"time": rfc3339(time.time_ns()), "error": describe(error)}
        self.history.append({"attempt": len(self.history) + 1, **entry})


class Worker:
    """Runs one agent. Start as many as you like: they share the work of the agent."""

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
        self._failures: dict[int, _Failures] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._inbox = Inbox(connection, self._take)
        self._draining = False
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()

    async def ready(self) -> None:
        """Wait until deliveries are being taken."""
        await self._ready.wait()

    def stop(self) -> None:
        """Drain: take no more, let handlers finish, give back what does not, and end `run`."""
        self._stop.set()

    async def run(self) -> None:
        """Work until `stop`, then drain."""
        self._publisher = await Publisher.start(self._connection)
        self._loop = asyncio.get_running_loop()
        self._handlers = _HandlerThread(self._manifest.concurrency)
        try:
            await self._inbox.start()
            self._inbox.want(self._manifest.concurrency)
            self._ready.set()
            _log.info("ready", agent=str(self._manifest.principal))
            while not self._stop.is_set():
                self._health.beat(running=len(self._running), agent=str(self._manifest.principal))
                try:
                    async with asyncio.timeout(_BEAT_SECONDS):
                        await self._stop.wait()
                except TimeoutError:
                    continue
            await self._drain()
        finally:
            self._handlers.close()

    async def _drain(self) -> None:
        """What was on its way to us when we stopped is still handled, so none is stranded."""
        self._draining = True
        await self._inbox.drain()
        if self._running:
            _log.info("draining", running=len(self._running), seconds=self._manifest.drain)
            await asyncio.wait(self._running, timeout=self._manifest.drain)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        _log.info("drained")

    def _take(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._settle(delivery))
        self._running.add(task)
        task.add_done_callback(self._finished)
        self._want_more()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._want_more()
        if not task.cancelled() and task.exception():
            _log.error("worker", error=repr(task.exception()))

    def _want_more(self) -> None:
        """Ask for as many deliveries as there are hands free, and no more."""
        RUNNING.set(len(self._running))
        if not self._draining:
            self._inbox.want(self._manifest.concurrency - len(self._running))

    async def _settle(self, delivery: Delivery) -> None:
        """Handle a delivery and settle it; the lease is extended all the while."""
        lease = asyncio.create_task(self._extend(delivery))
        to = delivery.record.to
        try:
            outcome = await self._handle(delivery)
        except asyncio.CancelledError:  # the drain's time is over
            await delivery.postpone(0)
            HANDLED.labels(to, "released").inc()
            raise
        except Exception as error:  # nothing was heard from the bus, or a fault of ours
            _log.warning("not settled", seq=delivery.record.seq, error=describe(error))
            await delivery.postpone(self._pause(delivery, 1))
            outcome = "unsettled"
        finally:
            lease.cancel()
        HANDLED.labels(to, outcome).inc()

    async def _extend(self, delivery: Delivery) -> None:
        while True:
            await asyncio.sleep(self._manifest.lease / 3)
            await delivery.extend()

    async def _handle(self, delivery: Delivery) -> str:
        record, retry = delivery.record, self._manifest.retry
        envelope = record.message()
        assert envelope is not None  # what is admitted could be read
        failures = self._failures.setdefault(record.seq, _Failures())
        log = _log.bind(seq=record.seq, to=record.to, id=envelope.id)
        try:
            if delivery.delivered > retry.attempts + _CRASHES:
                raise _Poison(delivery.delivered)
            handler = self._agent.handlers[(record.kind, record.to)]
            context = _Context(
                envelope, record, delivery.delivered, log, self._publisher, self._loop
            )
            result = await self._call(handler, context)
            if record.kind is Kind.TASK:
                await self._publisher.publish(_result(self._manifest, record, envelope, result))
            outcome = "done"
        except Exception as error:
            if isinstance(error, Unavailable):  # the bus is away; no fault of the message
                raise
            failures.add(error)
            helps = error.retryable if isinstance(error, TidegateError) else True
            if helps and len(failures.history) < retry.attempts:
                seconds = self._pause(delivery, len(failures.history))
                log.warning("failed, will retry", error=describe(error), seconds=seconds)
                await delivery.postpone(seconds)
                return "retried"
            log.error("dead letter", error=describe(error), attempts=len(failures.history))
            letter = _dead_letter(self._manifest, record, envelope, failures.history)
            try:
                await self._publisher.publish(letter)
            except Refused as refused:
                log.error("dead letter refused, message kept", error=str(refused))
                await delivery.postpone(retry.max_delay)
                return "stuck"
            outcome = "dead"
        del self._failures[record.seq]
        await delivery.done()
        return outcome

    def _pause(self, delivery: Delivery, failures: int) -> float:
        name = f"{self._manifest.principal}:{delivery.record.seq}:{delivery.delivered}"
        return round(pause(self._manifest.retry, name, failures) / 1e9, 3)

    async def _call(self, handler: Handler, context: _Context) -> Any:
        arguments = handler.arguments(context)
        with SECONDS.labels(handler.to).time():
            if handler.is_async:
                return await self._handlers.run(handler.function(*arguments))
            return await self._loop.run_in_executor(
                self._handlers.pool, lambda: handler.function(*arguments)
            )


class _Poison(Permanent):
    def __init__(self, delivered: int) -> None:
        super().__init__(
            f"delivered {delivered} times without an answer: its handler kills the worker, or "
            "takes longer than the lease"
        )


class _HandlerThread:
    """An event loop in a thread for `async` handlers, and threads for plain ones."""

    def __init__(self, concurrency: int) -> None:
        self.pool = ThreadPoolExecutor(concurrency, thread_name_prefix="handler")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="handlers", daemon=True)
        self._thread.start()

    async def run(self, handling: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(handling, self._loop))

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=1.0)
        if not self._thread.is_alive():
            self._loop.close()


def describe(error: BaseException) -> str:
    """An error in one line for logs and dead letters."""
    return f"{type(error).__name__}: {error}"[:1000]


def _caused_by(cause: Envelope, envelope: Envelope) -> Envelope:
    return msgspec.structs.replace(
        envelope,
        correlationid=envelope.correlationid or cause.correlationid or cause.id,
        causationid=envelope.causationid or cause.id,
    )


def _answer(
    manifest: Manifest, record: Record, envelope: Envelope, type: str, data: Any
) -> Envelope:
    """A result whose id follows from the message: handled twice, it is published once."""
    identity = hashlib.sha256(f"{record.by}\n{envelope.id}\n{type}".encode()).hexdigest()[:32]
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
            runid=envelope.runid,
            stepid=envelope.stepid,
            attempt=envelope.attempt,
            subject=envelope.subject,
        )
    except (InvalidEnvelope, TypeError, ValueError) as error:
        raise InvalidInput(f"the result is no JSON: {error}") from error


def _result(manifest: Manifest, record: Record, envelope: Envelope, data: Any) -> Envelope:
    return _answer(manifest, record, envelope, RESULT, data)


def _dead_letter(
    manifest: Manifest, record: Record, envelope: Envelope, history: list[dict[str, Any]]
) -> Envelope:
    data = {
        "error": history[-1]["error"],
        "agent": str(manifest.principal),
        "version": manifest.version,
        "record": record.seq,
        "history": history,
    }
    return _answer(manifest, record, envelope, DEADLETTER, data)
