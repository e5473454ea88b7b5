"""Nkeys in files that only their owner may read."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import nkeys
import pytest

from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import Keyring, write_secret
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


def _files(keyring: Keyring) -> set[str]:
    return {path.name for path in keyring.path(WHO).parent.iterdir()}


def test_a_proposed_seed_is_not_in_use_until_it_is_adopted(keyring: Keyring) -> None:
    """The old one stays good meanwhile; then the new one is the only one, and nothing is left."""
    old = keyring.ensure(WHO)
    new = keyring.propose(WHO)
    assert public_key(keyring.seed(WHO)) == keyring.ensure(WHO) == old
    assert _files(keyring) == {"team.agent.nk", "team.agent.next"}
    keyring.adopt(WHO, new)

    assert public_key(keyring.seed(WHO)) == keyring.ensure(WHO) == new != old
    assert _files(keyring) == {"team.agent.nk"}
    keyring.adopt(WHO, new)
    assert keyring.ensure(WHO) == new


def test_a_proposed_seed_of_another_key_is_not_adopted(keyring: Keyring) -> None:
    """Whoever interrupted that rotation did not write it down; it can be withdrawn."""
    old = keyring.ensure(WHO)
    new = keyring.propose(WHO)
    keyring.adopt(WHO, old)
    assert _files(keyring) == {"team.agent.nk", "team.agent.next"}
    keyring.withdraw(WHO)
    keyring.withdraw(WHO)
    keyring.adopt(WHO, new)

    assert keyring.ensure(WHO) == old
    assert _files(keyring) == {"team.agent.nk"}


def test_who_has_no_seed_yet_may_be_given_a_proposed_one(keyring: Keyring) -> None:
    """As whoever is added is; the folder is made for it, for its owner only."""
    assert keyring.find_seed(WHO) is None
    key = keyring.propose(WHO)
    path = keyring.path(WHO)
    assert stat.S_IMODE(path.with_suffix(".next").stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    keyring.adopt(WHO, key)

    assert keyring.find_seed(WHO) == keyring.seed(WHO)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_last_proposal_counts(keyring: Keyring) -> None:
    """An earlier one is gone with its seed."""
    first, second = keyring.propose(WHO), keyring.propose(WHO)
    keyring.adopt(WHO, first)
    assert keyring.find_seed(WHO) is None
    keyring.adopt(WHO, second)
    assert keyring.ensure(WHO) == second


def test_nothing_is_left_of_who_is_forgotten(keyring: Keyring) -> None:
    """Neither seed nor proposal nor token, and others keep theirs; forgetting twice is harmless."""
    other = Principal("team", "agent-2")
    kept = keyring.ensure(other)
    keyring.ensure(WHO)
    keyring.propose(WHO)
    for path in (keyring.creds_path(WHO), keyring.token_path(WHO)):
        path.write_text("token")
    keyring.forget(WHO)
    keyring.forget(WHO)

    assert _files(keyring) == {"team.agent-2.nk"}
    assert keyring.ensure(other) == kept


def test_credentials_go_before_the_seed(keyring: Keyring) -> None:
    """Where there are some: the broker of operator mode does not take the seed alone."""
    keyring.ensure(WHO)
    write_secret(keyring.creds_path(WHO), "token", replace=False)

    assert keyring.path(WHO) == keyring.creds_path(WHO)
    assert keyring.find_seed(WHO) is not None


def test_a_secret_is_there_whole_or_not_at_all(keyring: Keyring) -> None:
    """One that is not to be replaced stays, and neither leaves parts behind."""
    path = keyring.creds_path(WHO)
    write_secret(path, "first\n\n", replace=False)
    with pytest.raises(FileExistsError):
        write_secret(path, "second", replace=False)
    assert path.read_text() == "first\n"
    with pytest.raises(UnicodeEncodeError):
        write_secret(path, "sécond", replace=True)
    assert path.read_text() == "first\n"
    path.chmod(0o644)
    write_secret(path, "third", replace=True)

    assert path.read_text() == "third\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert _files(keyring) == {"team.agent.creds"}
