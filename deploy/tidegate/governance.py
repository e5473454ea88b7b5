"""What operators and approvers have said, and what waits for them: read from the ledger.

For the command line and the stack. It reads the records that matter by subject, never the whole
ledger, and folds them as the gateway does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from tidegate_bus.ledger import LedgerReader
from tidegate_policy import recall
from tidegate_policy.controls import COMMANDS, Controls
from tidegate_policy.genesis import genesis
from tidegate_policy.holds import Hold
from tidegate_policy.obligations import Approval
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidEnvelope, LedgerError
from tidegate_schemas.governance import Order, Target
from tidegate_schemas.subjects import Kind, Verdict


@dataclass(frozen=True, slots=True)
class Command:
    """A control that was admitted, as the record `seq` says. `time` is RFC 3339."""

    seq: int
    to: str
    target: Target
    by: str
    reason: str
    time: str

    def after(self, controls: Controls) -> Controls:
        """The controls from here on.

        Raises:
            LedgerError: no gateway would have admitted it.
        """
        try:
            return controls.after(self.to, self.target)
        except InvalidEnvelope as error:
            raise LedgerError(f"ledger record {self.seq} is not of a gateway: {error}") from error


async def commands(reader: LedgerReader, start: int = 1) -> AsyncIterator[Command]:
    """The controls of the ledger, from the record `start` on.

    Raises:
        LedgerError: one is none that a gateway admits.
        Unavailable: the broker does not answer.
    """
    async for stored in reader.read(start, filter=subjects.delivery(0, Kind.CONTROL, "control.>")):
        made = recall.read(stored)
        if made.to not in COMMANDS:
            continue
        try:
            message = made.message()
            assert message, "what is admitted could be read"
            order: Order = message.payload(Order)
            target = Target.parse(order.target)
        except InvalidEnvelope as error:
            raise recall.unreadable(stored, error) from error
        yield Command(made.seq, made.to, target, made.by, order.reason, made.time)


async def standing(reader: LedgerReader) -> tuple[Controls, dict[Target, Command]]:
    """The controls now, and of each what set it.

    Raises:
        LedgerError, Unavailable: see `commands`.
    """
    controls, found = Controls(), dict[Target, Command]()
    async for command in commands(reader):
        controls = command.after(controls)
        found[command.target] = command
    return controls, {target: found[target] for target in controls.levels}


async def state_of(reader: LedgerReader, last: int | None = None) -> State:
    """What lasts, up to the record `last` or the end: who takes part, controls, what waits.

    Raises:
        LedgerError, Unavailable: see `commands`.
    """
    if last is None:
        end = await reader.last()
        last = end.seq if end else 0
    state = State(genesis(), Window(0.0, 0))
    await recall.lasting(reader, state, 0, last)
    return state


def missing(state: State, hold: Hold) -> list[Approval]:
    """What must still be agreed to before a message that waits goes on."""
    active, roster = state.library.active, state.roster
    return [rule for rule in hold.approvals if not hold.agreed(rule, active, roster)]


def held_by(state: State, targets: Iterable[Target]) -> dict[Target, int]:
    """How many messages each target holds; one that several hold counts for the one named first."""
    counts = dict.fromkeys(targets, 0)
    for hold in state.holds:
        stopped = state.stopped(hold.by, hold.kind, hold.to, hold.envelope)
        if stopped and stopped[1] in counts:
            counts[stopped[1]] += 1
    return counts


async def end_of(reader: LedgerReader, hold: int, after: int) -> tuple[int, Verdict, str] | None:
    """How a message that waited went on, in what followed the record `after` at once.

    Returns:
        The record, its verdict and its detail or reason; None if it waits on.

    Raises:
        LedgerError, Unavailable: see `commands`.
    """
    async for stored in reader.read(after + 1, follow=True):
        made = recall.read(stored)
        if made.first == hold and made.ingress.n:
            return made.seq, made.verdict, str(made.why.facts.get("detail") or made.why.reason)
        if made.ingress.n == 0:
            return None
    return None
