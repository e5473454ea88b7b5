"""Brings a running bus to what its register says: broker, consumers, ledger, in that order.

Level-triggered: it looks at what is wanted and at what is there, never at what was commanded. So it
does not matter where it was interrupted, and starting does the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.topology import converge
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_policy.roster import BUILT_IN, Roster, follow
from tidegate_schemas import subjects
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.errors import InvalidEnvelope, LedgerError, Refused
from tidegate_schemas.identity import IDENTITY_COMMANDS, Registration
from tidegate_schemas.subjects import Kind
from tidegate_schemas.vocabulary import OPERATOR

from .access import Connect
from .identities import Wanted, changes
from .project import Project, State

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.reconciler")


Admit = Callable[[Wanted], Awaitable[None]]


class Applied(msgspec.Struct, frozen=True):
    """What is in force.

    Attributes:
        register: version of the register that was applied.
        time: when; RFC 3339.
        refused: principals that policy did not let in, each with the reason.
    """

    register: str
    time: str
    refused: dict[str, str] = {}


def applied(state: State) -> Applied | None:
    """What is in force, or None where nothing says so."""
    try:
        return msgspec.json.decode(state.applied.read_bytes(), type=Applied)
    except (OSError, msgspec.MsgspecError):
        return None


def note(state: State, version: str, refused: Mapping[str, Refused]) -> Applied:
    """Write down what is in force from now on."""
    reasons = {name: str(error) for name, error in refused.items()}
    done = Applied(version, rfc3339(time.time_ns()), reasons)
    part = state.applied.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(done))
    part.replace(state.applied)
    return done


async def roster(reader: LedgerReader) -> Roster:
    """Who takes part, as the ledger says.

    Raises:
        LedgerError: a record is none that a gateway admits.
        Unavailable: the broker does not answer.
    """
    found = BUILT_IN
    commands = subjects.delivery(0, Kind.CONTROL, IDENTITY_COMMANDS)
    async for stored in reader.read(filter=commands):
        try:
            found = follow(found, stored.record())
        except InvalidEnvelope as error:
            raise LedgerError(f"ledger record {stored.seq} is not of a gateway: {error}") from error
    return found


class Reconciler:
    """Applies what is wanted to the bus of a running stack.

    Args:
        connect: gives a connection of one of the bus's own principals.
        align: called when consumers may have come, before those whom they feed; see `Deliveries`.

    Attributes:
        known: who takes part, as the ledger said when it was told last.
    """

    def __init__(self, connect: Connect, align: Callable[[], Awaitable[None]]) -> None:
        self._connect = connect
        self._align = align
        self.known: Mapping[str, Registration] = {}

    async def apply(self, project: Project, wanted: Wanted, version: str, admit: Admit) -> Applied:
        """Bring everything to what is wanted.

        Who goes is locked out before anything else happens, and new keys of those who stay are
        good from then on, also the one that the ledger is told with. Who comes is let in last, when
        the ledger knows them: a first message is never refused because of its sender being unknown.

        Args:
            project: whose bus it is.
            wanted: who is wanted.
            version: of the register that says so.
            admit: tells the broker who may connect; see `access`.

        Raises:
            LedgerError, ServerFailed, Unavailable: it could not be done; try again.
        """
        await admit(wanted.only(self.known))
        async with await self._connect(REGISTRAR) as registrar:
            await converge(registrar, project.limits(), wanted.subscriptions())
        await self._align()
        refused = await self.announce(wanted)
        await admit(wanted.admitted(refused, self.known))
        return note(project.state, version, refused)

    async def members(self) -> Mapping[str, Registration]:
        """Who takes part, as the ledger says; see `roster`."""
        async with await self._connect(OPERATOR) as operator:
            return (await roster(LedgerReader(operator))).members

    async def announce(self, wanted: Wanted) -> dict[str, Refused]:
        """Tell the ledger what it does not know yet; who was refused, and why.

        Raises:
            LedgerError, Unavailable: see `apply`.
        """
        refused: dict[str, Refused] = {}
        async with await self._connect(OPERATOR) as operator:
            known = (await roster(LedgerReader(operator))).members
            publisher = await Publisher.start(operator)
            for envelope in changes(wanted, known):
                principal: str = envelope.payload()["principal"]
                try:
                    receipt = await publisher.publish(envelope)
                    refused.pop(principal, None)
                    _log.info(envelope.type, principal=principal, record=receipt.seq)
                except Refused as error:
                    refused[principal] = error
                    _log.error(f"{envelope.type} refused", principal=principal, error=str(error))
            self.known = (await roster(LedgerReader(operator))).members
        return refused
