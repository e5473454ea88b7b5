"""The gateway: reads submissions in order, decides, appends, tells the senders.

Its only cursor is the ledger's own tail: each record says which submission it answers. Starting is
recovering, after a crash at any line as after the loss of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter as Tally
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from tidegate_bus.appender import MAX_BATCH, FastAppender, LedgerAppender
from tidegate_bus.connection import Connection
from tidegate_bus.ingress import IngressReader, PulledIngress, Submission
from tidegate_bus.ledger import LedgerReader, StoredRecord
from tidegate_bus.tasks import end
from tidegate_bus.telemetry import Health
from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import (
    Fenced,
    InvalidEnvelope,
    InvalidName,
    InvalidRecord,
    LedgerError,
    LedgerGap,
    TidegateError,
    Unavailable,
)
from tidegate_schemas.identity import IDENTITY_COMMANDS
from tidegate_schemas.record import Receipt, Record, encode_receipts, encode_record
from tidegate_schemas.subjects import Kind, Principal

from .bundle import Snapshot
from .decide import Limits, decide, receipt, record
from .roster import Roster, follow
from .trimmer import Trimmer
from .window import Window

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.gateway")

_PIPELINED = 4
_RETRY_SECONDS = 0.5
_BEAT_SECONDS = 1.0
_RECEIPTS_BYTES = 512 * 1024
_TURN_SECONDS = 0.05
"""Deciding goes on for so long before what else there is to do has a turn. A large message of many
brackets takes tens of ms, and the broker lets go a gateway that reads nothing for 5 s."""
_OTHERS_SECONDS = 0.005
_DRIFT_SECONDS = 60.0
"""By how much the clocks of gateway and broker may drift apart within the dedupe window."""

RECORDS = Counter("tidegate_records", "Records written to the ledger", ["verdict", "kind"])
TAIL = Gauge("tidegate_ledger_seq", "Sequence of the last record")
REMEMBERED = Gauge("tidegate_dedupe_entries", "Envelope ids that are remembered")
DECIDED = Histogram(
    "tidegate_submission_seconds",
    "From the submission's storage to its record's",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How a gateway works.

    Attributes:
        log: name of the log in every record.
        limits: see `Limits`.
        dedupe_window: seconds in which a repeated envelope id is recognised.
        dedupe_entries: how many ids are remembered at most.
        partition: which one it serves.
    """

    log: str
    limits: Limits
    dedupe_window: float
    dedupe_entries: int
    partition: int = 0


@dataclass(slots=True)
class _Batch:
    """Records on their way to the ledger, and what to do once they are stored."""

    stored: asyncio.Future[int]
    leaves: list[bytes]
    verdicts: Tally[tuple[str, str]]
    receipts: dict[str, list[Receipt]]
    submissions: list[Submission]


