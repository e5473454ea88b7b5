"""The gateway: reads submissions in order, decides, appends, tells the senders.

Its only cursor is the ledger's own tail: each record says which submission it answers. Starting is
recovering, after a crash at any line as after the loss of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram

from tidegate_bus.appender import MAX_BATCH, FastAppender, LedgerAppender
from tidegate_bus.connection import Connection
from tidegate_bus.heads import newest_head
from tidegate_bus.ingress import IngressReader, PulledIngress, Submission
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.tasks import end
from tidegate_bus.telemetry import Health
from tidegate_evidence.tree import leaf_hash
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Fenced, InvalidName, LedgerGap, TidegateError, Unavailable
from tidegate_schemas.record import (
    Ingress,
    Receipt,
    Record,
    encode_growth,
    encode_receipts,
)
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import CLOCK_TICK, GATEWAY

from . import recall
from .asked import Forgotten
from .bundle import Snapshot
from .decide import Limits
from .desk import Desk, Entry
from .personal.custodian import Custodian
from .personal.privacy import COMMANDS as PRIVACY
from .personal.vault import Vault
from .signing.heads import Heads
from .state import State
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
_TICK_SECONDS = 1.0

RECORDS = Counter("tidegate_records", "Records written to the ledger", ["verdict", "kind"])
TAIL = Gauge("tidegate_ledger_seq", "Sequence of the last record")
SIGNED = Gauge("tidegate_signed_seq", "Sequence of the last record that a signed head covers")
REMEMBERED = Gauge("tidegate_dedupe_entries", "Envelope ids that are remembered")
HELD = Gauge("tidegate_held", "Messages that wait for an approval or the end of a pause")
DECISIONS = Gauge(
    "tidegate_policy_decisions", "Decisions of the policies in force: remembered or not", ["how"]
)
MEMORY = Gauge("tidegate_policy_memory_bytes", "What remembered decisions take, roughly")
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
        retention: seconds for which keys of personal data are kept, after the end of their month;
            None is for ever.
        partition: which one it serves.
    """

    log: str
    limits: Limits
    dedupe_window: float
    dedupe_entries: int
    retention: float | None = None
    partition: int = 0


@dataclass(slots=True)
class _Batch:
    """Records on their way to the ledger, and what to do once they are stored."""

    entries: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    leaves: list[bytes] = field(default_factory=list[bytes])
    verdicts: Tally[tuple[str, str]] = field(default_factory=Tally[tuple[str, str]])
    receipts: dict[str, list[Receipt]] = field(default_factory=dict[str, list[Receipt]])
    submissions: list[Submission] = field(default_factory=list[Submission])
    privacy: list[Record] = field(default_factory=list[Record])
    stored: asyncio.Future[int] | None = None

    def add(self, entry: Entry) -> None:
        """One more record."""
        made = entry.record
        self.entries.append((entry.subject, entry.payload))
        self.leaves.append(leaf_hash(entry.payload))
        self.verdicts[made.verdict, made.kind] += 1
        if made.to in PRIVACY:
            self.privacy.append(made)
        self.receipts.setdefault(made.by, []).append(entry.receipt)


