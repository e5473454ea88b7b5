"""Tokens that keys sign about keys."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_bus.identity import jwt
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.jwt import Account, Activation, Key, Operator, User, decode, encode
from tidegate_schemas.errors import InvalidInput

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND
SEEDS = {kind: kind.new_seed() for kind in Key}
PUBLIC = {kind: kind.public(seed) for kind, seed in SEEDS.items()}
OTHER = Key.ACCOUNT.public(Key.ACCOUNT.new_seed())

subject = st.from_regex(r"[a-z$_{}()]{1,8}(\.[a-z*]{1,5}){0,3}(\.>)?", fullmatch=True)
subjects_ = st.lists(subject, max_size=3).map(tuple)
number = st.integers(-1, 2**53)
permission = st.builds(jwt.Permission, allow=subjects_, deny=subjects_)
account = st.builds(
    Account,
    imports=st.lists(
        st.builds(
            jwt.Import,
            subject=subject,
            type=st.sampled_from(["stream", "service"]),
            account=st.just(OTHER),
            allow_trace=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
    exports=st.lists(
        st.builds(
            jwt.Export,
            subject=subject,
            type=st.sampled_from(["stream", "service"]),
            token_req=st.booleans(),
            response_type=st.sampled_from(["", "Singleton", "Stream", "Chunked"]),
            response_threshold=number,
        ),
        max_size=2,
    ).map(tuple),
    limits=st.builds(jwt.Limits, subs=number, conn=number, disk_storage=number),
    signing_keys=st.lists(
        st.one_of(
            st.just(OTHER),
            st.builds(
                jwt.Scope,
                key=st.just(OTHER),
                role=st.text(max_size=5),
                template=st.builds(jwt.Template, pub=permission, sub=permission, subs=number),
            ),
        ),
        max_size=2,
    ).map(tuple),
    revocations=st.dictionaries(st.just(PUBLIC[Key.USER]), number),
)
user = st.builds(
    User, issuer_account=st.just(OTHER), tags=subjects_, pub=permission, sub=permission, subs=number
)
activation = st.builds(Activation, subject=subject, kind=st.sampled_from(["stream", "service"]))
operator = st.builds(
    Operator, signing_keys=st.just((PUBLIC[Key.OPERATOR],)), strict_signing_key_usage=st.booleans()
)
SIGNED = {
    Operator: (Key.OPERATOR, Key.OPERATOR),
    Account: (Key.OPERATOR, Key.ACCOUNT),
    Activation: (Key.ACCOUNT, Key.ACCOUNT),
    User: (Key.ACCOUNT, Key.USER),
}


def signed(
    body: Operator | Account | Activation | User, *, name: str = "", expires: int | None = None
) -> str:
    """A token by and about the right kinds of keys."""
    by, about = SIGNED[type(body)]
    return encode(body, subject=PUBLIC[about], seed=SEEDS[by], now=NOW, name=name, expires=expires)


def parts(token: str) -> tuple[str, dict[str, object]]:
    """Header and claims, unverified."""
    header, payload, _ = token.split(".")
    return header, json.loads(base64.urlsafe_b64decode(payload + "=="))


@given(st.one_of(operator, account, activation, user), st.text(), st.none() | st.integers(1, 2**40))
def test_what_is_signed_is_what_is_read(
    body: Operator | Account | Activation | User, name: str, seconds: int | None
) -> None:
    """Every kind of claims, with its keys and times, comes back as it was."""
    expires = None if seconds is None else NOW + seconds * SECOND
    claims = decode(signed(body, name=name, expires=expires), type(body))
    by, about = SIGNED[type(body)]

    assert claims.nats == body
    assert (claims.iss, claims.sub, claims.name) == (PUBLIC[by], PUBLIC[about], name)
    assert claims.iat * SECOND == NOW
    assert claims.exp * SECOND == (expires or 0)


@given(st.data())
def test_any_changed_character_is_refused(data: st.DataObject) -> None:
    """Also in the last one of a part, where base64 has bits that mean nothing."""
    token = signed(User(tags=("team:a",)))
    ends = [i - 1 for i, character in enumerate(f"{token}.") if character == "."]
    place = data.draw(st.sampled_from(ends) | st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[place]))

    with pytest.raises(InvalidInput):
        decode(token[:place] + other + token[place + 1 :], User)


@pytest.mark.parametrize(
    "token", ["", ".", "..", "...", "a.b.c", "é.é.é", "a" * (jwt.MAX_BYTES + 1), "\ud800.\ud800.x"]
)
def test_what_is_no_token_is_invalid_input(token: str) -> None:
    """No error of a decoder comes out."""
    with pytest.raises(InvalidInput):
        decode(token, User)


def test_the_header_says_how_it_is_signed() -> None:
    """As ADR-14 has it; a token with another is refused before anything in it is believed."""
    header, claims = parts(signed(User()))

    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {
        "typ": "JWT",
        "alg": "ed25519-nkey",
    }
    assert claims["nats"] == {"type": "user", "version": 2}


def test_two_accounts_of_one_second_have_two_ids() -> None:
    """The broker takes tokens with one id for the same and would keep the first."""
    ids = {
        str(parts(signed(Account(revocations=revoked)))[1]["jti"])
        for revoked in ({}, {PUBLIC[Key.USER]: 1}, {PUBLIC[Key.USER]: 2})
    }

    assert len(ids) == 3
    assert all(len(base64.b32decode(id_ + "====")) == 32 for id_ in ids)


def test_a_token_of_another_kind_is_refused() -> None:
    """A user's token is not the leave to import something."""
    with pytest.raises(InvalidInput, match="of kind activation"):
        decode(signed(User()), Activation)


