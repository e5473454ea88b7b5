"""Nkeys in files that only their owner may read."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import nkeys
import pytest

from tidegate_bus.credentials import public_key
from tidegate_bus.keyring import Keyring
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.subjects import Principal

WHO = Principal("team", "agent")


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """A keyring whose folder is not there yet."""
    return Keyring(tmp_path / "state" / "keys")


def test_a_seed_is_made_once_and_kept(keyring: Keyring) -> None:
    """The public key of a principal never changes by itself, and it is that of the seed."""
    first = keyring.ensure(WHO)

    assert keyring.ensure(WHO) == first
    assert public_key(keyring.seed(WHO)) == first
    assert first.startswith("U")


def test_two_principals_have_two_keys(keyring: Keyring) -> None:
    """Seeds are random, and in a file each."""
    assert keyring.ensure(WHO) != keyring.ensure(Principal("team", "other"))


def test_only_the_owner_may_read_a_seed(keyring: Keyring) -> None:
    """File 0600, folder 0700, and nothing else is left in it."""
    keyring.ensure(WHO)
    path = keyring.path(WHO)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_ensure_at_once_agree_on_the_key(keyring: Keyring) -> None:
    """The first seed stays: nobody is told a key whose seed another one replaces."""
    found: list[str] = []
    barrier = threading.Barrier(8)

    def ensure() -> None:
        barrier.wait()
        found.append(keyring.ensure(WHO))

    threads = [threading.Thread(target=ensure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [public_key(keyring.seed(WHO))] * 8


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_seed_that_others_may_read_is_refused(keyring: Keyring, mode: int) -> None:
    """The error says how to mend it."""
    keyring.ensure(WHO)
    path = keyring.path(WHO)
    path.chmod(mode)

    with pytest.raises(InvalidInput, match=f"chmod 600 {path}"):
        keyring.seed(WHO)


def test_a_missing_seed_is_said_with_its_path(keyring: Keyring) -> None:
    """InvalidInput names the file."""
    with pytest.raises(InvalidInput, match=r"team\.agent\.nk: no key: No such file"):
        keyring.seed(WHO)


@pytest.mark.parametrize("content", [b"", b"SUA\n", b"\xff\xfe", b"S" * 58, "sé".encode()])
def test_what_is_no_seed_is_invalid_input(keyring: Keyring, content: bytes) -> None:
    """Damaged files end in our own error, whatever they hold."""
    keyring.ensure(WHO)
    keyring.path(WHO).write_bytes(content)

    with pytest.raises(InvalidInput):
        keyring.ensure(WHO)


def test_the_seed_of_an_account_is_refused() -> None:
    """Only a user may connect; a seed of another kind is a mistake, and said."""
    seed = nkeys.encode_seed(b"\0" * 32, nkeys.PREFIX_BYTE_ACCOUNT).decode()

    with pytest.raises(InvalidInput, match="not of a user"):
        public_key(seed)
