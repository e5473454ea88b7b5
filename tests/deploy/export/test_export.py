"""`tidegate ledger export`: what it takes out of a ledger, and what it never does."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.test_cli_alone import Done, Program
from support import OPERATOR, PUBLISHER, until
from tidegate.export import admission
from tidegate_evidence import manifest
from tidegate_schemas.audit import Export, Format
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.evidence import EvidenceKeys, KeyRole
from tidegate_schemas.governance import Opinion
from tidegate_schemas.record import Record

from .sealing import NOW, Sealed, history, seal

PROJECT = {"tidegate.yaml", ".tidegate"}
FOUR_EYES = """
@id("everything") permit (principal, action, resource);
@id("four-eyes") @require_approval("1 of outside.source within 1h")
permit (principal, action, resource) when { context.to == "audit.export" };
"""


def read(name: str) -> bytes:
    """A file of the project."""
    return Path(name).read_bytes()


def files(folder: str) -> set[str]:
    """The files of an export."""
    return {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}


def left() -> list[str]:
    """What exports have left in the project."""
    return [path.name for path in Path.cwd().iterdir() if path.name not in PROJECT]


async def say(stack: Sealed, records: int) -> None:
    """Let the operator say which keys are in use, and a publisher send events, so many in all."""
    operator, publisher = [await stack.broker.publisher(who) for who in (OPERATOR, PUBLISHER)]
    keys, to = EvidenceKeys(tuple(stack.keys.in_use())), "evidence.keys"
    await operator.publish(Envelope.new(to, keys, kind="control", to=to))
    for number in range(1, records):
        await publisher.publish(Envelope.new("thing.happened", {"number": number}))


async def export(tidegate: Program, *arguments: str) -> Done:
    """Run the command, beside the gateway."""
    return await asyncio.to_thread(tidegate, "ledger", "export", *arguments)


async def told(stack: Sealed) -> list[tuple[Record, Export]]:
    """What the ledger holds of exports."""
    return [
        (made, message.payload(Export))
        for made in await stack.broker.records()
        if made.to == "audit.export" and (message := made.message())
    ]


async def test_an_export_holds_the_bytes_of_the_records(stack: Sealed, tidegate: Program) -> None:
    """A line is a record; the manifest is signed, names every file, and the ledger knows it."""
    async with stack.broker.gateway():
        await say(stack, 300)
        await stack.seal()
        done = await export(tidegate, "out")
        ((record, said),) = await told(stack)

    payloads = (await stack.payloads())[:300]
    assert done.status == 0, done.err
    assert "records 1 to 300, checkpoint of 300; ledger record 301" in done.out
    assert read("out/records.jsonl").split(b"\n") == [*payloads, b""]
    envelope = read("out/manifest.json")
    statement = manifest.verify(envelope, [stack.signer(KeyRole.EXPORT).verifier])
    assert {*statement.subjects, "manifest.json"} == files("out")
    for name, digest in statement.subjects.items():
        assert hashlib.sha256(read(f"out/{name}")).hexdigest() == digest
    assert (record.seq, record.by, record.verdict) == (301, "tidegate.operator", "allow")
    digest = f"sha256:{hashlib.sha256(envelope).hexdigest()}"
    assert said == Export(1, 300, 300, (Format.JSONL,), digest)
    assert left() == ["out"]


async def test_all_formats_at_once(stack: Sealed, tidegate: Program) -> None:
    """Each is a file; what was asked twice is there once; programs are told the same."""
    wanted = ("--format", "parquet", "--format", "ocsf", "--format", "jsonl", "--format", "ocsf")
    async with stack.broker.gateway():
        await say(stack, 5)
        await stack.seal()
        done = await export(tidegate, "out", *wanted, "--json")
        ((record, said),) = await told(stack)

    assert files("out") == {
        *("checkpoint", "keys.json", "keys.tlog-proof", "manifest.json", "ocsf.jsonl"),
        *("records.jsonl", "records.parquet", "tile/0/000.p/5", "trust"),
    }
    assert done.err == ""
    assert done.json == {
        **msgspec.json.decode(msgspec.json.encode(said)),
        "folder": "out",
        "record": record.seq,
        "not_signed_yet": 0,
    }
    assert done.json["formats"] == ["parquet", "ocsf", "jsonl"]


async def test_a_part_of_the_ledger(stack: Sealed, tidegate: Program) -> None:
    """By sequence or by moment; the query is in manifest and ledger as it was written."""
    async with stack.broker.gateway():
        await say(stack, 600)
        await stack.seal()
        middle = (await stack.broker.records())[299].time
        some = await export(tidegate, "some", "--first", "300", "--last", "310")
        late = await export(tidegate, "late", "--since", middle)
        none = await export(tidegate, "none", "--until", "2020-01-01T00:00:00Z")
        (_, one), (_, two), (_, three) = await told(stack)
    payloads = await stack.payloads()

    assert [done.status for done in (some, late, none)] == [0, 0, 0]
    assert read("some/records.jsonl").splitlines() == payloads[299:310]
    assert (one.first, one.last, one.query) == (300, 310, {"first": "300", "last": "310"})
    tiles = {name for name in files("some") if name.startswith("tile/")}
    assert tiles == {"tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"}
    lines = read("late/records.jsonl").splitlines()
    assert lines == payloads[two.first - 1 : 600]
    assert 295 <= two.first <= 300
    assert two.query == {"since": middle}
    assert (three.first, three.last) == (1, 0)
    assert read("none/records.jsonl") == b""
    assert none.out.startswith("none: no records, checkpoint of ")


async def test_what_the_notary_has_not_signed_stays_behind(
    stack: Sealed, tidegate: Program
) -> None:
    """The export ends where the checkpoint does, and says so; asked for more it refuses."""
    async with stack.broker.gateway():
        await say(stack, 20)
        await stack.seal(15)
        done = await export(tidegate, "out")
        more = await export(tidegate, "more", "--last", "16")
        after = await export(tidegate, "after", "--first", "17")

    assert done.status == 0
    assert "records 1 to 15" in done.out
    assert "had 5 records more" in done.out
    assert len(read("out/records.jsonl").splitlines()) == 15
    assert (more.status, after.status) == (2, 2)
    assert "signed 15 records so far; record 16 is not" in more.err
    assert left() == ["out"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--first", "9", "--last", "7"),
        ("--first", "1", "--since", "1h"),
        ("--since", "yesterday"),
        ("--format", "csv"),
    ],
    ids=lambda arguments: arguments[0] + arguments[-1],
)
async def test_what_cannot_be_meant_is_bad_input(
    past: Sealed, tidegate: Program, arguments: tuple[str, ...]
) -> None:
    """Nothing is written, and the ledger hears nothing."""
    await past.fill(10)
    await past.seal()
    done = await export(tidegate, "out", *arguments)

    assert done.status == 2
    assert left() == []


async def test_a_ledger_that_names_no_key_is_not_exported(past: Sealed, tidegate: Program) -> None:
    """Nobody could check the manifest: one that is empty, and one that names other keys."""
    await past.seal()
    empty = await export(tidegate, "out")
    await past.fill(20)
    past.keys.rotate(KeyRole.EXPORT, 0, NOW)
    past.keys.drop_old(KeyRole.EXPORT, NOW + 1)
    await past.seal()
    other = await export(tidegate, "out")

    assert (empty.status, other.status) == (4, 4)
    assert "no record before 1 says that the export key is in use" in empty.err
    assert "no record before 21 says" in other.err
    assert left() == []


async def test_without_a_checkpoint_there_is_no_export(stack: Sealed, tidegate: Program) -> None:
    """It may come: exit status 4."""
    done = await export(tidegate, "out")

    assert done.status == 4
    assert "checkpoint: not there yet" in done.err


async def test_what_policy_refuses_does_not_leave(stack: Sealed, tidegate: Program) -> None:
    """Exit status 3, and no folder; the refusal is in the ledger."""
    forbid = '@id("all") permit (principal, action, resource);'
    forbid += '@id("stay") forbid (principal, action, resource) when {context.to like "audit.*"};'
    async with stack.broker.gateway(forbid):
        await say(stack, 3)
        await stack.seal()
        done = await export(tidegate, "out")
        ((record, _),) = await told(stack)

    assert done.status == 3
    assert "denied by policy stay" in done.err
    assert record.verdict == "deny"
    assert left() == []


async def test_without_an_answer_nothing_leaves(
    past: Sealed, tidegate: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No gateway runs, so nobody knows whether it may: exit status 4."""
    monkeypatch.setattr(admission, "ANSWER_SECONDS", 0.5)
    await past.fill(20)
    await past.seal()
    done = await export(tidegate, "out")

    assert done.status == 4
    assert "no receipt" in done.err
    assert left() == []