@pytest.mark.parametrize("kind", [Key.OPERATOR, Key.USER])
def test_only_an_account_signs_users(kind: Key) -> None:
    """Not the operator, and not the user."""
    with pytest.raises(InvalidInput, match="public key of kind account"):
        encode(User(), subject=PUBLIC[Key.USER], seed=SEEDS[kind], now=NOW)


@pytest.mark.parametrize("about", ["", "*", "U", PUBLIC[Key.ACCOUNT], SEEDS[Key.USER]])
def test_a_user_is_a_public_key_of_a_user(about: str) -> None:
    """Not a name, not a key of an account, and not a seed."""
    with pytest.raises(InvalidInput, match="no public key of kind user"):
        encode(User(), subject=about, seed=SEEDS[Key.ACCOUNT], now=NOW)


def test_a_token_ends_when_it_says() -> None:
    """Times are cut to the second, and the end is not part of it."""
    token = signed(User(), name="team.agent", expires=NOW + 5 * SECOND + 1)
    assert decode(token, User, now=NOW + 5 * SECOND - 1).exp == (NOW + 5 * SECOND) // SECOND

    with pytest.raises(InvalidInput, match=r"team\.agent has expired"):
        decode(token, User, now=NOW + 5 * SECOND)


@pytest.mark.parametrize("expires", [0, NOW, NOW + SECOND - 1])
def test_a_token_that_ends_before_it_begins_is_not_signed(expires: int) -> None:
    """Zero would mean for ever to the broker."""
    with pytest.raises(InvalidInput, match="ends after it was issued"):
        signed(User(), expires=expires)


def test_what_the_broker_would_not_read_is_not_signed() -> None:
    """A list of revocations has an end."""
    keys = {f"{number:056}": 1 for number in range(15_000)}
    with pytest.raises(InvalidInput, match="the broker reads"):
        signed(Account(revocations=keys))


def test_credentials_are_read_as_they_were_written() -> None:
    """Token and seed; their representation does not show the seed."""
    found = Credentials(SEEDS[Key.USER], signed(User()))

    assert Credentials.parse(jwt.credentials_text(found)) == found
    assert Credentials.parse(jwt.credentials_text(found).replace("\n", "\r\n")) == found
    assert found.seed not in repr(found)
