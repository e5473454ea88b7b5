"""The folder of an export, checked with one key."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.kit import EXPORTER, NOTARY, NOW, TRUST, WRITER, Log, record, sign_export
from tidegate_evidence.audit import Kind, Report, audit
from tidegate_evidence.export import Export
from tidegate_evidence.note import Algorithm, Note, Signer
from tidegate_evidence.trust import Trust
from tidegate_schemas.errors import InvalidInput, VerificationError

SIZE = 600
FIRST, LAST = 300, 520


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log of three tiles."""
    return Log.make(tmp_path / "log", [record(seq) for seq in range(1, SIZE + 1)])


@pytest.fixture
def folder(log: Log, tmp_path: Path) -> Path:
    """An export of a part of it."""
    return log.export(tmp_path / "export", FIRST, LAST)


def look(export: Export) -> Report:
    """Audit its records."""
    return audit(export.records(), export.checkpoint, export.tiles, export.first, export.last)


def holds(folder: Path, trust: Trust = TRUST) -> bool:
    """Whether all of it holds."""
    try:
        export = Export.open(folder, trust)
        return not export.check_files() and look(export).holds
    except VerificationError:
        return False


def test_one_key_suffices(log: Log, folder: Path) -> None:
    """From the key of the log follow the notary's, the export's, all files and all records."""
    export = Export.open(folder, TRUST)
    assert (export.first, export.last) == (FIRST, LAST)
    assert export.checkpoint == log.checkpoint()
    assert export.cosigned == {"hello/notary": NOW}
    assert export.check_files() == []
    assert look(export).holds
    assert holds(log.export(folder.with_name("whole")))


def test_a_policy_can_ask_for_more(folder: Path) -> None:
    """A quorum that has not cosigned is not there, whatever the keys of the log say."""
    lines = f"log {WRITER.verifier}\nwitness n {NOTARY.verifier}\nquorum n\n"
    assert holds(folder, Trust.parse(lines.encode()))
    assert Export.open(folder, Trust.parse(lines.encode())).cosigned == {"n": NOW}
    other = Signer.generate("hello/notary", NOTARY.algorithm)
    lines = f"log {WRITER.verifier}\nwitness n {other.verifier}\nquorum n\n"
    assert not holds(folder, Trust.parse(lines.encode()))


def test_every_changed_byte_of_every_file_is_found(tmp_path: Path) -> None:
    """No byte of an export can be another one, be missing or be there twice."""
    folder = Log.make(tmp_path / "log", [record(1), record(2)]).export(tmp_path / "export", 2)
    assert holds(folder)
    said = Export.open(folder, TRUST)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for at in range(0, len(whole), 1 if len(whole) < 100 else 23):
            bit = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            for changed in (bit, whole[:at] + whole[at + 1 :], whole[: at + 1] + whole[at:]):
                path.write_bytes(changed)
                # The signed part of a manifest stands in it as base64, in JSON: that has many
                # forms, and signatures that are not known are nobody's business.
                if path.name != "manifest.json" or not same(folder, said):
                    assert not holds(folder)
        path.write_bytes(whole)


def same(folder: Path, said: Export) -> bool:
    """Whether an export says what it said."""
    try:
        return Export.open(folder, TRUST) == said
    except VerificationError:
        return False


