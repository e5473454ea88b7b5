"""Forms of records: Parquet and what DuckDB makes of it, and events for SIEMs."""

from __future__ import annotations

import asyncio
import base64
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidegate.export import ocsf, parquet
from tidegate.export.columns import COLUMNS
from tidegate.export.evidence import Evidence
from tidegate.export.packing import Order, pack
from tidegate_evidence import manifest
from tidegate_evidence.tree import leaf_hash
from tidegate_schemas.audit import Format
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.evidence import KeyRole
from tidegate_schemas.record import Record, decode_record, encode_record
from tidegate_schemas.subjects import Verdict

from . import oracles
from .sealing import NOW, Sealed

README = Path(__file__).parents[3] / "README.md"
(QUERY,) = re.findall(r"^```sql\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


async def exported(past: Sealed, folder: Path, format: Format) -> Path:
    """The ledger, signed, in one form."""
    await past.seal()
    await asyncio.to_thread(folder.mkdir)
    evidence = Evidence(past.project.state.evidence)
    order = Order(1, evidence.checkpoint.size, (format,), {})
    with past.reader() as reader:
        signers = [past.signer(KeyRole.EXPORT)]
        await asyncio.to_thread(
            pack, folder, order, reader, evidence, signers, NOW, lambda _done: None
        )
    return folder


async def records(past: Sealed) -> list[Record]:
    """The ledger."""
    return [decode_record(payload) for payload in await past.payloads()]


async def test_the_columns_say_what_the_records_say(past: Sealed, tmp_path: Path) -> None:
    """Each value of each column, of a ledger with all verdicts; and the record itself."""
    await past.fill(900)
    folder = await exported(past, tmp_path / "out", Format.PARQUET)
    rows = oracles.rows(folder / "records.parquet")
    found = await records(past)

    assert len(rows) == len(found)
    assert {made.verdict for made in found} == set(Verdict)
    for row, made in zip(rows, found, strict=True):
        message = made.message()
        assert row["record"] == encode_record(made)
        assert row["leaf_hash"] == leaf_hash(row["record"])
        for name in ("seq", "epoch", "by", "kind", "to", "verdict", "first"):
            assert row[name] == getattr(made, name)
        assert (row["in_seq"], row["in_n"]) == (made.ingress.seq, made.ingress.n)
        assert row["time"] == parse_rfc3339(made.time)
        assert row["in_time"] == parse_rfc3339(made.ingress.time)
        assert (row["reason"], row["bundle"]) == (made.why.reason, made.why.bundle)
        assert tuple(row["policies"]) == made.why.policies
        assert tuple(row["obligations"]) == made.why.obligations
        assert msgspec.json.decode(row["facts"]) == made.why.facts
        for column in COLUMNS[16:-2]:
            assert row[column.name] == getattr(message, column.name, None)


async def test_the_types_are_those_that_are_documented(past: Sealed, tmp_path: Path) -> None:
    """Compressed by zstd; 32 bytes are 32 bytes; what every record has cannot be null."""
    await past.fill(10)
    path = await exported(past, tmp_path / "out", Format.PARQUET) / "records.parquet"
    found = oracles.columns(path)

    assert found["leaf_hash"] == ("fixed_size_binary[32]", False, "ZSTD")
    assert found["time"] == ("timestamp[ns, tz=UTC]", False, "ZSTD")
    always = [column.name for column in COLUMNS if column.always]
    assert [name for name, (_, null, _) in found.items() if not null] == always
    assert {codec for _, _, codec in found.values()} == {"ZSTD"}


async def test_row_groups_are_bounded(
    past: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rows and in bytes, whatever the records are; none is lost between two."""
    monkeypatch.setattr(parquet, "PIECE_ROWS", 5)
    monkeypatch.setattr(parquet, "GROUP_ROWS", 100)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 72_000)
    await past.fill(900)
    path = await exported(past, tmp_path / "out", Format.PARQUET) / "records.parquet"
    rows = oracles.groups(path)

    assert sum(rows) == len(await past.payloads())
    assert max(rows) == 100
    assert min(rows[:-1]) < 100  # 72,000 bytes of records came first


async def test_duckdb_verifies_leaf_hashes_and_finds_gaps(past: Sealed, tmp_path: Path) -> None:
    """The query of the README: 0 and 0; with a record altered or taken out, not."""
    await past.fill(900)
    path = await exported(past, tmp_path / "out", Format.PARQUET) / "records.parquet"
    altered = oracles.edit(path, tmp_path / "altered.parquet", alter)
    shorter = oracles.edit(path, tmp_path / "shorter.parquet", drop)

    assert oracles.ask(QUERY.replace("audit/records.parquet", str(path))) == (0, 0)
    assert oracles.ask(QUERY.replace("audit/records.parquet", str(altered))) == (1, 0)
    assert oracles.ask(QUERY.replace("audit/records.parquet", str(shorter))) == (0, 1)


def alter(rows: list[dict[str, Any]]) -> None:
    """Another record 42, with the leaf hash of the one that was there."""
    rows[41]["record"] = rows[41]["record"].replace(b'"seq":42', b'"seq":43')


def drop(rows: list[dict[str, Any]]) -> None:
    """No record 42."""
    del rows[41]


# OCSF


async def test_events_are_of_the_published_schema(past: Sealed, tmp_path: Path) -> None:
    """Every event of a ledger with all verdicts is valid, and has the values of its record."""
    await past.fill(900)
    folder = await exported(past, tmp_path / "out", Format.OCSF)
    lines = (folder / "ocsf.jsonl").read_bytes().splitlines()
    found = await past.payloads()

    assert len(lines) == len(found)
    for line, payload in zip(lines, found, strict=True):
        event, made = msgspec.json.decode(line), decode_record(payload)
        assert oracles.faults(event, ocsf.VERSION, ocsf.PROFILES) == [], event
        assert event["raw_data_hash"]["value"] == leaf_hash(payload).hex()
        assert event["metadata"]["sequence"] == made.seq
        assert event["time"] == parse_rfc3339(made.time) // 10**6
        assert event["status_id"] == {"allow": 1, "deny": 2, "reject": 2}.get(made.verdict, 99)
        decisions = event["actor"]["authorizations"]
        named = [d["policy"]["uid"] for d in decisions if "uid" in d["policy"]]
        assert tuple(named) == made.why.policies


def test_the_schema_would_notice() -> None:
    """An attribute that the class does not have, and those that are missing."""
    found = oracles.faults({"colour": "red"}, ocsf.VERSION, ocsf.PROFILES)
    assert {fault.partition(":")[0] for fault in found} == {"additionalProperties", "required"}


async def test_the_statement_says_what_was_exported(past: Sealed, tmp_path: Path) -> None:
    """DSSE around in-toto: range, checkpoint, formats, and who made it when."""
    await past.fill(20)
    folder = await exported(past, tmp_path / "out", Format.JSONL)
    envelope = (folder / "manifest.json").read_bytes()
    statement = manifest.verify(envelope, [past.signer(KeyRole.EXPORT).verifier])
    predicate = dict(statement.predicate)

    assert predicate.pop("tool").startswith("tidegate ")
    assert predicate.pop("checkpoint").encode() == (folder / "checkpoint").read_bytes()
    assert predicate == {
        "origin": "bench/0",
        "first": 1,
        "last": 20,
        "size": 20,
        "formats": ["jsonl"],
        "query": {},
        "created": "2027-01-15T08:00:00.000000000Z",
    }
    outer = msgspec.json.decode(envelope)
    body = msgspec.json.decode(base64.b64decode(outer["payload"]))
    assert (outer["payloadType"], body["_type"]) == (
        "application/vnd.in-toto+json",
        "https://in-toto.io/Statement/v1",
    )