@pytest.mark.parametrize("opinion", ["grant", "refuse"])
async def test_an_export_waits_for_approval(stack: Sealed, tidegate: Program, opinion: str) -> None:
    """The folder is there when somebody else has agreed, and never if they refuse."""
    async with stack.broker.gateway(FOUR_EYES):
        await say(stack, 1)
        await stack.seal()
        exporting = asyncio.create_task(export(tidegate, "out"))
        held: list[Record] = []

        async def there() -> bool:
            held[:] = [made for made, _ in await told(stack)]
            return bool(held)

        await until(there)
        assert left() == ["out.part"]
        publisher = await stack.broker.publisher(PUBLISHER)
        message = held[0].message()
        assert message
        digest = hashlib.sha256(bytes(held[0].envelope)).hexdigest()  # type: ignore[arg-type]
        said = Opinion(held[0].seq, f"sha256:{digest}", held[0].why.bundle)
        to = f"approval.{opinion}"
        await publisher.publish(Envelope.new(to, said, kind="control", to=to))
        done = await exporting

    assert held[0].verdict == "hold"
    assert "waits for approval" in done.err
    if opinion == "grant":
        assert (done.status, left()) == (0, ["out"])
    else:
        assert done.status == 3
        assert "approval_refused" in done.err
        assert left() == []


