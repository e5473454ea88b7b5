"""`tidegate policy diff`, `learn`, `explain` and `tidegate replay conformance`: they look back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from support import ADMIN, Broker, running_broker
from tidegate.audit import moment
from tidegate.bench.history import History, bundles
from tidegate.cli.replay import telling
from tidegate.replay.report import digest
from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_policy.bundle import Bundle
from tidegate_schemas.audit import Mode, Replay
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.record import Record, decode_record, encode_record
from tidegate_schemas.vocabulary import AUDIT_REPLAY, GATEWAY

from .test_cli_alone import Program

RECORDS = 900
DENY_ALL = """
@id("operators") permit (principal, action in Action::"control", resource);
@id("no-visits") forbid (principal, action in Action::"event", resource)
when { context.to like "visit.*" };
"""


@pytest.fixture(scope="module")
def history() -> list[tuple[str, bytes]]:
    """Subjects and payloads of some hundred records under three bundles."""
    return [(entry.subject, entry.payload) for entry in History(11).entries(RECORDS)]


@pytest.fixture(scope="module")
def records(history: list[tuple[str, bytes]]) -> list[Record]:
    """The same, read."""
    return [decode_record(payload) for _, payload in history]


async def write(broker: Broker, entries: list[tuple[str, bytes]]) -> None:
    """Write to the end of the ledger, as a gateway does."""
    gateway = await broker.connect(GATEWAY)
    appender = await FastAppender.open(gateway, last=await broker.length("LEDGER_0"))
    for begin in range(0, len(entries), MAX_BATCH):
        await (await appender.append(entries[begin : begin + MAX_BATCH]))
    await appender.close()


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncGenerator[Broker]:
    """A project whose broker runs, with an empty ledger, without gateway."""
    (tmp_path / "tidegate.yaml").write_text("project: bench\n")
    state = tmp_path / ".tidegate"
    state.mkdir()
    async with running_broker(state) as broker:
        (state / "address").write_text(broker.url)
        yield broker


@pytest.fixture
async def stored(stack: Broker, history: list[tuple[str, bytes]]) -> Broker:
    """The same, with these records."""
    await write(stack, history)
    return stack


@pytest.fixture
def tidegate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program in the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Program(monkeypatch, capsys)


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    """The folder of a bundle that permits little."""
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "main.cedar").write_text(DENY_ALL)
    return folder


def where(records: list[Record], reason: str) -> int:
    """Sequence of the first record with this reason."""
    return next(record.seq for record in records if record.why.reason == reason)


# diff


async def test_diff_tells_what_a_folder_would_change(
    stored: Broker, tidegate: Program, candidate: Path, records: list[Record]
) -> None:
    """In tables by policy, agent and subject, with examples; and as JSON with the same counts."""
    shown = tidegate("policy", "diff", "--bundle", str(candidate), "--processes", "1")
    report = tidegate("policy", "diff", "--bundle", "new", "--processes", "1", "--json").json
    visits = [r for r in records if r.to.startswith("visit.") and r.verdict == "allow"]

    assert shown.status == 0
    assert f"records 1 to {len(records):,}: {len(records):,}" in shown.out
    assert "no-visits" in shown.out
    assert report["digest"] in shown.out
    assert report["policies"]["no-visits"]["newly_denied"] == len(visits)
    assert report["agents"]["outside.web"]["newly_denied"] == len(visits)
    assert sum(report["outcomes"].values()) == report["records"] == len(records)
    first = min(g["examples"][0] for g in report["groups"] if g["policies"] == ["no-visits"])
    assert first == visits[0].seq


async def test_the_report_is_between_the_bundle_in_force_and_the_new_one(
    stored: Broker, tidegate: Program, candidate: Path, tmp_path: Path
) -> None:
    """The file holds what --json prints; its digest can be computed by anybody."""
    done = tidegate(
        *("policy", "diff", "--bundle", "new", "--since", "1h", "--report", "report.json"),
        *("--processes", "1", "--json"),
    )
    report = json.loads((tmp_path / "report.json").read_text())
    said = report.pop("digest")
    text = json.dumps(report, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert done.json == {"digest": said, **report}
    assert said == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert report["from"] == Bundle.of_files(bundles()[-1]).digest
    assert report["to"] == Bundle.of_files({"main.cedar": DENY_ALL}).digest
    assert (report["since"], report["until"]) == ("1h", "")


async def test_a_bundle_of_the_ledger_is_named_by_its_digest(
    stored: Broker, tidegate: Program
) -> None:
    """All of it or its beginning. What is neither that nor a folder is bad input."""
    old = Bundle.of_files(bundles()[0]).digest
    for named in (old, old[:15]):
        done = tidegate("policy", "diff", "--bundle", named, "--processes", "1", "--json")
        assert done.json["to"] == old
        assert done.json["outcomes"]["newly_denied"] > 0
    for named in ("nowhere", "sha256:" + "0" * 64, "abc"):
        wrong = tidegate("policy", "diff", "--bundle", named)
        assert wrong.status == 2
        assert "bundle" in wrong.err


async def test_a_bundle_that_does_not_load_is_told_with_its_lines(
    stored: Broker, tidegate: Program, candidate: Path
) -> None:
    """As by `policy check`; exit status 2."""
    (candidate / "main.cedar").write_text("\npermit (principal, action, resource);")
    done = tidegate("policy", "diff", "--bundle", "new")

    assert done.status == 2
    assert "main.cedar:2: a policy without @id" in done.err


async def test_moments_bound_what_is_looked_at(
    stack: Broker, tidegate: Program, candidate: Path, history: list[tuple[str, bytes]]
) -> None:
    """By the broker's clock; what was stored at `--until` is not in it."""
    await write(stack, history[:300])
    await write(stack, history[300:])
    stored = [s.stored async for s in (await stack.reader()).read()]
    moments = ("--since", rfc3339(stored[300]), "--until", rfc3339(stored[600]))
    base = ("policy", "diff", "--bundle", "new", "--processes", "1", "--json")
    report = tidegate(*base, *moments).json
    before = [time for time in stored if stored[300] <= time < stored[600]]

    assert report["first"] == stored.index(stored[300]) + 1
    assert report["records"] == len(before)
    assert tidegate(*base, "--until", "1d").json["records"] == 0
    assert tidegate(*base, "--since", "yesterday").status == 2


