"""Keys of data subjects on the disk."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tidegate_policy.personal.privacy import LegalHold, Privacy
from tidegate_policy.personal.vault import Vault
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidInput, Unopened
from tidegate_schemas.personal import key_id, seal, unseal

JANUARY, FEBRUARY = "2026-01", "2026-02"


def keys_in(path: Path) -> dict[tuple[str, str], bytes]:
    """All keys, read past the vault."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT pseudonym, month, key FROM keys").fetchall()
    connection.close()
    return {(pseudonym, month): key for pseudonym, month, key in rows}


def bytes_of(folder: Path) -> bytes:
    """Every byte in every file of a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def pseudonym_of(ids: str) -> str:
    """Of the first key id."""
    found = key_id(ids.split(",")[0])
    assert found
    return found.pseudonym


def test_a_message_is_opened_with_the_key_that_it_was_sealed_with(tmp_path: Path) -> None:
    """Also after the vault was closed; every message has a key of its own."""
    with Vault.open(tmp_path / "vault.db") as vault:
        one, two = (vault.seal(["ann", "bob"], JANUARY) for _ in range(2))
    envelope = Envelope.new("t", {"a": 1}, id="1", dataclassification="personal")
    closed = seal(envelope, "a.b", one.keyids, salt=one.salt, key=one.key, nonce=b"n" * 12)

    with Vault.open(tmp_path / "vault.db") as vault:
        key = vault.key(closed)
    assert key
    assert key == one.key
    assert key != two.key
    assert one.keyids == two.keyids
    assert unseal(closed, "a.b", key).payload() == {"a": 1}


def test_the_file_is_for_its_owner_only_and_names_stay_in_it(tmp_path: Path) -> None:
    """Key ids say nothing of the name."""
    path = tmp_path / "vault.db"
    with Vault.open(path) as vault:
        found = vault.seal(["customer-42"], JANUARY)
        assert vault.find("customer-42") == pseudonym_of(found.keyids)
        assert vault.find("customer-43") is None
    assert path.stat().st_mode & 0o777 == 0o600
    assert "customer" not in found.keyids
    assert b"customer-42" in path.read_bytes()


def test_key_ids_of_an_earlier_message_stand_for_whom_it_was_about(tmp_path: Path) -> None:
    """Whoever works on with the data seals under the same data subject, without its name."""
    with Vault.open(tmp_path / "vault.db") as vault:
        before = vault.seal(["ann"], JANUARY).keyids
        after = vault.seal([before], FEBRUARY).keyids
        assert pseudonym_of(before) == pseudonym_of(after)
        assert after.endswith(FEBRUARY)
        vault.destroy(Privacy({pseudonym_of(before)}))
        with pytest.raises(Unopened, match="erased"):
            vault.seal([before], FEBRUARY)


def test_of_what_was_erased_no_byte_is_left(tmp_path: Path) -> None:
    """Neither keys nor names, in the file or beside it, whatever the pages went through."""
    path, dice = tmp_path / "vault.db", random.Random(1)
    names = [f"customer-{n:04}@tidegate.invalid" for n in range(300)]
    with Vault.open(path) as vault:
        ids = {n: vault.seal([n], month).keyids for month in (JANUARY, FEBRUARY) for n in names}
        before = keys_in(path)
        gone = set(dice.sample(names, 150))
        for name in gone:
            assert vault.destroy(Privacy({pseudonym_of(ids[name])})) == 2
        left = bytes_of(tmp_path)
        for name in names:
            assert (name.encode() in left) == (name not in gone)
        lost = {pseudonym_of(ids[name]) for name in gone}
        for (pseudonym, _), key in before.items():
            assert (key in left) == (pseudonym not in lost)
        assert vault.destroy(Privacy(lost)) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["vault.db"]


def test_a_month_ends_for_all_but_those_who_are_held(tmp_path: Path) -> None:
    """A hold keeps the months that were there when it began, and its end lets them go."""
    path = tmp_path / "vault.db"
    with Vault.open(path) as vault:
        ids = {n: vault.seal([n], JANUARY).keyids for n in ("ann", "bob")}
        vault.seal(["bob"], FEBRUARY)
        ann, bob = pseudonym_of(ids["ann"]), pseudonym_of(ids["bob"])
        assert vault.oldest() == JANUARY
        held = Privacy(holds={ann: LegalHold("ops.ann", 0, "")}, before=FEBRUARY)
        assert vault.destroy(held) == 1
        assert set(keys_in(path)) == {(ann, JANUARY), (bob, FEBRUARY)}
        assert vault.destroy(Privacy(before=FEBRUARY)) == 1
        assert set(keys_in(path)) == {(bob, FEBRUARY)}
        assert vault.find("ann") is None
        assert vault.find("bob") == bob


def test_what_is_no_vault_is_told(tmp_path: Path) -> None:
    """With the name of the file."""
    path = tmp_path / "vault.db"
    assert Vault.read(path) is None
    path.write_bytes(b"something else entirely" * 100)
    for way in (Vault.open, Vault.read):
        with pytest.raises(InvalidInput, match=r"vault\.db: no vault"):
            way(path)


def test_whoever_reads_it_writes_nothing(tmp_path: Path) -> None:
    """Neither a change nor a file beside it, while the gateway goes on."""
    path = tmp_path / "vault.db"
    with Vault.open(path) as vault:
        vault.seal(["ann"], JANUARY)
        with Vault.read(path) or pytest.fail("it is there") as reader:
            assert reader.find("ann")
            vault.seal(["bob"], JANUARY)
            assert reader.find("bob")
            with pytest.raises(Exception, match="readonly"):
                reader.seal(["cy"], JANUARY)


def test_killed_while_it_destroys_it_is_as_before_or_done(tmp_path: Path) -> None:
    """And what a crash left beside the file is gone with the next start that does it again."""
    code = """
        import sys
        from pathlib import Path
        from tidegate_policy.personal.privacy import Privacy
        from tidegate_policy.personal.vault import Vault
        with Vault.open(Path(sys.argv[1])) as vault:
            print("x", flush=True)
            vault.destroy(Privacy(set(sys.argv[2].split(","))))
            print("y", flush=True)
    """
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        with Vault.open(folder / "vault.db") as vault:
            ids = [vault.seal([f"n{n}"], JANUARY).keyids for n in range(200)]
        keys = keys_in(folder / "vault.db").values()
        gone = ",".join(map(pseudonym_of, ids))
        arguments = [sys.executable, "-c", textwrap.dedent(code), str(folder / "vault.db"), gone]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
            assert child.stdout
            child.stdout.readline()
            os.kill(child.pid, signal.SIGKILL)
        with Vault.open(folder / "vault.db") as vault:
            vault.destroy(Privacy(set(gone.split(","))))
        left = bytes_of(folder)
        assert not any(key in left for key in keys)
