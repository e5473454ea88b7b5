"""An implementation by others reads what we write, and the other way round.

`aics-tlog` shares no code with us. It needs Python 3.12, so it runs as a program of its own.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evidence.kit import NOTARY, NOW, ORIGIN, WRITER, Log, record
from tidegate_evidence import tree
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Verifier

pytestmark = pytest.mark.long

SIZE = 700
SIZES = [*range(1, 40), 127, 128, 129, 255, 256, 257, 511, 512, 513, SIZE]
COMMAND = ["uv", "run", "-q", "--no-project", "--python", ">=3.12", "--with", "aics-tlog==0.2.1"]
ORACLE = """
import json, sys
import aics_tlog as their
given = json.load(sys.stdin)
records = [bytes.fromhex(one) for one in given["records"]]
tree, reader = their.MerkleTree(records), their.FileSystemTileReader(given["folder"])
root, size = tree.root, len(records)
tuples = lambda proof: [bytes.fromhex(one) for one in proof]
note = their.parse_note(given["note"])
log, notary = their.parse_vkey(given["log"]), their.parse_vkey(given["notary"])
found = their.verify_checkpoint(note, log, [notary], 1, expected_origin=given["origin"])
key = their.note.Ed25519PrivateKey.generate()
theirs = their.Checkpoint("their/0", size, root(size))
signed = their.sign_checkpoint(theirs, key, "their/0")
print(json.dumps({
    "checkpoint": [found.ok, found.size, found.root.hex(), found.timestamps],
    "inclusion": all(
        their.verify_leaf_inclusion(records[index], index, size, tuples(proof), root(size))
        for index, size, proof in given["inclusion"]
    ),
    "consistency": all(
        their.verify_consistency(old, new, root(old), root(new), tuples(proof))
        for old, new, proof in given["consistency"]
    ),
    "proofs": [
        [one.hex() for one in tree.inclusion_proof(index, size)]
        for index, size, _ in given["inclusion"]
    ],
    "growth": [
        [one.hex() for one in tree.consistency_proof(old, new)]
        for old, new, _ in given["consistency"]
    ],
    "tiles": their.tree_root_from_tiles(reader, size).hex(),
    "from_tiles": [one.hex() for one in their.inclusion_proof_from_tiles(reader, 300, size)],
    "audited": their.audit_tiles(reader, size, root(size), entries=False).tiles,
    "note": signed.serialise(),
    "key": their.format_vkey(their.vkey_from_ed25519("their/0", key.public_key())),
}))
"""


def test_others_accept_what_we_write(tmp_path: Path) -> None:
    """Checkpoint, cosignature, tiles, inclusion and consistency: the same, bit by bit."""
    probe = subprocess.run(
        [*COMMAND, "python", "-c", "import aics_tlog"], capture_output=True, text=True
    )
    if probe.returncode:
        pytest.skip(f"aics-tlog on Python 3.12 is not to be had: {probe.stderr.strip()[-200:]}")
    log = Log.make(tmp_path, [record(seq) for seq in range(1, SIZE + 1)])
    node = log.tiles().node
    members = [(index, size) for size in SIZES for index in {0, size // 3, size // 2, size - 1}]
    pairs = [(old, new) for new in SIZES for old in SIZES if 0 < old <= new]
    inclusion = [[*one, hexes(tree.inclusion(*one, node))] for one in members]
    consistency = [[*one, hexes(tree.consistency(*one, node))] for one in pairs]
    found = ask(
        records=[one.hex() for one in log.records],
        folder=str(tmp_path),
        origin=ORIGIN,
        note=log.note().encode().decode(),
        log=str(WRITER.verifier),
        notary=str(NOTARY.verifier),
        inclusion=inclusion,
        consistency=consistency,
    )
    root = log.checkpoint().root.hex()
    assert found["checkpoint"] == [True, SIZE, root, {NOTARY.name: NOW}]
    assert (found["inclusion"], found["consistency"]) == (True, True)
    assert found["proofs"] == [proof for _, _, proof in inclusion]
    assert found["growth"] == [proof for _, _, proof in consistency]
    assert (found["tiles"], found["audited"]) == (root, 4)
    assert found["from_tiles"] == hexes(tree.inclusion(300, SIZE, node))
    theirs = Note.parse(found["note"].encode())
    assert Verifier.parse(found["key"]).check(theirs) == 0
    assert Checkpoint.parse(theirs.text) == Checkpoint("their/0", SIZE, bytes.fromhex(root))


def hexes(hashes: list[bytes]) -> list[str]:
    """For JSON."""
    return [one.hex() for one in hashes]


def ask(**given: object) -> Any:
    """What the others make of it."""
    done = subprocess.run(
        [*COMMAND, "python", "-c", ORACLE],
        input=json.dumps(given),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