class Gateway:
    """The one writer of a partition's ledger."""

    def __init__(
        self,
        connection: Connection,
        snapshot: Snapshot,
        settings: GatewaySettings,
        health: Health,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._connection = connection
        self._snapshot = snapshot
        self._settings = settings
        self._health = health
        self._clock = clock
        self._reader = LedgerReader(connection, settings.partition)
        self._ledger = subjects.ledger_stream(settings.partition)
        self._ready = asyncio.Event()
        self._stored = 0  # last sequence that is known to be stored
        # Digests of the records of this start and of the one before it that nobody confirmed.
        self._unconfirmed: deque[set[bytes]] = deque(maxlen=2)

    async def ready(self) -> None:
        """Wait until submissions are being read."""
        await self._ready.wait()

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            LedgerError: the ledger or the ingress is not what it should be. Nothing more is
                admitted; somebody must look.
            Unavailable: the connection was closed.
        """
        while True:
            try:
                await self._serve()
            except TidegateError as error:
                self._health.fail(str(error))
                if self._connection.nats.is_closed or not isinstance(error, Unavailable):
                    raise
                _log.error("starting again from the ledger's tail", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _serve(self) -> None:
        """Recover from the tail, then work."""
        settings = self._settings
        last = await self._reader.last()
        tail = _read(last) if last else None
        seq, after, epoch = (tail.seq, tail.ingress.seq, tail.epoch + 1) if tail else (0, 0, 1)
        await self._check_since(seq)
        window = await self._recall(behind=last.stored - _time(tail) if last and tail else 0)
        snapshot = self._snapshot.bundle.snapshot(await self._members(seq))
        async with contextlib.AsyncExitStack() as stack:
            ingress = await PulledIngress.open(
                self._connection, after=after, partition=settings.partition
            )
            stack.push_async_callback(ingress.close)
            appender = await FastAppender.open(self._connection, last=seq)
            stack.push_async_callback(appender.close)
            _log.info(
                "serving",
                ledger_seq=seq,
                ingress_seq=after,
                epoch=epoch,
                remembered=len(window),
                bundle=snapshot.bundle.digest,
                members=len(snapshot.roster.members),
            )
            self._ready.set()
            self._unconfirmed.append(set())
            batches: asyncio.Queue[_Batch] = asyncio.Queue(_PIPELINED)
            trimmer = Trimmer(ingress)
            await _until_one_fails(
                self._decide(snapshot, ingress, appender, window, batches, seq, epoch),
                self._confirm(batches, trimmer),
                trimmer.run(),
                self._beat(window),
            )

    async def _check_since(self, tail: int) -> None:
        """Check that since the last confirmation nobody wrote but us, and nothing was lost."""
        if tail < self._stored:
            raise LedgerGap(self._ledger, self._stored, tail)
        if self._unconfirmed:
            own = set[bytes]().union(*self._unconfirmed)
            async for stored in self._reader.read(self._stored + 1):
                if _digest(stored.payload) not in own:
                    raise Fenced(self._stored, f"record {stored.seq} is of somebody else")
        self._stored = tail

    async def _recall(self, behind: int) -> Window:
        """The dedupe window, from the ledger.

        Args:
            behind: by how much, in ns, the last record was stored after it was made. Records
                are found by the broker's clock, which may be another one.
        """
        settings = self._settings
        window = Window(settings.dedupe_window, settings.dedupe_entries)
        length = int((window.length + _DRIFT_SECONDS) * 1_000_000_000)
        since = self._clock() + min(behind, 0) - length
        async for stored in self._reader.read(since=max(since, 0)):
            old = _read(stored)
            try:
                message = old.message()
            except InvalidEnvelope as error:
                raise _unreadable(stored, error) from error
            if message is not None:
                window.add_record(old, message.id, _time(old))
        return window

    async def _members(self, tail: int) -> Roster:
        """Who takes part after the record `tail`."""
        roster = self._snapshot.roster
        commands = subjects.delivery(self._settings.partition, Kind.CONTROL, IDENTITY_COMMANDS)
        async for stored in self._reader.read(filter=commands):
            if stored.seq > tail:
                break
            try:
                roster = follow(roster, _read(stored))
            except InvalidEnvelope as error:
                raise _unreadable(stored, error) from error
        return roster

    async def _decide(
        self,
        snapshot: Snapshot,
        ingress: IngressReader,
        appender: LedgerAppender,
        window: Window,
        batches: asyncio.Queue[_Batch],
        seq: int,
        epoch: int,
    ) -> None:
        settings = self._settings
        waiting: list[Submission] = []
        while True:
            if waiting:  # its turn was over
                await asyncio.sleep(_OTHERS_SECONDS)
            else:
                waiting = await ingress.next(MAX_BATCH)
            now, turn = self._clock(), time.monotonic() + _TURN_SECONDS
            submissions: list[Submission] = []
            entries: list[tuple[str, bytes]] = []
            verdicts: Tally[tuple[str, str]] = Tally()
            receipts: defaultdict[str, list[Receipt]] = defaultdict(list)
            for submission in waiting:
                seq += 1
                decision = decide(snapshot, settings.limits, submission, window, now)
                made = record(
                    decision, submission, snapshot, log=settings.log, seq=seq, epoch=epoch, now=now
                )
                if decision.envelope is not None:
                    window.add_record(made, decision.envelope.id, now)
                if decision.roster is not None:  # from the next submission on
                    snapshot = snapshot.bundle.snapshot(decision.roster)
                subject = subjects.ledger(
                    settings.partition, decision.verdict, decision.kind, decision.to
                )
                submissions.append(submission)
                entries.append((subject, encode_record(made)))
                receipts[submission.by].append(receipt(decision, submission, seq))
                verdicts[decision.verdict, decision.kind] += 1
                if time.monotonic() >= turn:
                    break
            waiting = waiting[len(submissions) :]
            leaves = [_digest(payload) for _, payload in entries]
            self._unconfirmed[-1].update(leaves)
            stored = await appender.append(entries)
            await batches.put(_Batch(stored, leaves, verdicts, receipts, submissions))

    async def _confirm(self, batches: asyncio.Queue[_Batch], trimmer: Trimmer) -> None:
        """Once the ledger has the records: tell the senders, and let the submissions go."""
        publish = self._connection.publish
        while True:
            batch = await batches.get()
            try:
                seq = self._stored = await batch.stored
            except Fenced as error:
                # Perhaps by us: a broker that was late stores what we have given up. Starting
                # again tells, and stops if it was somebody else.
                raise Unavailable(str(error)) from error
            self._unconfirmed[-1].difference_update(batch.leaves)
            self._health.fail(None)
            for by, receipts in batch.receipts.items():
                try:
                    subject = subjects.receipt(Principal.parse(by))
                except InvalidName:
                    continue  # nobody can listen under such a name
                for payload in _messages(receipts):
                    await publish(subject, payload)
            await publish(subjects.tail(self._settings.partition), b"%d" % seq)
            TAIL.set(seq)
            for labels, records in batch.verdicts.items():
                RECORDS.labels(*labels).inc(records)
            now = self._clock()
            for submission in batch.submissions:
                DECIDED.observe((now - submission.time) / 1e9)
            trimmer.recorded(batch.submissions[-1].seq)

    async def _beat(self, window: Window) -> None:
        while True:
            REMEMBERED.set(len(window))
            self._health.beat(bundle=self._snapshot.bundle.digest)
            await asyncio.sleep(_BEAT_SECONDS)
            # Not before: a start that fails again at its first append has mended nothing.
            nats = self._connection.nats
            if nats.is_closed:  # nobody else would notice while there is nothing to write
                raise Unavailable("the connection was closed")
            self._health.fail(None if nats.is_connected else "not connected to the broker")


def _messages(receipts: list[Receipt]) -> Iterator[bytes]:
    """Receipts of one sender as messages that the broker takes."""
    payload = encode_receipts(receipts)
    if len(payload) <= _RECEIPTS_BYTES or len(receipts) == 1:
        yield payload
    else:
        middle = len(receipts) // 2
        yield from _messages(receipts[:middle])
        yield from _messages(receipts[middle:])


def _read(stored: StoredRecord) -> Record:
    """A record that a gateway wrote.

    Raises:
        LedgerError: it is none.
    """
    try:
        old = stored.record()
        _time(old)
    except (InvalidRecord, ValueError) as error:
        raise _unreadable(stored, error) from error
    if old.seq != stored.seq:
        raise _unreadable(stored, ValueError(f"it bears the sequence {old.seq}"))
    return old


def _time(old: Record) -> int:
    """When it was made, ns since 1970."""
    return parse_rfc3339(old.time)


def _unreadable(stored: StoredRecord, error: Exception) -> LedgerError:
    return LedgerError(f"ledger record {stored.seq} is not of a gateway: {error}")


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()


async def _until_one_fails(*works: Coroutine[Any, Any, None]) -> None:
    """Do all of it side by side; the first that ends, in whatever way, ends the others.

    Where several fail at once, one that a retry does not help is raised. (Not a task group: on
    Python 3.11 that loses a cancellation which comes while it waits for the others, and it goes
    on without a task that was cancelled.)
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            await end(task)
    errors = [e for task in tasks if not task.cancelled() and (e := task.exception())]
    raise min(
        errors,
        key=lambda error: isinstance(error, Unavailable),
        default=Unavailable("a part of the gateway ended"),
    )