async def test_several_processes_print_the_same(
    stored: Broker, tmp_path: Path, candidate: Path, tidegate: Program
) -> None:
    """As a program of its own, which forks its workers."""
    one = tidegate("policy", "diff", "--bundle", "new", "--processes", "1", "--json")
    code = (
        "import sys; from tidegate_policy.replay import parallel; parallel.PIECE = 100; "
        "from tidegate.cli import main; sys.exit(main())"
    )
    several = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, *("policy", "diff", "--bundle", "new", "--json")],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        timeout=60,
    )

    assert several.stderr == b""
    assert json.loads(several.stdout) == one.json


async def test_without_a_stack_there_is_nothing_to_look_back_on(
    tidegate: Program, candidate: Path, tmp_path: Path
) -> None:
    """Each of the commands says so; exit status 2."""
    (tmp_path / "tidegate.yaml").write_text("project: bench\n")
    for command in (
        ("policy", "diff", "--bundle", "new"),
        ("policy", "learn"),
        ("policy", "explain", "1"),
        ("replay", "conformance"),
        ("replay", "redelivery"),
    ):
        done = tidegate(*command)
        assert done.status == 2
        assert "tidegate up" in done.err


# learn


async def test_learn_writes_a_policy_for_what_was_learned(
    stored: Broker, tidegate: Program, tmp_path: Path, records: list[Record]
) -> None:
    """On standard output or into a file; it loads, and `policy check` refuses nothing of it."""
    learned = {(r.by, r.to) for r in records if r.why.reason == "learned"}
    printed = tidegate("policy", "learn")
    (tmp_path / "policy").mkdir()
    written = tidegate("policy", "learn", "--out", "policy/learned.cedar")
    text = (tmp_path / "policy" / "learned.cedar").read_text()

    assert (printed.status, written.status) == (0, 0)
    assert re.fullmatch(r"(1 right|\d+ rights) in policy/learned\.cedar\n", written.err)
    assert printed.out == text
    assert learned
    for by, to in learned:
        assert f"// {by} asks for {to}: " in text
    checked = tidegate("policy", "check", "policy", "--json").json
    assert [fault for fault in checked["faults"] if fault["refused"]] == []


