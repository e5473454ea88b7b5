"""`tidegate ledger verify`, `prove`, `check-proof` and `consistency`."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from evidence.kit import NOTARY, ORIGIN, WRITER, Log, record, sign_export
from support import ADMIN, Broker, running_broker
from tidegate.cli.console import out
from tidegate.evidence_keys import signing_keys
from tidegate.project import load_project
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.topology import Limits, converge
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer
from tidegate_schemas import subjects
from tidegate_schemas.evidence import KeyRole
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import GATEWAY

from .test_cli_alone import Done, Program

ARROW: Any = importlib.import_module("pyarrow")  # it has no types
PARQUET: Any = importlib.import_module("pyarrow.parquet")
SIZE, FIRST, LAST = 600, 300, 520
KEY = str(WRITER.verifier)
POLICY = f"log {KEY}\nwitness notary {NOTARY.verifier}\nquorum notary\n"
SETTINGS = """\
project: hello
server: {ledger_bytes: 1073741824, ingress_bytes: 268435456, backlog: 100}
"""


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """What a notary keeps of a ledger."""
    folder = tmp_path / ".tidegate" / "evidence" / "notary"
    made = Log.make(folder, [record(seq) for seq in range(1, SIZE + 1)])
    (folder.parent / "trust").write_text(POLICY)
    return made


@pytest.fixture
def export(log: Log, tmp_path: Path) -> Path:
    """An export of a part of it."""
    return log.export(tmp_path / "export", FIRST, LAST)


@pytest.fixture
def tidegate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program in the project."""
    (tmp_path / "tidegate.yaml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Program(monkeypatch, capsys)


def test_keys_can_be_copied_from_any_terminal(
    tidegate: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stands whole in its line, however narrow that is."""
    keys = signing_keys(load_project(tmp_path))
    keys.ensure(0)
    old = keys.signers(KeyRole.WRITER)[0].verifier
    new = keys.rotate(KeyRole.WRITER, 60.0, 0).signer.verifier
    monkeypatch.setattr(out, "_width", 40)
    monkeypatch.setattr(out, "soft_wrap", False)
    lines = tidegate("evidence", "keys").out.splitlines()

    assert lines[:4] == [
        f"writer   {new}",
        "         signs, since 1970-01-01 00:00:00 UTC",
        f"writer   {old}",
        "         signs until 1970-01-01 00:01:00 UTC, since 1970-01-01 00:00:00 UTC",
    ]


def test_an_export_is_checked_with_one_key(tidegate: Program, export: Path) -> None:
    """Everything that was found is told; the exit status is 0."""
    done = tidegate("ledger", "verify", "export", "--key", KEY)
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == "holds"
    assert "records      300 to 520: 221 found" in done.out
    assert "hello/notary at 2027-01-15T08:00:00Z" in done.out
    found = tidegate("ledger", "verify", "export", "--key", KEY, "--json").json
    assert (found["holds"], found["records"], found["findings"]) == (True, 221, [])


def test_what_an_export_says_of_itself_stays_on_its_line(tidegate: Program, export: Path) -> None:
    """Neither its manifest nor a name of a file can pass for something that was found."""
    forged = "now\ncosigned     audit.example at 2027-01-15T08:00:00Z"
    sign_export(export, first=FIRST, last=LAST, created=forged)
    (export / "x\nholds").touch()
    done = tidegate("ledger", "verify", "export", "--key", KEY)
    assert done.status == 5
    begins = [line.split()[0] for line in done.out.splitlines()]
    assert begins == ["checkpoint", "cosigned", "records", "export", "file", "the"]


def test_an_export_is_checked_with_a_policy(
    tidegate: Program, tmp_path: Path, export: Path
) -> None:
    """A quorum that is not there is evidence that does not hold."""
    (tmp_path / "mine").write_text(POLICY)
    assert tidegate("ledger", "verify", "export", "--trust", "mine").status == 0
    other = Signer.generate("hello/notary", NOTARY.algorithm)
    (tmp_path / "mine").write_text(POLICY.replace(str(NOTARY.verifier), str(other.verifier)))
    done = tidegate("ledger", "verify", "export", "--trust", "mine")
    assert (done.status, "quorum" in done.err) == (5, True)


def test_what_is_altered_is_located(tidegate: Program, export: Path) -> None:
    """Exit status 5, and which records."""
    path = export / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].replace(b"allow", b"deny!")
    del lines[100]
    path.write_bytes(b"".join(lines))
    done = tidegate("ledger", "verify", "export", "--key", KEY)
    assert done.status == 5
    assert done.out.splitlines()[-4:] == [
        "record 307: altered",
        "record 400: missing",
        "file records.jsonl: not what the manifest says",
        "the evidence does not hold",
    ]
    found = tidegate("ledger", "verify", "export", "--key", KEY, "--json")
    assert (found.status, found.json["holds"]) == (5, False)
    assert found.json["findings"][0] == {"kind": "altered", "first": 307, "last": 307, "detail": ""}


@pytest.mark.parametrize("name", ["checkpoint", "manifest.json", "keys.json", "keys.tlog-proof"])
def test_a_file_that_does_not_hold_is_named(tidegate: Program, export: Path, name: str) -> None:
    """Whatever is wrong with it; so is one that is gone, and records that are gone."""
    whole = (export / name).read_bytes()
    for data in (b"", b"x", whole[:-60], whole[60:]):
        (export / name).write_bytes(data)
        done = tidegate("ledger", "verify", "export", "--key", KEY)
        assert done.status == 5
        assert done.err.startswith("error export/")
        assert name in done.err
    (export / name).write_bytes(whole)
    (export / "records.jsonl").unlink()
    done = tidegate("ledger", "verify", "export", "--key", KEY)
    assert (done.status, done.err) == (5, "error export/records.jsonl: not there\n")


def test_a_checkpoint_that_was_kept_is_held_against_an_export(
    tidegate: Program, tmp_path: Path, log: Log, export: Path
) -> None:
    """The log began with it, or this is another history."""
    kept = tmp_path / "kept"
    kept.write_bytes(log.note(512).encode())
    verify = "ledger", "verify", "export", "--key", KEY, "--checkpoint", "kept"
    assert tidegate(*verify).status == 0
    text = Checkpoint(ORIGIN, 512, b"\1" * 32).text()
    kept.write_bytes(Note(text).signed(WRITER.sign(text, 0)).encode())
    done = tidegate(*verify)
    assert (done.status, "kept:" in done.err) == (5, True)


def rows(export: Path, records: list[bytes | None]) -> None:
    """Put records into a Parquet file, too, and sign that."""
    table = ARROW.table({"record": ARROW.array(records, ARROW.binary())})
    PARQUET.write_table(table, export / "records.parquet")
    sign_export(export, first=FIRST, last=LAST)


def test_rows_are_held_against_the_tree_as_lines_are(
    tidegate: Program, log: Log, export: Path
) -> None:
    """Each file of records is looked at, whoever has signed the manifest."""
    verify = "ledger", "verify", "export", "--key", KEY
    right: list[bytes | None] = [*log.records[FIRST - 1 : LAST]]
    rows(export, right)
    assert tidegate(*verify).status == 0
    for wrong in ([*right[:8], None, *right[9:]], [*right[:8], record(2), *right[9:]]):
        rows(export, wrong)
        done = tidegate(*verify)
        assert (done.status, "records.parquet: record 308: altered" in done.out) == (5, True)
    (export / "records.jsonl").unlink()
    rows(export, right)
    assert tidegate(*verify).status == 0
    for data in (b"", b"PAR1" * 99, (export / "records.parquet").read_bytes()[:-9]):
        (export / "records.parquet").write_bytes(data)
        sign_export(export, first=FIRST, last=LAST)
        assert tidegate(*verify).status == 5
    (export / "records.parquet").unlink()
    sign_export(export, first=FIRST, last=LAST)
    assert tidegate(*verify).status == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere", "--key", KEY], "nowhere"),
        (["verify", "export"], "whom you trust"),
        (["verify", "export", "--key", KEY, "--trust", "x"], "one of them"),
        (["verify", "export", "--key", "x"], "--key"),
        (["verify", "export", "--trust", "tidegate.yaml"], "line 1"),
        (["verify", "export", "--trust", "nowhere"], "nowhere"),
        (["verify", "export", "--key", KEY, "--checkpoint", "nowhere"], "nowhere"),
        (["prove", "5", "--export", "nowhere"], "nowhere"),
        (["prove", "5", "--export", "export"], "record 5"),
        (["prove", "601", "--export", "export"], "601"),
        (["check-proof", "nowhere", "tidegate.yaml", "--key", KEY], "nowhere"),
        (["consistency", "1", "601"], "601"),
        (["consistency", "1", "nowhere"], "nowhere"),
    ],
)
def test_what_is_not_there_is_bad_input(
    tidegate: Program, export: Path, arguments: list[str], message: str
) -> None:
    """Exit status 2: nothing is said about any evidence."""
    done = tidegate("ledger", *arguments)
    assert (done.status, message in done.err) == (2, True), done.err


def test_a_record_is_proven_and_checked(tidegate: Program, tmp_path: Path, export: Path) -> None:
    """The two files and the key suffice; a line of the export is the record, too."""
    done = tidegate("ledger", "prove", "305", "--export", "export", "--out", "a/305.tlog-proof")
    assert done.status == 1  # no such folder
    assert tidegate("ledger", "prove", "305", "--export", "export").status == 0
    assert (tmp_path / "305.json").read_bytes() == record(305)
    check = "ledger", "check-proof", "305.tlog-proof", "305.json", "--key", KEY
    done = tidegate(*check)
    assert (done.status, "is record 305 of hello/0" in done.out) == (0, True)
    assert tidegate(*check, "--json").json["seq"] == 305
    (tmp_path / "305.json").write_bytes(record(305) + b"\n")
    assert tidegate(*check).status == 0
    (tmp_path / "305.json").write_bytes(record(306))
    assert tidegate(*check).status == 5


def test_a_log_is_shown_to_have_grown(tidegate: Program, tmp_path: Path, log: Log) -> None:
    """From one checkpoint to another: files, proofs or sizes, in any order."""
    (tmp_path / "old").write_bytes(log.note(300).encode())
    (tmp_path / "new.tlog-proof").write_bytes(log.proof(9).encode())
    for pair in (("old", "new.tlog-proof"), ("new.tlog-proof", "old"), ("300", "600")):
        done = tidegate("ledger", "consistency", *pair)
        assert (done.status, "of 600 records begins with that of 300" in done.out) == (0, True)
    found = tidegate("ledger", "consistency", "old", "512", "--json").json
    assert (found["old"]["size"], found["new"]["size"]) == (300, 512)
    assert found["proof"]


def test_a_fork_is_told(tidegate: Program, tmp_path: Path, log: Log) -> None:
    """Two checkpoints of one log that do not belong together: exit status 5."""
    other = [record(seq, epoch=2 if seq > 250 else 1) for seq in range(1, 301)]
    note = Log.make(tmp_path / "fork", other).note()
    (tmp_path / "fork.note").write_bytes(note.encode())
    for with_ in ("300", "600"):
        done = tidegate("ledger", "consistency", "fork.note", with_)
        assert done.status == 5, done.out


def test_offline_commands_do_without_the_bus(tmp_path: Path, log: Log, export: Path) -> None:
    """Whoever checks an export imports no bus, no broker's client and no policy."""
    (tmp_path / "5.tlog-proof").write_bytes(log.proof(5).encode())
    (tmp_path / "5.json").write_bytes(record(5))
    for arguments in (
        ["verify", str(export), "--key", KEY],
        ["prove", "305", "--export", str(export)],
        ["check-proof", "5.tlog-proof", "5.json", "--key", KEY],
        ["consistency", "256", "600", "--export", str(export), "--key", KEY],
    ):
        code = (
            "import sys; from tidegate.cli import main; sys.argv[0] = 'tidegate'\n"
            "try: status = main()\n"
            "except SystemExit as end: status = end.code\n"
            "print(status, sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
        )
        command = [sys.executable, "-c", code, "ledger", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        status, _, modules = done.stderr.strip().splitlines()[-1].partition(" ")
        assert status == "0", done.stderr
        loaded = set(json.loads(modules.replace("'", '"')))
        assert not loaded & {"nats", "tidegate_bus", "tidegate_policy", "tidegate_agents"}


# The ledger of a stack that runs.


@pytest.fixture
async def stack(tmp_path: Path, log: Log) -> AsyncGenerator[Broker]:
    """A broker, without gateway and notary; the ledger is empty."""
    state = tmp_path / ".tidegate"
    async with running_broker(state) as broker:
        (state / "address").write_text(broker.url)
        await converge(await broker.connect(REGISTRAR), Limits(2**30, 2**28, 100))
        yield broker


async def write(broker: Broker, records: list[bytes]) -> None:
    """Write records to the end of the ledger, as a gateway does."""
    gateway = await broker.connect(GATEWAY)
    subject = subjects.ledger(0, Verdict.ALLOW, Kind.CONTROL, "policy.note")
    appender = await FastAppender.open(gateway, last=await broker.length("LEDGER_0"))
    for begin in range(0, len(records), MAX_BATCH):
        part = records[begin : begin + MAX_BATCH]
        await (await appender.append([(subject, one) for one in part]))
    await appender.close()


async def verify(tidegate: Program, *arguments: str) -> Done:
    """Run it in a thread, as it runs an event loop of its own."""
    return await asyncio.to_thread(tidegate, "ledger", "verify", "--json", *arguments)


async def test_the_ledger_of_a_stack_is_checked(tidegate: Program, stack: Broker, log: Log) -> None:
    """As far as it is signed; what came later is counted."""
    await write(stack, [*log.records, record(SIZE + 1)])
    done = await verify(tidegate)
    assert (done.status, done.json["records"], done.json["wrong"]) == (0, SIZE, [])
    done = await asyncio.to_thread(tidegate, "ledger", "verify")
    assert "not signed   1 records after the checkpoint" in done.out
    done = await asyncio.to_thread(tidegate, "ledger", "prove", "600")
    assert done.status == 0
    check = "ledger", "check-proof", "600.tlog-proof", "600.json", "--key", KEY
    assert (await asyncio.to_thread(tidegate, *check)).status == 0


async def test_an_altered_record_of_the_broker_is_located(
    tidegate: Program, stack: Broker, log: Log
) -> None:
    """The broker's ledger is held against what the notary keeps."""
    await write(stack, [*log.records[:99], record(100, epoch=2), *log.records[100:-1]])
    done = await verify(tidegate)
    found = [(f["kind"], f["first"], f["last"]) for f in done.json["findings"]]
    assert (done.status, found) == (5, [("altered", 100, 100), ("truncated", SIZE, SIZE)])
    done = await asyncio.to_thread(tidegate, "ledger", "prove", "100")
    assert (done.status, "not the one that was signed" in done.err) == (5, True)


async def test_a_weakened_stream_is_told(tidegate: Program, stack: Broker, log: Log) -> None:
    """Whoever administers the broker makes it forget: what is gone, and what was changed."""
    await write(stack, log.records)
    admin = await stack.connect(ADMIN)
    config = (await admin.api(subjects.stream_info("LEDGER_0")))["config"]
    weak = {**config, "max_msgs": 550, "discard": "old"}
    await admin.api("$JS.API.STREAM.UPDATE.LEDGER_0", weak)
    done = await verify(tidegate)
    found = [(f["kind"], f["first"], f["last"]) for f in done.json["findings"]]
    assert (done.status, found) == (5, [("missing", 1, 50)])
    assert any("max_msgs" in line for line in done.json["wrong"])
