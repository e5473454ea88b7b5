"""A script, played in a sandbox: its messages are delivered again, and what agents say is heard.

In the gateway's place stands somebody who writes the records of then, byte for byte and under
their sequences, and tells agents what the gateway told them then. What they say goes to nobody:
each message comes from the ledger, whatever is answered to the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tidegate.child import OnLine
from tidegate.project import Project, State
from tidegate_bus.appender import MAX_BATCH, Entry, FastAppender
from tidegate_bus.connection import Connection
from tidegate_bus.ingress import PulledIngress, Submission
from tidegate_bus.tasks import end
from tidegate_schemas import subjects
from tidegate_schemas.envelope import decode
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.record import Receipt, encode_receipts
from tidegate_schemas.subjects import NOWHERE, Kind, Principal, Verdict

from .answers import Answers, Finding
from .keys import Keys
from .pace import Pace
from .sandbox import Sandbox, sandbox
from .script import Delivery, Script

_POLL_SECONDS = 0.05
_ROOM = subjects.ledger(0, Verdict.DENY, Kind.UNKNOWN, NOWHERE)
"""Where nothing is delivered from: a place in the ledger that is kept free."""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it.

    Attributes:
        findings: of everything that was said, then or now.
        unsettled: deliveries that were not handled to their end before the time was over.
    """

    findings: list[Finding]
    unsettled: int


async def redeliver(
    script: Script,
    agents: Sequence[Manifest],
    project: Project,
    state: State,
    *,
    pace: Pace,
    timeout: float,
    on_progress: Callable[[int], None],
    on_line: OnLine,
) -> Played:
    """Deliver the messages of a script again.

    Args:
        script: what to play; at least one message.
        agents: those of the script.
        project: whose code they are.
        state: of the sandbox; an empty folder.
        pace: when.
        timeout: seconds without a sign of life after which the rest is given up.
        on_progress: called with the number of deliveries that are handled.
        on_line: called with each process's name and log lines.

    Raises:
        InvalidInput: an agent cannot start with what it is given.
        Unavailable: the sandbox does not work; says why.
    """
    deliveries = script.deliveries
    records = {(name, each.id): each.seq for each in deliveries for name in each.agents}
    answers = Answers(script.said, records)
    first = deliveries[0].seq
    async with sandbox(project, state, agents, first, on_line) as made:
        hand = _Hand(made.gateway, deliveries, pace)
        await Keys(made.gateway).start()
        ear = _Ear(answers, made.gateway, project.settings.gateway.envelope_bytes)
        tasks = [asyncio.create_task(work) for work in (hand.write(), ear.listen())]
        try:
            unsettled = await _until_settled(made, hand, ear, tasks, timeout, on_progress)
        finally:
            for task in tasks:
                await end(task)
    return Played(answers.finish(), unsettled)


async def _until_settled(
    made: Sandbox,
    hand: _Hand,
    ear: _Ear,
    tasks: list[asyncio.Task[None]],
    timeout: float,
    on_progress: Callable[[int], None],
) -> int:
    """Wait until all is handled, or nothing moves any more; how many deliveries are left then."""
    clock = asyncio.get_running_loop().time
    seen, alive = (-1, -1), clock()
    while True:
        made.check()
        for task in tasks:
            if task.done():
                task.result()
        written, over = hand.written, hand.over
        left = await made.unsettled()
        on_progress(written - left)
        if over and not left:
            return 0
        if (now := (left, ear.heard)) != seen or not over:
            seen, alive = now, clock()
        elif clock() - alive > timeout:
            return left
        await asyncio.sleep(_POLL_SECONDS)


class _Hand:
    """Writes each record when it is its time, in the place that it had.

    Attributes:
        written: how many deliveries, one for each agent that gets the record.
        over: whether that is all.
    """

    def __init__(self, gateway: Connection, deliveries: Sequence[Delivery], pace: Pace) -> None:
        self.written = 0
        self.over = False
        self._gateway = gateway
        self._deliveries = deliveries
        self._pace = pace

    async def write(self) -> None:
        """Write all of them.

        Raises:
            Unavailable: the broker does not take them.
        """
        deliveries, last = self._deliveries, self._deliveries[0].seq - 1
        began = asyncio.get_running_loop().time()
        appender = await FastAppender.open(self._gateway, last=last)
        try:
            done = 0
            while done < len(deliveries):
                ripe = await self._ripe(began, done)
                for batch in _batches(_entries(ripe, last)):
                    await (await appender.append(batch))
                self.written += sum(len(each.agents) for each in ripe)
                last = ripe[-1].seq
                done += len(ripe)
            self.over = True
        finally:
            await appender.close()

    async def _ripe(self, began: float, done: int) -> Sequence[Delivery]:
        """Wait for the next one; with it, all whose time has come by then."""
        clock = asyncio.get_running_loop().time

        def due(each: Delivery) -> float:
            return began + self._pace.after(each.time - self._deliveries[0].time)

        await asyncio.sleep(max(due(self._deliveries[done]) - clock(), 0))
        count = 1
        for each in self._deliveries[done + 1 : done + MAX_BATCH]:
            if due(each) > clock():
                break
            count += 1
        return self._deliveries[done : done + count]


def _entries(deliveries: Sequence[Delivery], after: int) -> Iterator[Entry]:
    """The records, and what keeps free the places between them."""
    for each in deliveries:
        for _ in range(after + 1, each.seq):
            yield _ROOM, b""
        yield each.subject, each.payload
        after = each.seq


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == MAX_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class _Ear:
    """Hears what agents submit, and answers.

    Attributes:
        heard: how many submissions.
    """

    def __init__(self, answers: Answers, gateway: Connection, envelope_bytes: int) -> None:
        self.heard = 0
        self._answers = answers
        self._gateway = gateway
        self._envelope_bytes = envelope_bytes

    async def listen(self) -> None:
        """Go on for ever.

        Raises:
            Unavailable: the connection is closed for good.
        """
        ingress = await PulledIngress.open(self._gateway, after=0)
        try:
            while True:
                batch = await ingress.next(MAX_BATCH)
                for submission in batch:
                    receipt = self._hear(submission)
                    subject = subjects.receipt(Principal.parse(submission.by))
                    await self._gateway.publish(subject, encode_receipts([receipt]))
                self.heard += len(batch)
                await ingress.trim(batch[-1].seq)
        finally:
            await ingress.close()

    def _hear(self, submission: Submission) -> Receipt:
        try:
            message = decode(submission.payload, limit=self._envelope_bytes)
        except InvalidEnvelope as error:  # as it went then, and stands in no record that is paired
            return Receipt("", Verdict.REJECT, 0, error.code, submission.seq, error.detail)
        return self._answers.hear(submission.by, message, submission.seq)