class Gateway:
    """The one writer of a partition's ledger."""

    def __init__(
        self,
        connection: Connection,
        genesis: Snapshot,
        settings: GatewaySettings,
        heads: Heads,
        health: Health,
        vault: Vault,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """See the class.

        Args:
            connection: as `tidegate.gateway`.
            genesis: policies and roster in force while the ledger names none.
            settings: how it works.
            heads: what was signed of the ledger, and what is to be.
            health: told how it is.
            vault: keys of data subjects.
            clock: ns since 1970.
        """
        self._connection = connection
        self._genesis = genesis
        self._settings = settings
        self._heads = heads
        self._health = health
        self._vault = vault
        self._clock = clock
        self._reader = LedgerReader(connection, settings.partition)
        self._ledger = subjects.ledger_stream(settings.partition)
        self._ready = asyncio.Event()
        self._stored = 0  # last sequence that is known to be stored
        # Leaf hashes of the records of this start and of the one before it that nobody confirmed.
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
        tail = recall.read(last) if last else None
        seq, after, epoch = (tail.seq, tail.ingress.seq, tail.epoch + 1) if tail else (0, 0, 1)
        await self._check_since(seq)
        published = await newest_head(self._connection, settings.partition)
        await self._heads.recover(self._reader, seq, published)
        state = self._begin()
        if last:
            partition, now = settings.partition, self._clock()
            state = await recall.recall(self._reader, self._begin, partition, last, now)
        vault, clock, log = self._vault, self._clock, settings.log
        desk = Desk(state, settings.limits, log, settings.partition, epoch, seq, vault)
        custodian = Custodian(
            self._connection, vault, state, self._reader, settings.retention, clock
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._heads.close)
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
                remembered=len(state.window),
                bundle=state.library.active,
                members=len(state.roster.members),
                held=len(state.holds),
            )
            self._ready.set()
            self._unconfirmed.append(set())
            batches: asyncio.Queue[_Batch] = asyncio.Queue(_PIPELINED)
            trimmer = Trimmer(ingress)
            await _until_one_fails(
                self._decide(desk, tail.ingress if tail else None, ingress, appender, batches),
                self._confirm(batches, trimmer, custodian),
                trimmer.run(),
                self._heads.run(self._publish_head),
                custodian.run(),
                self._tick(state),
                self._beat(state),
            )

    def _begin(self) -> State:
        """The state before the first record."""
        settings = self._settings
        return State(self._genesis, Window(settings.dedupe_window, settings.dedupe_entries))

    async def _check_since(self, tail: int) -> None:
        """Check that since the last confirmation nobody wrote but us, and nothing was lost."""
        if tail < self._stored:
            raise LedgerGap(self._ledger, self._stored, tail)
        if self._unconfirmed:
            own = set[bytes]().union(*self._unconfirmed)
            async for stored in self._reader.read(self._stored + 1):
                if leaf_hash(stored.payload) not in own:
                    raise Fenced(self._stored, f"record {stored.seq} is of somebody else")
        self._stored = tail

    async def _decide(
        self,
        desk: Desk,
        last: Ingress | None,
        ingress: IngressReader,
        appender: LedgerAppender,
        batches: asyncio.Queue[_Batch],
    ) -> None:
        """Batch by batch; the policies are the same ones in all of a batch."""
        entries = desk.go_on(last, self._clock()) if last else iter(())
        waiting: deque[Submission] = deque()
        while True:
            batch, over = _Batch(), False
            now, turn = self._clock(), time.monotonic() + _TURN_SECONDS
            while len(batch.entries) < MAX_BATCH and not over:
                try:
                    entry = next(entries)
                except StopIteration:
                    if not waiting:
                        break
                    submission = waiting.popleft()
                    batch.submissions.append(submission)
                    entries = desk.take(submission, now)
                    continue
                except Forgotten as cause:
                    await recall.again(self._reader, desk.state, cause.seq)
                    entries = desk.take(batch.submissions[-1], now)
                    continue
                over = time.monotonic() >= turn
                if entry is not None:
                    batch.add(entry)
                    over = over or entry.switched
            if batch.entries:
                self._unconfirmed[-1].update(batch.leaves)
                self._heads.sending(desk.seq - len(batch.leaves) + 1, batch.leaves)
                batch.stored = await appender.append(batch.entries)
                await batches.put(batch)
            if over or waiting:
                await asyncio.sleep(_OTHERS_SECONDS)
            elif not batch.entries:
                waiting.extend(await ingress.next(MAX_BATCH))

    async def _confirm(
        self, batches: asyncio.Queue[_Batch], trimmer: Trimmer, custodian: Custodian
    ) -> None:
        """Once the ledger has the records: tell the senders, and let the submissions go."""
        publish = self._connection.publish
        while True:
            batch = await batches.get()
            try:
                assert batch.stored
                seq = self._stored = await batch.stored
            except Fenced as error:
                # Perhaps by us: a broker that was late stores what we have given up. Starting
                # again tells, and stops if it was somebody else.
                raise Unavailable(str(error)) from error
            self._unconfirmed[-1].difference_update(batch.leaves)
            self._heads.stored(batch.leaves)
            self._health.fail(None)
            for made in batch.privacy:
                custodian.recorded(made)
            for by, receipts in batch.receipts.items():
                try:
                    subject = subjects.receipt(Principal.parse(by))
                except InvalidName:
                    continue  # nobody can listen under such a name
                for payload in _messages(receipts):
                    await publish(subject, payload)
            stored = [subject for subject, _ in batch.entries]
            growth = encode_growth(seq - len(stored) + 1, stored)
            await publish(subjects.tail(self._settings.partition), growth)
            TAIL.set(seq)
            for labels, records in batch.verdicts.items():
                RECORDS.labels(*labels).inc(records)
            now = self._clock()
            for submission in batch.submissions:
                DECIDED.observe((now - submission.time) / 1e9)
            if batch.submissions:
                trimmer.recorded(batch.submissions[-1].seq)

    async def _publish_head(self, note: bytes) -> None:
        await self._connection.api(subjects.head(self._settings.partition), msgspec.Raw(note))

    async def _tick(self, state: State) -> None:
        """Say that time has passed, when something that is held has waited too long for it."""
        subject = subjects.submission(GATEWAY)
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._clock()
            if state.overdue(now):
                tick = Envelope.new(
                    CLOCK_TICK,
                    source=f"tidegate:{GATEWAY}",
                    id=f"tick:{now}",
                    kind="control",
                    to=CLOCK_TICK,
                )
                await self._connection.publish(subject, encode(tick))

    async def _beat(self, state: State) -> None:
        while True:
            REMEMBERED.set(len(state.window))
            HELD.set(len(state.holds))
            SIGNED.set(self._heads.signed)
            counters = state.snapshot.counters
            for how in ("hits", "misses", "uncached", "checked"):
                DECISIONS.labels(how).set(getattr(counters, how))
            MEMORY.set(counters.bytes)
            self._health.beat(bundle=state.library.active, held=len(state.holds))
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
