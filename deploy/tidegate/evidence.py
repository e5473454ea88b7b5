"""Keeps the keys of evidence as they should be while a stack runs: announced, trusted, dropped."""

from __future__ import annotations

import asyncio
import time

import msgspec

from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_evidence.note import Note
from tidegate_policy.signing.heads import HEAD, Head
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope, Refused, TidegateError, VerificationError
from tidegate_schemas.evidence import EvidenceKeys, KeyRole
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import EVIDENCE_KEYS, OPERATOR

from .access import Connect
from .child import OnLine
from .evidence_keys import OWN_ROLES, in_use, signing_keys, write_trust
from .project import Project

_LOOK_SECONDS = 0.5


async def announced(reader: LedgerReader) -> EvidenceKeys | None:
    """The keys that the ledger was told of last.

    Raises:
        Unavailable: the broker does not answer.
    """
    found: EvidenceKeys | None = None
    async for stored in reader.read(filter=subjects.delivery(0, Kind.CONTROL, EVIDENCE_KEYS)):
        message = stored.record().message()
        if message:
            try:
                found = message.payload(EvidenceKeys)
            except InvalidEnvelope:  # none that a gateway admits; whoever checks the ledger says so
                continue
    return found


class EvidenceKeeper:
    """Of one running project.

    Args:
        project: whose keys they are.
        connect: gives a connection of one of the bus's own principals.
        on_line: called with what there is to say.
    """

    def __init__(self, project: Project, connect: Connect, on_line: OnLine) -> None:
        self._project = project
        self._connect = connect
        self._on_line = on_line
        self._keys = signing_keys(project)
        self._version = ""

    def prepare(self) -> None:
        """There are keys, and a trust file that names them.

        Raises:
            InvalidInput: keys or witnesses are not as they should be.
            OSError: they cannot be written.
        """
        self._keys.ensure(time.time_ns())
        write_trust(self._project)

    async def announce(self) -> None:
        """Tell the ledger the keys in use, if it does not know them.

        If it does not take them, that is said, and everything goes on: the evidence is as good, but
        whoever checks it must bring every key.

        Raises:
            InvalidInput: see `prepare`.
            Unavailable: the broker or the gateway does not answer.
        """
        version, keys = self._keys.version(), in_use(self._project)
        await self._tell(keys)
        self._version = version

    async def _tell(self, keys: EvidenceKeys) -> None:
        async with await self._connect(OPERATOR) as operator:
            if await announced(LedgerReader(operator)) == keys:
                return
            message = Envelope.new(
                EVIDENCE_KEYS,
                keys,
                source=f"tidegate:{OPERATOR}",
                kind="control",
                to=EVIDENCE_KEYS,
            )
            try:
                receipt = await (await Publisher.start(operator)).publish(message)
            except Refused as error:
                self._say(f"the keys that sign evidence are not in the ledger: {error}")
                return
            if receipt.verdict is Verdict.HOLD:
                self._say(f"the keys that sign evidence wait for approval (record {receipt.seq})")

    async def keep(self) -> None:
        """See to it for ever that changes are announced, and that keys go when their time is over.

        A gateway and a notary that run take new keys by themselves.
        """
        failed = ""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                self._drop_old(time.time_ns())
                if self._keys.version() != self._version:
                    write_trust(self._project)
                    await self.announce()
                failed = ""
            except (TidegateError, OSError) as error:
                if str(error) != failed:
                    self._say(f"the keys that sign evidence are not in order: {error}")
                failed = str(error)

    def _drop_old(self, now: int) -> None:
        for role in OWN_ROLES:
            found = self._keys.read(role)
            over = any(key.over(now) for key in found)
            if over and (role is not KeyRole.WRITER or self._handed_over()):
                self._keys.drop_old(role, now)

    def _handed_over(self) -> bool:
        """Whether the newest key of the writer has signed what the gateway goes on from."""
        newest = self._keys.signers(KeyRole.WRITER)[0].verifier
        try:
            data = (self._project.state.writer / HEAD).read_bytes()
            head = msgspec.json.decode(data, type=Head)
            return newest.check(Note.parse(head.note.encode())) is not None
        except (OSError, msgspec.MsgspecError, VerificationError):
            return False

    def _say(self, text: str) -> None:
        self._on_line("stack", text)
