"""Guarantee G4: whatever is done to the ledger behind the bus's back is found, and where."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import until
from tidegate.cli.init import init
from tidegate.project import Project, load_project
from tidegate.testing import running_project
from tidegate_bus.broker.server import Server
from tidegate_bus.connection import Connection, connect
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_evidence.tiles import tile_path
from tidegate_schemas import Envelope, subjects
from tidegate_schemas.subjects import Principal

ADMIN = Principal("test", "admin")
RUNS = 8
LEDGER = subjects.ledger_stream(0)
Stored = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Past:
    """A project whose stack has stopped, with a ledger that the notary has cosigned whole."""

    project: Project
    kept: Path
    """A copy of the broker's store."""
    earlier: Path
    """So too, from when the ledger was shorter."""
    records: int

    def restore(self, kept: Path | None = None) -> None:
        """Put a copy of the store in its place, byte for byte."""
        shutil.rmtree(self.project.state.store)
        shutil.copytree(kept or self.kept, self.project.state.store)

    @contextlib.asynccontextmanager
    async def administered(self) -> AsyncGenerator[Connection]:
        """The broker alone, and somebody who may do everything with its streams."""
        seed, folder = new_seed(), self.project.root
        configuration: dict[str, Any] = {
            "server_name": "tidegate",
            "listen": "127.0.0.1:-1",
            "max_payload": 2**20,
            "jetstream": {"store_dir": str(self.project.state.store), "max_file_store": 2**50},
            "accounts": {"BUS": {"jetstream": "enabled", "users": [{"nkey": public_key(seed)}]}},
        }
        (folder / "admin.conf").write_text(json.dumps(configuration))
        async with (
            await Server.start(folder / "admin.conf", folder / "admin.log") as server,
            await connect(server.url, ADMIN, seed) as connection,
        ):
            yield connection

    async def verified(self) -> dict[str, Any]:
        """What `tidegate ledger verify` says of the ledger as the broker has it now."""
        state = self.project.state
        async with await Server.start(state.server_configuration, state.server_log) as server:
            state.address.write_text(server.url + "\n")
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tidegate", "ledger", "verify", "--json"),
                *("--project", self.project.root),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await program.communicate()
        found: dict[str, Any] = json.loads(out or b"{}")
        assert program.returncode == (0 if found.get("holds") else 5), err.decode()
        return found


async def cosigned(project: Project, seq: int) -> None:
    """Wait until the notary's checkpoint covers a record."""

    def covered() -> bool:
        try:
            size = int((project.state.notary / "checkpoint").read_text().split("\n")[1])
        except FileNotFoundError:
            return False
        return size >= seq

    await until(covered, seconds=30)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    """Some runs of the project that `tidegate init` makes, and what is left of them."""
    root = tmp_path_factory.mktemp("mutations")
    init(root / "hello")
    project = load_project(root / "hello")
    for stage in ("earlier", "kept"):
        records = asyncio.run(greet(project))
        shutil.copytree(project.state.store, root / stage)
    return Past(project, root / "kept", root / "earlier", records)


async def greet(project: Project) -> int:
    """Some runs, cosigned; how many records there are then."""
    async with (
        running_project(project.root, project.state.folder) as running,
        await running.bus() as bus,
    ):
        names = [f"visitor {number}" for number in range(RUNS)]
        sent = [await bus.publish(Envelope.new("greeting.requested", {"name": n})) for n in names]
        last = sent[0].seq + 4 * RUNS - 1  # event, task, result, end

        async def over() -> bool:
            found = await bus.ledger.last()
            return found is not None and found.seq >= last

        await until(over, seconds=30)
        await cosigned(project, last)
    return last


def block(store: Path) -> Path:
    """The file that holds the records."""
    (found,) = store.glob(f"jetstream/*/streams/{LEDGER}/msgs/*.blk")
    return found


async def read(admin: Connection) -> Stored:
    """All records, with their subjects."""
    found: Stored = []
    jetstream = admin.nats.jetstream()
    for seq in range(1, (await admin.stream_state(LEDGER)).last_seq + 1):
        message = await jetstream.get_msg(LEDGER, seq)
        found.append((message.subject or "", message.data or b""))
    return found


async def replace(admin: Connection, stored: Stored) -> None:
    """Another stream in the place of the ledger, configured like it, with these records."""
    config = (await admin.api(subjects.stream_info(LEDGER)))["config"]
    await admin.api(f"$JS.API.STREAM.DELETE.{LEDGER}", {})
    await admin.api(f"$JS.API.STREAM.CREATE.{LEDGER}", config)
    for subject, payload in stored:
        await admin.nats.jetstream().publish(subject, payload)


def forged(payload: bytes) -> bytes:
    """The same record with another verdict: as long as before, and well formed."""
    return re.sub(rb'"verdict":"allow"', b'"verdict":"block"', payload, count=1)