async def test_learn_overwrites_nothing_and_says_when_nothing_was_learned(
    stored: Broker, tidegate: Program, tmp_path: Path
) -> None:
    """Bad input, both of them."""
    (tmp_path / "there.cedar").write_text("mine")
    there = tidegate("policy", "learn", "--out", "there.cedar")
    nothing = tidegate("policy", "learn", "--until", "1d")

    assert (there.status, nothing.status) == (2, 2)
    assert (tmp_path / "there.cedar").read_text() == "mine"
    assert "nothing was learned" in nothing.err


# explain


async def test_explain_names_the_deciding_rules_with_text_and_place(
    stored: Broker, tidegate: Program, records: list[Record]
) -> None:
    """As they stand in the bundle that was in force; for people and as JSON."""
    seq = where(records, "forbidden")
    record = records[seq - 1]
    shown = tidegate("policy", "explain", str(seq))
    found = tidegate("policy", "explain", str(seq), "--json").json
    bundle = next(b for b in map(Bundle.of_files, bundles()) if b.digest == record.why.bundle)

    assert shown.status == 0
    assert (found["verdict"], found["reason"], found["seq"]) == ("deny", "forbidden", seq)
    for told, name in zip(found["rules"], record.why.policies, strict=True):
        rule = bundle.rules[name]
        assert told["place"] == f"{rule.file}:{rule.line}"
        lines = bundle.files[rule.file].splitlines()
        assert told["text"].splitlines()[0] == lines[rule.line - 1] == f'@id("{name}")'
        for line in told["text"].splitlines():
            assert line in shown.out
        assert told["place"] in shown.out


async def test_explain_tells_obligations_facts_and_rules_in_the_shadow(
    stored: Broker, tidegate: Program, records: list[Record]
) -> None:
    """What was asked for, what the rules could see, and what would have been otherwise."""
    limited = next(r for r in records if any("budget" in o for o in r.why.obligations))
    shadowed = next(r for r in records if "shadow" in r.why.facts)
    one = tidegate("policy", "explain", str(limited.seq)).out
    other = tidegate("policy", "explain", str(shadowed.seq)).out

    assert "obliges to  budget:eur:400000/1m per team reserve 5000" in one
    assert "fact        amount = " in one
    assert "shadow      with the rules below it would be: deny" in other
    assert "would decide: support-shall-not-ask-billing (forbid)" in other


async def test_explain_tells_for_whom_it_was_sent(
    stored: Broker, tidegate: Program, records: list[Record]
) -> None:
    """The rules must permit it to them too, so the sender alone would explain nothing."""
    record, friend = next((r, m.onbehalfof) for r in records if (m := r.message()) and m.onbehalfof)
    shown = tidegate("policy", "explain", str(record.seq)).out
    found = tidegate("policy", "explain", str(record.seq), "--json").json

    assert f"{record.kind} of {record.by} to {record.to}, on behalf of {friend}\n" in shown
    assert found["on_behalf_of"] == friend.split(",")


async def test_explain_tells_where_no_rule_was_asked(
    stored: Broker, tidegate: Program, records: list[Record]
) -> None:
    """The gateway's own reasons; what came before any activation; what is not there yet."""
    own = tidegate("policy", "explain", str(where(records, "unknown_sender")))
    first = tidegate("policy", "explain", "1")
    later = tidegate("policy", "explain", str(len(records) + 1))

    assert "the gateway itself decided" in own.out
    assert "in force from the beginning" in first.out
    assert "operators-begin" in first.out
    assert later.status == 2


# conformance


