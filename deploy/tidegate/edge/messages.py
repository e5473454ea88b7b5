"""`GET /v1/messages/{id}`: what became of a message, and the proof of it."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from pathlib import Path
from urllib.parse import quote

import msgspec
import structlog

from tidegate.proving import NotCovered, prove
from tidegate_bus.ledger import LedgerReader
from tidegate_evidence.export import CHECKPOINT
from tidegate_evidence.note import Note
from tidegate_evidence.tree import leaf_hash
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Unavailable, VerificationError
from tidegate_schemas.identity import Role
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Principal, Verdict

from .callers import Caller, Callers
from .exchange import Exchange
from .links import Link, Links
from .lookups import Lookups
from .problems import Place, Problem

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.edge")

_PLAIN_ID = re.compile(r"[A-Za-z0-9_.~:@-]*")
_PLAIN_SOURCE = re.compile(r"[A-Za-z0-9_.~:@/-]*")
_HEARD = 50_000
_SOURCES = 16
"""Of each id: a sender may give all its events the same one."""
_KEY_SECONDS = 5.0
_PARAMETERS = ("by", "source")


class Heard:
    """What was accepted here lately: known before it is in the index, or in the ledger."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Principal, str], dict[str, int | None]] = OrderedDict()

    def add(self, by: Principal, envelope: Envelope, seq: int | None) -> None:
        """The durable ingress has this; the ledger too, if it is known under which sequence."""
        sources = self._known.setdefault((by, envelope.id), {})
        sources[envelope.source] = seq or sources.get(envelope.source)
        if len(sources) > _SOURCES:
            del sources[next(iter(sources))]
        if len(self._known) > _HEARD:
            self._known.popitem(last=False)

    def find(self, by: Principal, id: str, source: str | None) -> tuple[str, int | None] | None:
        """Source and sequence of what was accepted; None if it was not, or too long ago."""
        sources = self._known.get((by, id), {})
        return next((one for one in sources.items() if source in (None, one[0])), None)


class Result(msgspec.Struct, frozen=True):
    """The answer to a task: its record, and the event."""

    seq: int
    event: msgspec.Raw


class Proven(msgspec.Struct, frozen=True):
    """A record, and the proof that it is in the log, for `tidegate ledger check-proof`.

    Attributes:
        record: its bytes, as text.
        proof: C2SP tlog-proof.
        size: how many records the checkpoint covers.
    """

    record: str
    proof: str
    size: int


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a message.

    Attributes:
        status: `accepted`, it waits for the verdict; `decided`; `answered`, a task that has its
            result.
        first: where it waited before, if it did: the record that held it.
    """

    id: str
    source: str | None
    by: str
    status: str
    verdict: Verdict | None = None
    seq: int | None = None
    time: str | None = None
    reason: str | None = None
    policies: tuple[str, ...] | None = None
    first: int | None = None
    result: Result | None = None
    proven: Proven | None = None


class Messages:
    """Looks messages up.

    Args:
        callers: who asks.
        links: opens sealed results, as who asks.
        reader: of the ledger.
        lookups: finds records.
        heard: what this process has accepted.
        notary: folder of the notary.
    """

    def __init__(
        self,
        callers: Callers,
        links: Links,
        reader: LedgerReader,
        lookups: Lookups,
        heard: Heard,
        notary: Path,
    ) -> None:
        self._callers = callers
        self._links = links
        self._reader = reader
        self._lookups = lookups
        self._heard = heard
        self._notary = notary

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request."""
        caller = await self._callers.of(exchange.header(b"authorization"), exchange.certificate)
        query = exchange.query(_PARAMETERS)
        id, source = exchange.parameters["id"], query.get("source")
        by = query.get("by", str(caller.principal))
        status = await self._status(caller, by, id, source)
        await exchange.answer(200, msgspec.json.encode(status))

    async def answer(self, to: Principal, causation: str) -> Record | None:
        """The result of a task, as far as the index knows.

        Raises:
            Unavailable: the index cannot be read, or the ledger does not answer.
        """
        row = await self._lookups.answer(to, causation)
        return (await self._record(row.seq))[0] if row else None

    async def _status(self, caller: Caller, by: str, id: str, source: str | None) -> Status:
        own, seq = by == str(caller.principal), None
        row = await self._lookups.message(by, id, source)
        if row and visible(caller, row.by, row.kind, row.to):
            source, seq = row.source, row.seq
        elif own and (heard := self._heard.find(caller.principal, id, source)):
            source, seq = heard
        else:
            named = f"{id[:200]!r}" + (f" from {source[:200]!r}" if source else "")
            detail = (
                f"nothing that {by[:127]} sent with the id {named} is here for you; if it was "
                "accepted a moment ago, ask again in a second, and say `?by=team.name` for what "
                "somebody else sent"
            )
            at: dict[Place, str] = {"parameter": "id"}
            raise Problem(404, "unknown-message", "No such message", detail, at=at)
        if seq is None:
            return Status(id, source, by, "accepted")
        record, payload = await self._record(seq)
        result = None
        if record.kind is Kind.TASK and own:
            found = await self.answer(caller.principal, id)
            if found:
                event = await opened(await self._links.of(caller.principal), found)
                result = Result(found.seq, msgspec.Raw(encode(event)))
        return Status(
            id,
            source,
            record.by,
            "answered" if result else "decided",
            record.verdict,
            seq,
            record.time,
            record.why.reason,
            record.why.policies,
            record.first,
            result,
            await asyncio.to_thread(_proven, self._notary, seq, payload),
        )

    async def _record(self, seq: int) -> tuple[Record, bytes]:
        stored = await self._reader.one(seq)
        if stored is None:
            raise Unavailable(f"record {seq} is in the index and not in the ledger")
        return stored.record(), stored.payload


def visible(caller: Caller, by: str, kind: Kind, to: str) -> bool:
    """Whether a caller may see a record: operators all, others theirs and the answers to them."""
    if caller.role is Role.OPERATOR:
        return True
    own = str(caller.principal)
    return by == own or (kind is Kind.RESULT and to == own)


def location(envelope: Envelope) -> str:
    """Where the status of a message is told."""
    id, source = envelope.id, envelope.source
    if not _PLAIN_ID.fullmatch(id):  # most are; quoting is slow
        id = quote(id, safe=":@")
    if not _PLAIN_SOURCE.fullmatch(source):
        source = quote(source, safe=":@/")
    return f"/v1/messages/{id}?source={source}"


async def opened(link: Link, record: Record) -> Envelope:
    """The message of a record, opened if it is sealed.

    Raises:
        Unopened: it was erased, or is not for who asks.
        Unavailable: the gateway gives no key now.
    """
    message = record.message()
    assert message, "an admitted message can be read"
    if message.dataenc is None:
        return message
    return await link.keys.open_one(record, timeout=_KEY_SECONDS)


def _proven(notary: Path, seq: int, payload: bytes) -> Proven | None:
    """The proof, if the newest checkpoint covers the record."""
    try:
        note = Note.parse((notary / CHECKPOINT).read_bytes())
        found = prove(notary, note, seq)
    except (FileNotFoundError, NotCovered):
        return None
    except (OSError, VerificationError) as error:
        _log.error("a record is not proven", seq=seq, error=str(error))
        return None
    if leaf_hash(payload) != found.leaf:
        _log.error("a record is not the one that was signed", seq=seq)
        return None
    return Proven(payload.decode(), found.proof.encode().decode(), found.checkpoint.size)
