"""Exports as a stranger sees them, who has a folder and one public key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.export.evidence import Evidence
from tidegate.export.packing import Order, pack
from tidegate_evidence.audit import Finding, audit
from tidegate_evidence.export import Export
from tidegate_evidence.trust import Trust
from tidegate_schemas.audit import Format
from tidegate_schemas.errors import InvalidInput, VerificationError
from tidegate_schemas.evidence import KeyRole

from .sealing import NOW, Sealed

RECORDS = 600


async def packed(past: Sealed, folder: Path, first: int, last: int) -> Trust:
    """An export in all formats; what the stranger knows."""
    await past.fill(RECORDS)
    await past.seal()
    await asyncio.to_thread(folder.mkdir)
    evidence = Evidence(past.project.state.evidence)
    order = Order(first, last, tuple(Format), {"first": str(first)})
    signers = [past.signer(KeyRole.EXPORT)]
    with past.reader() as reader:
        await asyncio.to_thread(
            pack, folder, order, reader, evidence, signers, NOW, lambda _done: None
        )
    return Trust.of_key(str(past.signer(KeyRole.WRITER).verifier))


def verify(folder: Path, trust: Trust) -> list[Finding]:
    """All that is wrong with an export."""
    export = Export.open(folder, trust)
    report = audit(export.records(), export.checkpoint, export.tiles, export.first, export.last)
    return [*export.check_files(), *report.findings]


@pytest.mark.parametrize(("first", "last"), [(1, RECORDS), (200, 310), (1, 0), (RECORDS, RECORDS)])
async def test_one_key_proves_an_export(
    past: Sealed, tmp_path: Path, first: int, last: int
) -> None:
    """Whole or in part, records or none: signatures, files and records hold."""
    trust = await packed(past, tmp_path / "out", first, last)
    export = Export.open(tmp_path / "out", trust)

    assert verify(tmp_path / "out", trust) == []
    assert (export.first, export.last, export.checkpoint.size) == (first, last, RECORDS)
    assert list(export.cosigned) == ["bench/notary"]
    assert len(list(export.records())) == last - first + 1


def changed(data: bytes, step: int) -> Iterator[bytes]:
    """A file with a byte altered, here and there, one too many and one too few."""
    for at in range(0, len(data), step):
        yield data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    yield data + b"\n"
    yield data[:-1]


async def test_whatever_byte_is_changed_is_found(past: Sealed, tmp_path: Path) -> None:
    """In each file of an export: it does not verify any more, or it says what it said.

    The latter where DSSE signs nothing: white space of the envelope, and its hint at the key.
    """
    folder = tmp_path / "out"
    trust = await packed(past, folder, 280, 310)
    said = Export.open(folder, trust)
    files = sorted(p for p in folder.rglob("*") if p.is_file())

    def unnoticed() -> list[str]:
        missed: list[str] = []
        for path in files:
            data = path.read_bytes()
            for other in changed(data, max(len(data) // 12, 1)):
                path.write_bytes(other)
                try:
                    if not verify(folder, trust) and Export.open(folder, trust) != said:
                        missed.append(path.name)
                except (VerificationError, InvalidInput):
                    pass
            path.write_bytes(data)
        return missed

    assert len(files) > 10
    assert await asyncio.to_thread(unnoticed) == []
    assert verify(folder, trust) == []
