"""Projects with a ledger in a real broker, and what a notary would keep of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import OPERATOR, Broker, running_broker
from tidegate.bench import sealed as sealed_ledger
from tidegate.bench.history import History
from tidegate.evidence_keys import SigningKeys, signing_keys, write_trust
from tidegate.project import Project, load_project
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.bulk import Access, BulkReader
from tidegate_evidence.note import Signer
from tidegate_evidence.tree import leaf_hash
from tidegate_schemas.evidence import EvidenceKeys, KeyRole
from tidegate_schemas.vocabulary import GATEWAY

NOW = 1_800_000_000 * 10**9


def history(records: int, seed: int = 11) -> list[tuple[str, bytes]]:
    """Subjects and payloads of a ledger with a past."""
    return [(entry.subject, entry.payload) for entry in History(seed).entries(records)]


@dataclass
class Sealed:
    """A project whose broker runs, and whose ledger somebody signs when the test says so."""

    project: Project
    broker: Broker

    @property
    def keys(self) -> SigningKeys:
        """Those of the project."""
        return signing_keys(self.project)

    def signer(self, role: KeyRole) -> Signer:
        """The newest key of a role."""
        return self.keys.signers(role)[0]

    def reader(self) -> BulkReader:
        """A reader of the ledger."""
        broker = self.broker
        return BulkReader(Access(broker.url, OPERATOR, broker.keyring.seed(OPERATOR)))

    async def write(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Write to the end of the ledger, as a gateway does."""
        gateway = await self.broker.connect(GATEWAY)
        appender = await FastAppender.open(gateway, last=await self.broker.length("LEDGER_0"))
        for begin in range(0, len(entries), MAX_BATCH):
            await (await appender.append(list(entries[begin : begin + MAX_BATCH])))
        await appender.close()

    async def fill(self, records: int) -> None:
        """Write a ledger with a past; its last record says which keys are in use."""
        entries = history(records)[: records - 1]
        keys = EvidenceKeys(tuple(self.keys.in_use()))
        entries.append(sealed_ledger.announcement(entries[-1][1], keys))
        await self.write(entries)

    async def payloads(self) -> list[bytes]:
        """The ledger's records."""
        with self.reader() as reader:
            found = await asyncio.to_thread(lambda: [e for part in reader.read() for e in part])
        return [entry.payload for entry in found]

    async def seal(self, size: int | None = None, altered: Mapping[int, bytes] = {}) -> None:
        """Sign the first records of the ledger, as writer and notary do; all by default.

        Some of them may have been others then.
        """
        payloads = (await self.payloads())[:size]
        seal(self, (altered.get(n, payload) for n, payload in enumerate(payloads, 1)))


def seal(where: Sealed, payloads: Iterable[bytes]) -> None:
    """Sign a ledger that begins with what was signed before."""
    origin = f"{where.project.settings.project}/0"
    signers = [where.signer(role) for role in (KeyRole.WRITER, KeyRole.NOTARY)]
    leaves = map(leaf_hash, payloads)
    sealed_ledger.seal(where.project.state.notary, origin, leaves, signers, NOW // 10**9)


@contextlib.asynccontextmanager
async def sealed(folder: Path, name: str) -> AsyncGenerator[Sealed]:
    """A project in a folder: its broker runs, its ledger is empty, its keys are there."""
    (folder / "tidegate.yaml").write_text(f"project: {name}\n")
    state = folder / ".tidegate"
    state.mkdir()
    project = load_project(folder)
    signing_keys(project).ensure(NOW)
    write_trust(project)
    async with running_broker(state) as broker:
        project.state.address.write_text(broker.url)
        yield Sealed(project, broker)
