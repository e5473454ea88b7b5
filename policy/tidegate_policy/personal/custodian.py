"""The custodian of the vault: gives out keys of messages, and destroys what is to be destroyed.

A part of the gateway's process. Who asks is the subject that the broker let them ask on; what they
may open is decided by the record in the ledger and by who takes part now.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
import structlog
from nats.aio.msg import Msg
from prometheus_client import Counter

from tidegate_bus.connection import Connection
from tidegate_bus.ledger import LedgerReader
from tidegate_policy import recall
from tidegate_policy.controls import Touched
from tidegate_policy.state import State
from tidegate_schemas import subjects, vocabulary
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.custody import (
    Answer,
    Ask,
    Find,
    Open,
    OpenKey,
    Seal,
    SealKey,
    decode_ask,
)
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import (
    InvalidEnvelope,
    InvalidName,
    LedgerError,
    TidegateError,
    Unavailable,
    Unopened,
)
from tidegate_schemas.governance import DataSubject
from tidegate_schemas.identity import Role
from tidegate_schemas.personal import key_id, key_ids, month
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Principal, Verdict

from .privacy import COMMANDS, Privacy
from .vault import Vault

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.custodian")

_SECOND = 1_000_000_000
_LOOK_SECONDS = 60.0
_LATER = "unavailable"

ASKED = Counter("tidegate_keys", "Questions to the key service", ["ask", "outcome"])
DESTROYED = Counter("tidegate_keys_destroyed", "Keys of data subjects that were destroyed")


class Custodian:
    """Answers on the subjects `vault.<team>.<name>`.

    Args:
        connection: of the gateway.
        vault: open to be written.
        state: what the ledger says, moved on by the gateway.
        reader: of the ledger.
        retention: seconds after the end of a month until its keys are destroyed; None keeps them.
        clock: ns since 1970.
    """

    def __init__(
        self,
        connection: Connection,
        vault: Vault,
        state: State,
        reader: LedgerReader,
        retention: float | None,
        clock: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._state = state
        self._reader = reader
        self._retention = retention
        self._clock = clock
        self._stored = state.privacy.copy()  # what is decided may not be stored yet
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Destroy what the ledger says, then answer until cancelled."""
        self._destroy(self._stored)
        subscription = await self._connection.listen(subjects.VAULT_SUBJECTS, self._asked)
        try:
            while True:
                await self._expire()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            for task in self._answering:
                task.cancel()
            await self._connection.forget(subscription)

    def recorded(self, made: Record) -> None:
        """A record is stored; if it is a command about keys, it is done now."""
        if made.to not in COMMANDS or made.kind is not Kind.CONTROL:
            return
        if made.verdict is not Verdict.ALLOW:
            return
        message = made.message()
        assert message, "what is admitted could be read"
        now = self._stored
        now.follow(made.to, made.by, message, parse_rfc3339(made.time))
        erased: set[str] = set()
        if made.to == vocabulary.PRIVACY_ERASE:
            erased.add(message.payload(DataSubject).subject)
        self._destroy(Privacy(erased, now.holds, now.before))

    def _destroy(self, privacy: Privacy) -> None:
        destroyed = self._vault.destroy(privacy)
        if destroyed:
            DESTROYED.inc(destroyed)
            _log.info("keys destroyed", keys=destroyed)

    async def _expire(self) -> None:
        """Say which months are over for good, once there is a key of one."""
        if self._retention is None:
            return
        before = month(max(self._clock() - int(self._retention * _SECOND), 0))
        oldest = self._vault.oldest()
        if before > self._stored.before and oldest is not None and oldest < before:
            to = vocabulary.PRIVACY_EXPIRE
            envelope = Envelope.new(
                to,
                {"before": before},
                source=f"tidegate:{vocabulary.GATEWAY}",
                id=f"expire:{before}",
                kind="control",
                to=to,
            )
            await self._connection.publish(
                subjects.submission(vocabulary.GATEWAY), encode(envelope)
            )

    async def _asked(self, message: Msg) -> None:
        if not message.reply:  # an answer that was aimed here
            return
        task = asyncio.create_task(self._answer(message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: Msg) -> None:
        what = "unreadable"
        try:
            by = Principal.parse(subjects.asker(message.subject))
            ask = decode_ask(message.data)
            what = type(ask).__name__.lower()
            answer = await self._said(str(by), ask)
        except Unopened as error:
            answer = _refusal(error.why, str(error))
        except Unavailable as error:
            _log.warning("cannot answer", subject=message.subject, error=str(error))
            answer = _refusal(_LATER, str(error))
        except (InvalidEnvelope, InvalidName) as error:
            answer = _refusal(Unopened.FORBIDDEN, str(error))
        except LedgerError as error:
            _log.error("cannot answer", subject=message.subject, error=str(error))
            answer = _refusal(_LATER, "the ledger cannot be read")
        ASKED.labels(what, answer.why or "given").inc()
        with contextlib.suppress(TidegateError):  # it asks again
            await self._connection.publish(message.reply, msgspec.json.encode(answer))

    async def _said(self, by: str, ask: Ask) -> Answer:
        member = self._state.roster.members.get(by)
        if member is None:
            raise Unopened(Unopened.FORBIDDEN, f"{by} is not in the roster")
        match ask:
            case Seal():
                return Answer(seal=self._seal(ask))
            case Find() if member.role is Role.OPERATOR:
                return Answer(pseudonym=self._vault.find(ask.subject))
            case Open() if member.role is not Role.OPERATOR:
                if member.role is Role.AGENT and self._stopped(by):
                    raise Unavailable(f"{by} is stopped by an operator")
                return Answer(opened=tuple([await self._open(by, seq) for seq in ask.records]))
            case _:
                raise Unopened(Unopened.FORBIDDEN, f"{member.role}s may not ask this")

    def _seal(self, ask: Seal) -> SealKey:
        found = self._vault.seal(ask.subjects, month(self._clock()))
        keys = [key for text in found.keyids.split(",") if (key := key_id(text))]
        if any(key.pseudonym in self._state.privacy.erased for key in keys):
            raise Unavailable("it is just being erased")  # a later one is about data after that
        return found

    async def _open(self, by: str, seq: int) -> OpenKey:
        stored = await self._reader.one(seq)
        if stored is None:
            return OpenKey(seq, why=Unopened.FORBIDDEN)
        made = recall.read(stored)
        try:
            message = made.message()
            if message is None or not self._may_open(by, made):
                return OpenKey(seq, why=Unopened.FORBIDDEN)
            if any(map(self._state.privacy.gone, key_ids(message))):
                return OpenKey(seq, why=Unopened.ERASED)
            key = self._vault.key(message)
        except InvalidEnvelope:
            return OpenKey(seq, why=Unopened.FORBIDDEN)
        return OpenKey(seq, key=key) if key else OpenKey(seq, why=Unopened.ERASED)

    def _stopped(self, by: str) -> bool:
        """Whether it is quarantined or killed; in a pause it may end what it works on."""
        touched = Touched(Kind.RESULT, by, (), by, "", "")
        return self._state.controls.on(touched) is not None

    def _may_open(self, by: str, made: Record) -> bool:
        """Whether a record is an admitted message for somebody."""
        if made.verdict is not Verdict.ALLOW:
            return False
        roster = self._state.roster
        coordinates = by == str(vocabulary.COORDINATOR)
        match made.kind:
            case Kind.TASK:
                return roster.providers.get(made.to) == by
            case Kind.EVENT:
                member = roster.members.get(by)  # it may have been revoked just now
                return coordinates or (member is not None and made.to in member.subscribes)
            case Kind.RESULT:
                return made.to == by
            case Kind.CONTROL:
                return coordinates and made.to in _OF_RUNS
            case _:
                return False


_OF_RUNS = (vocabulary.RUN_START, vocabulary.RUN_CANCEL)


def _refusal(why: str, detail: str) -> Answer:
    return Answer(why=why, detail=detail)