Mutation = Callable[[Stored], Stored]
REPLACED: list[tuple[str, Mutation, str]] = [
    ("altered", lambda s: [*s[:9], (s[9][0], forged(s[9][1])), *s[10:]], "altered 10 10"),
    ("dropped", lambda s: s[:9] + s[10:], "missing 10 10"),
    ("swapped", lambda s: [*s[:9], s[10], s[9], *s[11:]], "swapped"),
    ("duplicated", lambda s: s[:10] + s[9:], "duplicated 10 10"),
    ("inserted", lambda s: [*s[:9], ("ledger.0.allow.event.x", b"{}"), *s[9:]], "inserted 10 10"),
    ("truncated", lambda s: s[:-5], "truncated"),
    ("beheaded", lambda s: s[5:], "missing 1 5"),
]


@pytest.mark.timeout(300)
async def test_untouched_and_restored_ledgers_hold(past: Past) -> None:
    """The controls: as it was left, and after a copy was put back byte for byte."""
    past.restore()
    found = await past.verified()
    assert found["holds"]
    assert found["records"] == found["checkpoint"]["size"] == past.records

    shutil.rmtree(past.project.state.store / "jetstream")
    past.restore()
    assert (await past.verified())["holds"]


@pytest.mark.parametrize(
    ("change", "expected"), [one[1:] for one in REPLACED], ids=[one[0] for one in REPLACED]
)
async def test_another_stream_in_the_place_of_the_ledger_is_found(
    past: Past, change: Mutation, expected: str
) -> None:
    """An administrator deletes the stream and makes it again: what was changed is located."""
    past.restore()
    async with past.administered() as admin:
        await replace(admin, change(await read(admin)))

    found = await past.verified()

    assert not found["holds"]
    assert any(
        f"{one['kind']} {one['first']} {one['last']}".startswith(expected)
        for one in found["findings"]
    ), found["findings"]


async def test_an_edited_block_file_is_found(past: Past) -> None:
    """The broker hides a record whose checksum does not match, and says nothing; we name it."""
    past.restore()
    file = block(past.project.state.store)
    data = file.read_bytes()
    at = data.index(b'"seq":12,')
    file.write_bytes(data[: at + 40] + bytes([data[at + 40] ^ 1]) + data[at + 41 :])

    found = await past.verified()

    assert ("missing", 12, 12) in {(f["kind"], f["first"], f["last"]) for f in found["findings"]}


async def test_a_store_that_was_put_back_is_found(past: Past) -> None:
    """An old copy of the store is a ledger that ends too early."""
    past.restore(past.earlier)

    found = await past.verified()

    assert [f["kind"] for f in found["findings"]] == ["truncated"]
    assert found["findings"][0]["last"] == past.records


async def test_the_directory_of_another_ledger_is_found(past: Past, tmp_path: Path) -> None:
    """The broker takes it without a word; none of its records are those that were signed."""
    past.restore()
    async with past.administered() as admin:
        await replace(admin, [(to, forged(payload)) for to, payload in await read(admin)])
    (there,) = past.project.state.store.glob(f"jetstream/*/streams/{LEDGER}")
    shutil.copytree(there, tmp_path / "another")
    past.restore()
    shutil.rmtree(there)
    shutil.copytree(tmp_path / "another", there)

    found = await past.verified()

    altered = [f["first"] for f in found["findings"] if f["kind"] == "altered"]
    assert len(altered) > past.records / 2  # what was not allowed was not changed


WEAKENED: list[tuple[str, dict[str, Any]]] = [
    ("max_msgs", {"max_msgs": 6, "discard": "old"}),
    ("max_age", {"max_age": 3_600_000_000_000}),
    ("subjects", {"subjects": ["ledger.0.>", "other.>"]}),
]


@pytest.mark.parametrize(("field", "change"), WEAKENED, ids=[field for field, _ in WEAKENED])
async def test_a_weakened_stream_is_found(past: Past, field: str, change: dict[str, Any]) -> None:
    """The configuration is compared with what it must be; what it cost is named as well."""
    past.restore()
    async with past.administered() as admin:
        config = (await admin.api(subjects.stream_info(LEDGER)))["config"]
        await admin.api(f"$JS.API.STREAM.UPDATE.{LEDGER}", {**config, **change})

    found = await past.verified()

    assert not found["holds"]
    assert any(f"LEDGER_0: {field} is" in line for line in found["wrong"])
    lost = {(f["kind"], f["first"], f["last"]) for f in found["findings"]}
    assert lost == ({("missing", 1, past.records - 6)} if field == "max_msgs" else set())


async def test_altered_tiles_do_not_help(past: Past) -> None:
    """Whoever changes the notary's files too is found: its checkpoint proves them."""
    past.restore()
    tile = past.project.state.notary / tile_path(0, 0, past.records)
    before = tile.read_bytes()
    tile.write_bytes(bytes(32) + before[32:])
    try:
        found = await past.verified()
    finally:
        tile.write_bytes(before)

    (finding,) = found["findings"]
    assert (finding["kind"], finding["first"]) == ("file", 0)
    assert "another root" in finding["detail"]
