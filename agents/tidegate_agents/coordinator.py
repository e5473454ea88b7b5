"""The coordinator process: reads the ledger, does what its fold says ought to be done.

It has no back door and no state of its own. It submits like anybody, under its own policy, and
what it submitted counts only once the ledger shows it. Killed at any moment, it folds the ledger
again and finds what is still to do; ids follow from what a message is for, so what was sent twice
is recorded as a duplicate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import structlog
from msgspec import structs
from prometheus_client import Counter, Gauge

from tidegate_bus.broker.accounts import MAX_PAYLOAD
from tidegate_bus.connection import Connection
from tidegate_bus.keys import Keys
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_bus.publisher import Publisher
from tidegate_bus.telemetry import Health
from tidegate_schemas import vocabulary
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import (
    Denied,
    InvalidInput,
    InvalidRecord,
    Rejected,
    Unavailable,
    Unopened,
)
from tidegate_schemas.personal import PERSONAL
from tidegate_schemas.record import Growth, Reason, Record
from tidegate_schemas.subjects import Kind

from .fold import Fold, Opened
from .run import ERASED, Announce, Command, Dispatch, Run, Timer, behalf

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.coordinator")

_SECOND = 1_000_000_000
_BEAT_SECONDS = 1.0
_AGAIN_SECONDS = 0.5
_DENIED_SECONDS = 600.0
"""Until a denied envelope is submitted again. The gateway remembers the first verdict as long."""
_WINDOW = 512
_KEY_SECONDS = 10.0

RUNS = Gauge("tidegate_runs", "Runs that have not ended")
FOLDED = Gauge("tidegate_coordinator_seq", "Last ledger sequence that was folded")
COMMANDS = Counter("tidegate_commands", "Commands that were carried out", ["command"])


class Coordinator:
    """Runs blueprints.

    Args:
        connection: of the principal `tidegate.coordinator`.
        blueprints: the versions that new runs shall get; registered where the ledger has others.
        health: told how far it is.
        clock: ns since 1970.
    """

    def __init__(
        self,
        connection: Connection,
        blueprints: Iterable[Blueprint],
        health: Health,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._connection = connection
        self._blueprints = list(blueprints)
        self._health = health
        self._clock = clock
        self._keys = Keys(connection)
        self._fold = Fold(connection.principal)
        self._ready = asyncio.Event()
        self._position = 0
        self._touched: set[str] = set()
        self._scheduled: dict[str, dict[str, asyncio.Task[None]]] = {}

    async def ready(self) -> None:
        """Wait until the ledger was folded to its end and all blueprints are registered."""
        await self._ready.wait()

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            LedgerError: a record is missing.
            Refused: policy does not let it register its blueprints.
            Unavailable: nothing was heard of a registration, or the connection was closed for good.
        """
        self._publisher = await Publisher.start(self._connection, window=_WINDOW)
        caught_up = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(caught_up))
                tasks.create_task(self._begin(caught_up))
                tasks.create_task(self._beat())
        finally:
            tasks_ = [task for doing in self._scheduled.values() for task in doing.values()]
            for task in tasks_:
                task.cancel()
            await asyncio.gather(*tasks_, return_exceptions=True)

    async def _follow(self, caught_up: asyncio.Event) -> None:
        """Fold every record; from the end of the past on, act on each run that changed."""
        reader = LedgerReader(self._connection)
        records = reader.read(1, follow=True, caught_up=caught_up.set, passes=self._passes)
        async for stored in records:
            changed = await self._apply(stored)
            if caught_up.is_set():
                self._touch(changed)

    def _passes(self, growth: Growth) -> bool:
        """Whether none of the new records changes anything: so it is of most, and none is read."""
        if growth.subjects is None or any(map(self._fold.concerns, growth.subjects)):
            return False
        self._position = growth.last
        return True

    async def _apply(self, stored: StoredRecord) -> tuple[str, ...]:
        self._position = stored.seq
        if not self._fold.concerns(stored.subject):
            return ()
        try:
            record = stored.record()
            opened = await self._open(record) if self._fold.reads_sealed(record) else None
            return self._fold.apply(record, opened)
        except InvalidRecord as error:  # another version's record, or damage: others look into it
            _log.error("record cannot be read", seq=stored.seq, error=str(error))
            return ()

    async def _open(self, record: Record) -> Opened:
        """What a sealed record holds, or that it is gone; waits until the gateway says which."""
        while True:
            try:
                return await self._keys.open_one(record, timeout=_KEY_SECONDS)
            except Unopened as error:
                return error
            except Unavailable as error:
                if self._connection.nats.is_closed:
                    raise
                _log.warning("will ask again for a key", seq=record.seq, error=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _begin(self, caught_up: asyncio.Event) -> None:
        """Once the past is known: make up for what was left undone, register blueprints."""
        await caught_up.wait()
        for run_id in list(self._fold.runs):
            self._schedule(run_id)
        for blueprint in self._blueprints:
            if self._fold.needs_registration(blueprint):
                envelope = self._envelope(
                    vocabulary.BLUEPRINT_REGISTER,
                    {"document": blueprint.canonical},
                    # With the position, so that after a denial it is asked anew.
                    id=f"{self._fold.registration_id(blueprint)}:{self._position}",
                    kind="control",
                    to=vocabulary.BLUEPRINT_REGISTER,
                )
                receipt = await self._publisher.publish(envelope)
                _log.info("registered", blueprint=blueprint.blueprint, seq=receipt.seq)
        _log.info("ready", runs=len(self._fold.runs), seq=self._position)
        self._ready.set()

    async def _beat(self) -> None:
        while True:
            if self._connection.nats.is_closed:
                raise Unavailable(f"the connection of {self._connection.principal} is closed")
            RUNS.set(len(self._fold.runs))
            FOLDED.set(self._position)
            self._health.beat(
                seq=self._position, runs=len(self._fold.runs), ready=self._ready.is_set()
            )
            await asyncio.sleep(_BEAT_SECONDS)

    def _touch(self, changed: Iterable[str]) -> None:
        """Schedule runs once the records at hand are folded: a run may change in many of them."""
        if changed and not self._touched:
            asyncio.get_running_loop().call_soon(self._schedule_touched)
        self._touched.update(changed)

    def _schedule_touched(self) -> None:
        touched, self._touched = self._touched, set()
        for run_id in touched:
            self._schedule(run_id)

    def _schedule(self, run_id: str) -> None:
        """Bring what is being done for a run in line with what ought to be done."""
        wanted = {command.id: command for command in self._fold.due_for(run_id)}
        doing = self._scheduled.setdefault(run_id, {})
        for gone in doing.keys() - wanted.keys():
            task = doing.pop(gone)
            task.cancel()  # the ledger has it, or it does not matter any more
        for new in wanted.keys() - doing.keys():
            doing[new] = asyncio.create_task(self._carry_out(wanted[new]))
        if not doing:
            del self._scheduled[run_id]

    async def _carry_out(self, command: Command) -> None:
        """Wait for the moment, then submit until the gateway has answered."""
        wait = (_moment(command) - self._clock()) / _SECOND
        if wait > 0:
            await asyncio.sleep(wait)
        try:
            try:
                await self._submit(self._message(command))
            except (InvalidInput, Rejected) as error:  # no record from which the fold would know
                detail = getattr(error, "detail", error)
                if self._fold.runs[command.run_id].about:  # which it may quote
                    detail = type(error).__name__
                why = f"{command.id}: {detail}"
                _log.warning("cannot be sent", command=command.id, error=str(detail))
                await self._submit(self._instead(command, why))
            except Unopened:
                _log.warning("erased", command=command.id)
                await self._submit(self._instead(command, ERASED))
        except Exception:  # a fault of ours; the other runs go on
            _log.exception("not carried out", command=command.id)
            return
        COMMANDS.labels(type(command).__name__.lower()).inc()

    async def _submit(self, envelope: Envelope) -> None:
        if (size := len(encode(envelope))) > MAX_PAYLOAD:
            raise InvalidInput(f"{size} bytes, the broker takes {MAX_PAYLOAD} at most")
        while True:
            try:
                await self._publisher.publish(envelope)
            except Denied as error:
                _log.warning("denied", id=envelope.id, error=str(error))
                if error.reason == Reason.ERASED and envelope.kind != "task":
                    raise Unopened(Unopened.ERASED, error.detail) from error
                if envelope.kind != "task":  # of which the fold reads it; the rest must be said
                    await asyncio.sleep(_DENIED_SECONDS)
                    continue
            except Unavailable as error:
                _log.warning("will submit again", id=envelope.id, error=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            return

    def _message(self, command: Command) -> Envelope:
        run = self._fold.runs[command.run_id]
        about: dict[str, Any] = {"correlationid": run.correlation, "runid": run.id}
        match command:
            case Announce():
                about |= _personal(run)
                if run.about:  # also for those who cannot read how it ended
                    about |= {"subject": command.status}
                data = {
                    "run": run.id,
                    "blueprint": run.blueprint.blueprint,
                    "status": command.status,
                    "output": command.output,
                    "error": command.error,
                }
                return self._envelope(vocabulary.RUN_FINISHED, data, id=command.id, **about)
            case Timer():
                about |= {"kind": "control", "to": vocabulary.RUN_TIMEOUT}
                about |= _attempt(command)
                return self._envelope(vocabulary.RUN_TIMEOUT, None, id=command.id, **about)
            case Dispatch():
                about |= {"kind": Kind.TASK.value, "to": command.task, "blueprint": run.digest}
                about |= {"onbehalfof": behalf(run), "causationid": run.event["id"]}
                about |= {"causationsource": run.event["source"]}
                about |= _personal(run)
                about |= _attempt(command)
                return self._envelope(command.task, command.data, id=command.id, **about)

    def _instead(self, command: Command, why: str) -> Envelope:
        """What is said where a command cannot be: the run ends, or ends without its output.

        It quotes no data, so it is no personal data either.
        """
        run = self._fold.runs[command.run_id]
        if isinstance(command, Announce):
            envelope = self._message(replace(command, output=None, error=why))
            return structs.replace(envelope, dataclassification=None, datasubject=None)
        return self._envelope(
            vocabulary.RUN_CANCEL,
            {"run": run.id, "reason": why},
            id=f"{run.id}:cancel",
            kind="control",
            to=vocabulary.RUN_CANCEL,
            correlationid=run.correlation,
            runid=run.id,
        )

    def _envelope(self, type: str, data: object, **attributes: Any) -> Envelope:
        return Envelope.new(
            type,
            data,
            source=f"tidegate:{self._connection.principal}",
            now=self._clock(),
            **attributes,
        )


def _personal(run: Run) -> dict[str, Any]:
    """Attributes of what is said with the data of a run."""
    if run.erased or not run.about:
        return {}
    return {"dataclassification": PERSONAL, "datasubject": ",".join(sorted(run.about))}


def _moment(command: Command) -> int:
    match command:
        case Timer():
            return command.at
        case Dispatch():
            return command.not_before
        case Announce():
            return 0


def _attempt(command: Timer | Dispatch) -> dict[str, Any]:
    return {
        "stepid": command.step,
        "attempt": command.attempt,
        "subject": str(command.index),
    }