# What is not as it should be


@pytest.mark.parametrize("format", list(Format))
async def test_an_altered_record_is_named_and_nothing_is_left(
    past: Sealed, tidegate: Program, format: Format
) -> None:
    """The notary has signed another record 7: exit status 5."""
    await past.fill(300)
    await past.seal(altered={7: b"something else"})
    done = await export(tidegate, "out", "--format", format)

    assert done.status == 5
    assert "record 7 was altered" in done.err
    assert left() == []


async def test_a_ledger_shorter_than_what_was_signed(past: Sealed, tidegate: Program) -> None:
    """Records that were signed and are gone are a gap: exit status 5."""
    entries = history(300)
    await past.write(entries[:290])
    seal(past, [payload for _, payload in entries[:300]])
    done = await export(tidegate, "out")

    assert done.status == 5
    assert "expected sequence 291" in done.err


async def test_a_record_that_is_not_a_line(stack: Sealed, tidegate: Program) -> None:
    """Even signed it is not written as two lines."""
    await stack.write([("ledger.0.allow.event.thing", b'{"a":\n1}')])
    await stack.seal()
    done = await export(tidegate, "out")

    assert done.status == 5
    assert "record 1 holds a line end" in done.err


@pytest.mark.parametrize("file", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "checkpoint"])
async def test_evidence_that_does_not_hold_is_not_passed_on(
    past: Sealed, tidegate: Program, file: str
) -> None:
    """A tile or a checkpoint that was changed on the notary's disk: exit status 5."""
    await past.fill(300)
    await past.seal()
    path = past.project.state.notary / file
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    done = await export(tidegate, "out")

    assert done.status == 5, done
    assert left() == []


@pytest.mark.parametrize("name", ["out", "out.part"])
async def test_a_folder_that_is_there_is_left_alone(
    stack: Sealed, tidegate: Program, name: str
) -> None:
    """Whether it is an export or one in the making: exit status 2."""
    await stack.seal()
    await asyncio.to_thread((stack.project.root / name).mkdir)
    done = await export(tidegate, "out")

    assert done.status == 2
    assert f"{name} is there already" in done.err
    assert left() == [name]


async def test_a_folder_that_cannot_be_made_is_named(stack: Sealed, tidegate: Program) -> None:
    """The operating system says why."""
    await stack.seal()
    done = await export(tidegate, "tidegate.yaml/out")

    assert done.status == 1
    assert "Not a directory" in done.err


async def test_without_pyarrow_the_extra_is_named(
    past: Sealed, tidegate: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read, and only if Parquet is asked for."""
    await past.fill(10)
    await past.seal()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = await export(tidegate, "out", "--format", "parquet")

    assert done.status == 2
    assert "pip install 'tidegate[parquet]'" in done.err
    assert left() == []


CUT_SHORT = """
import resource, signal, sys
from tidegate.cli import main
from tidegate.export import packing

def leaves(*arguments):
    for found in kept(*arguments):
        {what}
        yield found

kept, packing.leaves = packing.leaves, leaves
sys.argv[1:] = ["ledger", "export", "out", "--format", {format!r}]
sys.exit(main())
"""


INTERRUPT = "signal.raise_signal(signal.SIGINT)"
FILL = (  # bytecode that is cut short too would stand in the way of the next one
    "sys.dont_write_bytecode = True; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
)


@pytest.mark.parametrize(
    ("format", "what", "status", "said"),
    [
        (Format.PARQUET, INTERRUPT, 130, ""),
        (Format.PARQUET, FILL, 1, "out: File too large"),
        (Format.JSONL, FILL, 1, "out: File too large"),
    ],
    ids=["interrupted", "full-parquet", "full-jsonl"],
)
async def test_an_export_that_is_cut_short_leaves_nothing(
    past: Sealed, here: None, format: Format, what: str, status: int, said: str
) -> None:
    """Ctrl-C in the middle, and a disk that takes no more: no folder, and a clear end."""
    await past.fill(400)
    await past.seal()
    code = CUT_SHORT.format(what=what, format=format.value)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stderr=asyncio.subprocess.PIPE
    )
    _, err = await child.communicate()

    assert (child.returncode, said in err.decode()) == (status, True), err.decode()
    assert left() == []