@contextlib.asynccontextmanager
async def governed(broker: Broker) -> AsyncGenerator[None]:
    """A gateway goes on with the ledger, as if it had written it."""
    tail = (await broker.records())[-1]
    admin = await broker.connect(ADMIN)
    await admin.api("$JS.API.STREAM.PURGE.INGRESS_0", {"seq": tail.ingress.seq + 1})
    async with broker.gateway():
        yield


async def test_conformance_decides_again_about_all_of_it(
    stored: Broker, tidegate: Program, records: list[Record], tmp_path: Path
) -> None:
    """Nothing differs, exit status 0; and the ledger is told, by digests of the reports."""
    async with governed(stored):
        done = await asyncio.to_thread(tidegate, "replay", "conformance")
        again = await asyncio.to_thread(
            tidegate, "replay", "conformance", "--since", "1h", "--json", "--report", "report.json"
        )
    found = again.json
    told = [r for r in await stored.records() if r.to == AUDIT_REPLAY]

    assert (done.status, again.status) == (0, 0), done.out + again.err
    withheld = sum(record.verdict == "reject" and record.raw is None for record in records)
    assert done.out.startswith(f"{len(records):,} records under 4 bundles: 0 differences\n")
    assert (f"{withheld} of them reject" in done.out) is bool(withheld)
    assert found["unknown"] == withheld
    assert (found["records"], found["differences"]) == (len(records) + 1, 0)
    assert sum(found["bundles"].values()) == len(records) + 1
    assert [record.seq for record in told] == [len(records) + 1, found.pop("record")]
    assert found == json.loads((tmp_path / "report.json").read_text())
    replay = [m.payload(Replay) for r in told if (m := r.message())]
    assert replay[1] == Replay(
        1,
        len(records) + 1,
        Mode.CONFORMANCE,
        found.pop("digest"),
        {"since": "1h"},
        {"records": len(records) + 1, "unknown": withheld, "erased": 0, "differences": 0},
    )
    assert replay[1].report == digest(found)
    assert f"report {replay[0].report}\nledger record {told[0].seq} tells of it" in done.out


async def test_conformance_names_the_records_that_do_not_follow(
    stack: Broker, tidegate: Program, history: list[tuple[str, bytes]], records: list[Record]
) -> None:
    """Exit status 1; with --since only those from there on."""
    seq = where(records, "not_permitted")
    changed = list(history)
    record = records[seq - 1]
    why = msgspec.structs.replace(record.why, reason="permitted")
    turned = encode_record(msgspec.structs.replace(record, verdict="allow", why=why))
    changed[seq - 1] = (changed[seq - 1][0], turned)
    await write(stack, changed)
    async with governed(stack):
        done = await asyncio.to_thread(tidegate, "replay", "conformance")
        found = (await asyncio.to_thread(tidegate, "replay", "conformance", "--json")).json
        late = await asyncio.to_thread(tidegate, "replay", "conformance", "--since", "0s")

    assert done.status == 1
    assert f"record {seq}: allow, permitted" in done.out
    assert found["examples"][0]["seq"] == seq
    assert late.status == 0


async def test_what_the_ledger_cannot_be_told_of_is_shown_all_the_same(
    stored: Broker, tidegate: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that does not run any more may be why somebody looks; exit status 4."""
    monkeypatch.setattr(telling, "_ANSWER_SECONDS", 0.5)
    done = await asyncio.to_thread(tidegate, "replay", "conformance")
    found = await asyncio.to_thread(tidegate, "replay", "conformance", "--json")

    assert (done.status, found.status) == (4, 4)
    assert "0 differences" in done.out
    assert "the ledger was not told of it" in done.err
    assert (found.json["record"], found.json["error"]["type"]) == (None, "NoReceipt")


def test_moments_are_lengths_of_time_or_times() -> None:
    """Before now, or with an offset."""
    now = parse_rfc3339("2026-01-31T12:00:00Z")

    assert moment("2h", now) == now - 7_200 * 10**9
    assert moment("36500d", now) == 0
    assert moment("2026-01-31T12:00:00+01:00", now) == now - 3_600 * 10**9
    for text in ("", "2 hours", "2026-01-31", "2026-01-31T12:00:00"):
        with pytest.raises(InvalidInput, match="is no moment"):
            moment(text, now)
