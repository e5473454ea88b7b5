"""The gateway: reads submissions in order, decides, appends, tells the senders.

Its only cursor is the ledger's own tail: each record says which submission it answers. Starting is
recovering, after a crash at any line as after the loss of a connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import nats.errors
import structlog
from prometheus_client import Counter, Gauge, Histogram

from tidegate_bus.appender import MAX_BATCH, FastAppender, LedgerAppender
from tidegate_bus.connection import Connection
from tidegate_bus.ingress import IngressReader, PulledIngress, Submission
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.telemetry import Health
from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.errors import InvalidName, Unavailable
from tidegate_schemas.record import Receipt, decode_record, encode_receipts, encode_record
from tidegate_schemas.subjects import Principal, Verdict

from .bundle import Bundle
from .decide import Limits, decide, receipt, record
from .window import First, Window

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.gateway")

_PIPELINED = 4
_TRIM_EVERY = 10_000
_RETRY_SECONDS = 0.5
_BEAT_SECONDS = 1.0

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
    """Records that were sent to the ledger, and what to do once they are stored."""

    stored: asyncio.Future[int]
    receipts: dict[str, list[Receipt]]
    submissions: list[Submission]


class Gateway:
    """The one writer of a partition's ledger."""

    def __init__(
        self,
        connection: Connection,
        bundle: Bundle,
        settings: GatewaySettings,
        health: Health,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._connection = connection
        self._bundle = bundle
        self._settings = settings
        self._health = health
        self._clock = clock
        self._reader = LedgerReader(connection, settings.partition)
        self._ready = asyncio.Event()

    async def ready(self) -> None:
        """Wait until submissions are being read."""
        await self._ready.wait()

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            LedgerError: the ledger or the ingress is not what it should be. Nothing more is
                admitted; somebody must look.
        """
        while True:
            try:
                await self._serve()
            except* Unavailable as group:
                error = group.exceptions[0]
                _log.warning("starting again from the ledger's tail", error=str(error))
                self._health.fail(str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _serve(self) -> None:
        """Recover from the tail, then work."""
        settings = self._settings
        last = await self._reader.last()
        tail = last.record() if last else None
        seq, after, epoch = (tail.seq, tail.ingress.seq, tail.epoch + 1) if tail else (0, 0, 1)
        window = await self._recall()
        ingress = await PulledIngress.open(
            self._connection, after=after, partition=settings.partition
        )
        appender = await FastAppender.open(self._connection, last=seq)
        _log.info(
            "serving",
            ledger_seq=seq,
            ingress_seq=after,
            epoch=epoch,
            remembered=len(window),
            bundle=self._bundle.digest,
        )
        self._health.fail(None)
        self._ready.set()
        batches: asyncio.Queue[_Batch] = asyncio.Queue(_PIPELINED)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._decide(ingress, appender, window, batches, seq, epoch))
                tasks.create_task(self._confirm(ingress, batches))
                tasks.create_task(self._beat(window))
        finally:
            await ingress.close()
            await appender.close()

    async def _recall(self) -> Window:
        """The dedupe window, from the ledger."""
        settings = self._settings
        window = Window(settings.dedupe_window, settings.dedupe_entries)
        since = self._clock() - int(window.length * 1_000_000_000)
        async for stored in self._reader.read(since=max(since, 0)):
            old = decode_record(stored.payload)
            message = None if old.verdict is Verdict.DUPLICATE else old.message()
            if message is not None:
                window.add_record(old, message.id, parse_rfc3339(old.time))
        return window

    async def _decide(
        self,
        ingress: IngressReader,
        appender: LedgerAppender,
        window: Window,
        batches: asyncio.Queue[_Batch],
        seq: int,
        epoch: int,
    ) -> None:
        bundle, settings = self._bundle, self._settings
        while True:
            submissions = await ingress.next(MAX_BATCH)
            now = self._clock()
            entries: list[tuple[str, bytes]] = []
            receipts: defaultdict[str, list[Receipt]] = defaultdict(list)
            for submission in submissions:
                seq += 1
                decision = decide(bundle, settings.limits, submission, window, now)
                made = record(
                    decision, submission, bundle, log=settings.log, seq=seq, epoch=epoch, now=now
                )
                if decision.envelope is not None and decision.first is None:
                    first = First(seq, now, decision.verdict, decision.reason, decision.policies)
                    window.add(submission.by, decision.envelope.id, first)
                subject = subjects.ledger(
                    settings.partition, decision.verdict, decision.kind, decision.to
                )
                entries.append((subject, encode_record(made)))
                receipts[submission.by].append(receipt(decision, submission, seq))
                RECORDS.labels(decision.verdict, decision.kind).inc()
            stored = await appender.append(entries)
            await batches.put(_Batch(stored, receipts, submissions))

    async def _confirm(self, ingress: IngressReader, batches: asyncio.Queue[_Batch]) -> None:
        """Tell the senders, once the ledger has the records; trim what is recorded."""
        publish = self._connection.nats.publish
        trimmed = 0
        while True:
            batch = await batches.get()
            seq = await batch.stored
            try:
                for by, receipts in batch.receipts.items():
                    try:
                        subject = subjects.receipt(Principal.parse(by))
                    except InvalidName:
                        continue  # nobody can listen under such a name
                    await publish(subject, encode_receipts(receipts))
                await publish(subjects.tail(self._settings.partition), b"%d" % seq)
            except nats.errors.Error as error:
                raise Unavailable(f"cannot send receipts: {error}") from error
            TAIL.set(seq)
            now = self._clock()
            for submission in batch.submissions:
                DECIDED.observe((now - submission.time) / 1e9)
            last = batch.submissions[-1].seq
            if last - trimmed >= _TRIM_EVERY:
                trimmed = last
                await ingress.trim(last)

    async def _beat(self, window: Window) -> None:
        while True:
            REMEMBERED.set(len(window))
            self._health.beat(bundle=self._bundle.digest)
            await asyncio.sleep(_BEAT_SECONDS)
