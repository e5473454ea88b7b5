"""What proves a principal: seeds and `.creds` files; and what is said of those that are none."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, cast

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_bus.identity.credentials import Credentials, check_public_key, public_key
from tidegate_bus.identity.jwt import credentials_text
from tidegate_bus.identity.keyring import new_seed
from tidegate_schemas.errors import InvalidInput

from .test_register import EXAMPLES

SEED = new_seed()
KEY = public_key(SEED)
KINDS = {
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "server": nkeys.PREFIX_BYTE_SERVER,
    "cluster": nkeys.PREFIX_BYTE_CLUSTER,
}


def _pair(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(bytearray(new_seed(prefix).encode()))


def _private_key() -> str:
    pair = cast(Any, _pair(nkeys.PREFIX_BYTE_USER))
    return bytes(pair.private_key).decode()


def test_a_public_key_is_returned(tmp_path: Path) -> None:
    """As it is."""
    assert check_public_key(KEY) == KEY


@EXAMPLES
@given(st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567abc018=. \n\u212a"))
def test_a_public_key_with_one_wrong_character_is_none(place: int, character: str) -> None:
    """The checksum finds every one, and no other spelling of a key is a second key."""
    changed = KEY[:place] + character + KEY[place + 1 :]
    if changed == KEY:
        return
    with pytest.raises(InvalidInput, match="is no public key of a user"):
        check_public_key(changed)


@pytest.mark.parametrize(
    "text", ["", "U", KEY[:-1], f"{KEY}A", f" {KEY}", f"{KEY}\n", f"{KEY}========", KEY.lower()]
)
def test_what_is_not_quite_a_public_key_is_none(text: str) -> None:
    """Nothing is trimmed, filled up or folded."""
    with pytest.raises(InvalidInput, match="is no public key of a user"):
        check_public_key(text)


@pytest.mark.parametrize("kind", KINDS)
def test_public_keys_of_other_kinds_are_none(kind: str) -> None:
    """Only users connect."""
    key = bytes(_pair(KINDS[kind]).public_key).decode()
    with pytest.raises(InvalidInput, match=rf"'{key}' is no public key of a user"):
        check_public_key(key)


SECRETS = {
    "a seed": SEED,
    "in lower case": SEED.lower(),
    "after a space": f" {SEED}",
    "in quotes": f'"{SEED}"',
    "after its name": f"seed={SEED}",
    "in lines": f"\n{SEED}\n",
    "cut": SEED[:-4],
    "credentials": credentials_text(Credentials(SEED, "a.b.c")),
    "of an account": new_seed(nkeys.PREFIX_BYTE_ACCOUNT),
    "of an operator": new_seed(nkeys.PREFIX_BYTE_OPERATOR),
    "a private key": _private_key(),
}


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_given_for_a_public_key_is_not_repeated(what: str) -> None:
    """Not in any part that would help; messages end in logs and in screens that others see."""
    secret = SECRETS[what]
    with pytest.raises(InvalidInput, match="this, which may be private, is no") as raised:
        check_public_key(secret)

    said = str(raised.value).upper()
    words = [word.upper() for word in secret.split()]
    assert not any(word[:12] in said for word in words if len(word) > 40)


def test_credentials_are_shown_by_their_public_key() -> None:
    """In a log, an error or a debugger the seed does not appear."""
    found = Credentials.parse(credentials_text(Credentials(SEED, "a.b.c")))

    assert (found.seed, found.jwt) == (SEED, "a.b.c")
    assert f"{found} {found!r} {[found]}".count(KEY) == 3
    assert SEED not in f"{found} {found!r} {[found]}"


@pytest.mark.parametrize("text", ["", SEED[:-1], SEED + "A", KEY, SEED.lower(), "S" * 58])
def test_what_is_no_seed_is_not_repeated(text: str) -> None:
    """It may have been one."""
    with pytest.raises(InvalidInput, match="not an nkey seed") as raised:
        Credentials.parse(text)

    assert not text or text not in str(raised.value)


def test_half_a_credentials_file_is_none() -> None:
    """The seed alone would be taken for the key of another mode, the JWT alone proves nothing."""
    text = credentials_text(Credentials(SEED, "a.b.c"))
    seed = text[text.index("-----BEGIN USER NKEY SEED") :]
    for half in (seed, text.replace(seed, "")):
        with pytest.raises(InvalidInput, match="both a user JWT and a seed"):
            Credentials.parse(half)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """With the command that mends it."""
    path = tmp_path / "key.nk"
    path.write_text(SEED)
    path.chmod(0o644)

    with pytest.raises(InvalidInput, match=f"chmod 600 {path}"):
        Credentials.of(path)
    path.chmod(0o600)
    assert Credentials.of(path).public_key == KEY


def test_a_signature_is_of_the_key() -> None:
    """Base64 of what the public key verifies."""
    nonce = "challenge"
    signature = base64.b64decode(Credentials(SEED).sign(nonce))

    pair = nkeys.from_seed(bytearray(SEED.encode()))
    assert pair.verify(nonce.encode(), signature)
