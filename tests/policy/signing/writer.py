"""A writer that signs heads of the ledger as the gateway does, and whoever can change a stream."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from support import ADMIN, LIMITS, Broker
from tidegate_bus.broker import topology
from tidegate_bus.bulk import Access
from tidegate_bus.connection import Connection
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer, Verifier
from tidegate_evidence.tiles import TileReader
from tidegate_evidence.tree import Frontier, leaf_hash
from tidegate_schemas import subjects
from tidegate_schemas.subjects import Kind, Principal, Verdict

LOG = "test/0"
LEDGER = subjects.ledger_stream(0)
HEADS = subjects.heads_stream(0)
SUBJECT = subjects.ledger(0, Verdict.ALLOW, Kind.EVENT, "x.y")


def access(broker: Broker, who: Principal) -> Access:
    """How somebody comes to the broker."""
    return Access(broker.url, who, broker.keyring.seed(who))


def record(seq: int, what: str = "") -> bytes:
    """As much of a record as a notary looks at."""
    return f'{{"v":1,"log":"{LOG}","seq":{seq},"what":"{what}"}}'.encode()


def tree(payloads: Iterable[bytes]) -> Frontier:
    """The tree of these."""
    made = Frontier()
    made.extend(map(leaf_hash, payloads))
    return made


class Writer:
    """Appends records and signs heads. Make one with `of`.

    Attributes:
        sent: what it sent.
    """

    def __init__(self, broker: Broker, admin: Connection, *signers: Signer) -> None:
        self._broker = broker
        self._admin = admin
        self.signers = signers
        self.sent: list[bytes] = []

    @classmethod
    async def of(cls, broker: Broker, *signers: Signer) -> Writer:
        """One that has the only key."""
        found = signers or (Signer.generate(LOG),)
        return cls(broker, await broker.connect(ADMIN), *found)

    @property
    def keys(self) -> list[Verifier]:
        """Its public keys."""
        return [signer.verifier for signer in self.signers]

    async def append(self, count: int, *, stored: dict[int, bytes] | None = None) -> None:
        """Write records to the ledger; `stored` says what comes to be stored instead of which."""
        for _ in range(count):
            seq = len(self.sent) + 1
            self.sent.append(record(seq))
            await self._publish(SUBJECT, (stored or {}).get(seq, self.sent[-1]))

    async def sign(self, payloads: Iterable[bytes] | None = None, log: str = LOG) -> bytes:
        """Publish a head of what it sent, or of something else."""
        made = tree(self.sent if payloads is None else payloads)
        text = Checkpoint(log, made.size, made.root()).text()
        note = Note(text).signed(*(signer.sign(text, 0) for signer in self.signers)).encode()
        await self.say(note)
        return note

    async def say(self, data: bytes) -> None:
        """Publish anything where heads are."""
        await self._publish(subjects.head(0), data)

    async def replace(self, payloads: Iterable[bytes], stream: str = LEDGER) -> None:
        """Put another stream in the place of one, as an administrator of the broker can."""
        await self._admin.api(f"$JS.API.STREAM.DELETE.{stream}", {})
        await topology.converge(self._admin, LIMITS)
        subject = SUBJECT if stream == LEDGER else subjects.head(0)
        for payload in payloads:
            await self._publish(subject, payload)

    async def lose(self, seq: int) -> None:
        """Put another ledger in the place of this one in which a record is missing."""
        await self._admin.api(f"$JS.API.STREAM.DELETE.{LEDGER}", {})
        config = {"name": LEDGER, "subjects": [subjects.ledger_subjects(0)], "allow_direct": True}
        await self._admin.api(f"$JS.API.STREAM.CREATE.{LEDGER}", config)
        for payload in self.sent:
            await self._publish(SUBJECT, payload)
        await self._admin.api(f"$JS.API.STREAM.MSG.DELETE.{LEDGER}", {"seq": seq})

    async def _publish(self, subject: str, payload: bytes) -> None:
        await self._admin.nats.jetstream().publish(subject, payload)


def tiles_hold(folder: Path, payloads: list[bytes]) -> bool:
    """Whether the tiles there are all those of these records, and nothing else."""
    reader, leaves = TileReader(folder, len(payloads)), [leaf_hash(one) for one in payloads]
    found = [one for number in range(-(-len(leaves) // 256)) for one in reader.tile(0, number)]
    return found == leaves and reader.frontier().root() == tree(payloads).root()