def test_every_file_is_needed_and_no_other_is_taken(folder: Path) -> None:
    """What the manifest lists is there, and nothing else."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        path.unlink()
        if path.name in ("manifest.json", "checkpoint"):
            with pytest.raises(InvalidInput, match="no export"):
                Export.open(folder, TRUST)
        else:
            assert not holds(folder)
        path.write_bytes(whole)
    (folder / "tile" / "more").write_bytes(b"")
    (finding,) = Export.open(folder, TRUST).check_files()
    assert str(finding) == "file tile/more: the manifest does not know it"


def edit(folder: Path, change: Callable[[list[bytes]], object]) -> Export:
    """Change the lines of an export, by somebody who may sign it again."""
    path = folder / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))
    sign_export(folder, first=FIRST, last=LAST)
    return Export.open(folder, TRUST)


def test_records_are_located_by_tiles(folder: Path) -> None:
    """Whoever can sign exports still cannot change what the log has."""
    export = edit(folder, lambda lines: lines.pop(10))
    assert [(f.kind, f.first) for f in look(export).findings] == [(Kind.MISSING, FIRST + 10)]
    export = edit(folder, lambda lines: lines.insert(10, record(FIRST + 10) + b"\n"))
    assert look(export).holds
    export = edit(folder, lambda lines: lines.reverse())
    assert not look(export).holds


def test_the_last_line_may_not_be_cut_short(folder: Path) -> None:
    """A line end is no part of a record."""
    export = edit(folder, lambda lines: lines.append(lines.pop()[:-2]))
    assert [(f.kind, f.first) for f in look(export).findings] == [(Kind.ALTERED, LAST)]


@pytest.mark.parametrize(
    "about",
    [
        {"first": 0, "last": 5},
        {"first": 9, "last": 7},
        {"first": "1", "last": 7},
        {"first": 1},
        {"first": 1, "last": SIZE + 1},
        {"first": 1, "last": 7, "origin": "hello/1"},
        {"first": 1, "last": 7, "checkpoint": ""},
    ],
)
def test_a_manifest_is_of_the_checkpoint(folder: Path, about: dict[str, Any]) -> None:
    """What is signed must fit together."""
    sign_export(folder, **about)
    with pytest.raises(VerificationError):
        Export.open(folder, TRUST)


def test_only_an_announced_key_signs_exports(log: Log, folder: Path) -> None:
    """Neither a stranger's, nor a key of the log with another role."""
    notary = Signer("hello/export", Algorithm.NOTE, NOTARY.seed)
    for signer in (Signer.generate("hello/export"), WRITER, notary):
        sign_export(folder, signer, first=FIRST, last=LAST)
        with pytest.raises(VerificationError, match="no signature"):
            Export.open(folder, TRUST)
    sign_export(folder, EXPORTER, first=FIRST, last=LAST)
    assert holds(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "deny"},
        {"to": "evidence.other"},
        {"kind": "event"},
        {"envelope": {}},
        {"envelope": {"data": {"keys": {}}}},
        {"envelope": {"data": {"keys": [{"role": "export"}]}}},
        {"envelope": {"data": {"keys": [{"role": "export", "key": "x"}]}}},
    ],
)
def test_keys_come_from_a_record_that_says_so(tmp_path: Path, change: dict[str, object]) -> None:
    """Nothing else in the log can make somebody a signer of exports."""
    first = json.dumps(json.loads(record(1)) | change).encode()
    folder = Log.make(tmp_path / "log", [first, record(2)]).export(tmp_path / "export", 2)
    with pytest.raises(VerificationError, match=r"keys\.json|not a key"):
        Export.open(folder, TRUST)


def test_keys_come_from_the_same_log(log: Log, folder: Path) -> None:
    """A record that is not proven to be in it names nobody."""
    (folder / "keys.json").write_bytes(record(1, epoch=2))
    sign_export(folder, first=FIRST, last=LAST)
    with pytest.raises(VerificationError):
        Export.open(folder, TRUST)


def test_a_false_cosignature_is_told(log: Log, folder: Path) -> None:
    """Of a notary that the log names, too."""
    text = log.checkpoint().text()
    false = Note(text).signed(WRITER.sign(text, 0), NOTARY.sign("else\n", NOW))
    (folder / "checkpoint").write_bytes(false.encode())
    sign_export(folder, first=FIRST, last=LAST)
    with pytest.raises(VerificationError, match="notary"):
        Export.open(folder, TRUST)


@pytest.mark.parametrize("name", ["keys.json", "records.jsonl", "tile/0/001"])
def test_what_never_ends_is_not_waited_for(folder: Path, name: str) -> None:
    """A pipe in place of a file is no file."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with contextlib.suppress(InvalidInput):
        assert not holds(folder)


def test_what_is_no_file_is_found_too(folder: Path) -> None:
    """A link to a folder, one to nowhere and a pipe are not in the manifest either."""
    (folder / "more").symlink_to(folder.parent, target_is_directory=True)
    (folder / "tile" / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "empty").mkdir()
    found = [finding.detail for finding in Export.open(folder, TRUST).check_files()]
    assert found == [
        f"{name}: the manifest does not know it" for name in ("more", "pipe", "tile/gone")
    ]


FILES = [
    *("manifest.json", "checkpoint", "keys.json", "keys.tlog-proof", "records.jsonl"),
    *("tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"),
]


@given(st.sampled_from(FILES), st.binary(max_size=99) | st.text().map(str.encode))
@settings(deadline=None, max_examples=60)
def test_any_bytes_in_place_of_a_file_are_an_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes
) -> None:
    """Nothing fails in another way."""
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        log = Log.make(folder / "log", [record(seq) for seq in range(1, SIZE + 1)])
        log.export(folder / "export", FIRST, LAST)
    path = folder / "export" / name
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        assert not holds(folder / "export")
    finally:
        path.write_bytes(whole)
    assert holds(folder / "export")
