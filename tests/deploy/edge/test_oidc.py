"""Bearer tokens of an OpenID provider: what is taken, what is refused, and how keys are had."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jwt
import pytest

from support import until
from tidegate.edge.callers import Callers
from tidegate.edge.oidc import Oidc
from tidegate_schemas.edge import OidcSettings
from tidegate_schemas.errors import NotAdmitted, Unauthenticated, Unavailable

from .kit import WEB, Provider, made

PRINCIPALS = {"ada": "outside.web"}


@pytest.fixture
def provider() -> Generator[Provider]:
    """A provider that runs."""
    made = Provider()
    yield made
    made.close()


def oidc(provider: Provider, root: Path = Path(), **fields: Any) -> Oidc:
    """What believes it."""
    values: dict[str, Any] = {
        "issuer": provider.url,
        "audience": "tidegate",
        "jwks": provider.url,
        "principals": PRINCIPALS,
    }
    return Oidc(OidcSettings(**(values | fields)), root, lambda: CLOCK[0])


CLOCK = [1000.0]
"""Seconds that never go back."""


async def ground(own: Oidc, token: str) -> str:
    """Why a token is refused; empty if it is not."""
    try:
        await own.subject(token, time.time())
    except Unauthenticated as error:
        return error.reason
    return ""


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "EdDSA"])
async def test_a_token_of_the_provider_is_somebody(provider: Provider, algorithm: str) -> None:
    """Whichever asymmetric algorithm it signs with; the keys are asked for once."""
    if algorithm == "EdDSA":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        provider.keys["two"] = algorithm, Ed25519PrivateKey.generate()
    else:
        provider.add("two", algorithm)
    own = oidc(provider)
    for _ in range(3):
        assert await own.subject(provider.token("two"), time.time()) == "ada"
    assert provider.asked == 1


async def test_it_is_mapped_to_a_principal_by_the_settings(
    provider: Provider, tmp_path: Path
) -> None:
    """By the claim that they name; the keys may stand in a file of the project."""
    (tmp_path / "keys.json").write_bytes(provider.jwks())
    project = made(
        tmp_path,
        f"edge: {{oidc: {{issuer: '{provider.url}', audience: tidegate, jwks: keys.json, "
        "claim: email, principals: {a@example.com: outside.web}}}",
    )
    callers = Callers(project)
    found = await callers.of(f"Bearer {provider.token(email='a@example.com')}", None)

    assert (found.principal, found.via) == (WEB, "oidc a@example.com")
    assert provider.asked == 0
    with pytest.raises(NotAdmitted, match=r"'b@example.com' of the OpenID provider stands for"):
        await callers.of(f"Bearer {provider.token(email='b@example.com')}", None)
    with pytest.raises(Unauthenticated, match="no text as `email`"):
        await callers.of(f"Bearer {provider.token()}", None)
    await callers.close()


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "other issuer": ({"iss": "https://evil.example"}, "token"),
    "no issuer": ({"iss": None}, "token"),
    "other audience": ({"aud": "others"}, "token"),
    "no audience": ({"aud": None}, "token"),
    "among others": ({"aud": ["others", "tidegate"]}, ""),
    "expired": ({"exp": -60.0}, "expired"),
    "a little over": ({"exp": -5.0}, ""),
    "no end": ({"exp": None}, "token"),
    "end is text": ({"exp": "9999999999"}, "token"),
    "end is true": ({"exp": True}, "token"),
    "never ends": ({"exp": 10**400}, "token"),
    "too early": ({"nbf": 60.0}, "expired"),
    "nobody": ({"sub": None}, "claim"),
    "a number": ({"sub": 5, "role": 1}, "token"),
}


@pytest.mark.parametrize("case", CLAIMS)
async def test_its_claims_are_checked(provider: Provider, case: str) -> None:
    """Issuer, audience, and both times with half a minute to spare. A float is seconds from now."""
    given, said = CLAIMS[case]
    claims: dict[str, Any] = dict(given)
    for name in ("exp", "nbf"):
        if isinstance(given.get(name), float):
            claims[name] = time.time() + given[name]
    try:
        token = provider.token(**claims)
    except TypeError:  # the library makes no such token
        token = ""
        said = "token"
    assert await ground(oidc(provider), token) == said


async def test_nobody_else_can_make_one(provider: Provider) -> None:
    """Not without a key, nor with the public one as a secret, nor with a key of one's own."""
    from cryptography.hazmat.primitives import serialization

    own, public = oidc(provider), provider.keys["one"][1].public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    other = Provider()
    other.url, mine = provider.url, other.token()
    other.close()
    token = provider.token()
    head, body, signature = token.split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","kid":"one"}').decode().rstrip("=")
    symmetric = jwt.encode({"sub": "ada"}, bytes(32), "HS256", {"kid": "one"}).split(".")[0]
    digest = hmac.digest(pem, f"{symmetric}.{body}".encode(), "sha256")
    forged = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert await ground(own, f"{symmetric}.{body}.{forged}") == "algorithm"
    assert await ground(own, f"{unsigned}.{body}.") == "algorithm"
    assert await ground(own, mine) == "token"
    assert await ground(own, f"{head}.{body}.{signature[:-4]}AAAA") == "token"
    assert await ground(own, f"{head}.{mine.split('.')[1][:-2]}.{signature}") == "token"
    for text in ("", ".", "..", "a.b.c", token + ".x", head, "\udcff", "ey" * 40_000):
        assert await ground(own, text) == "token"


async def test_a_key_that_signs_with_another_algorithm_is_no_key(provider: Provider) -> None:
    """A symmetric one in the set, or one for encryption, is as if it were not there."""
    import json

    document = json.loads(provider.jwks())
    secret = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "two"}
    document["keys"] = [secret, *({**key, "use": "enc"} for key in document["keys"])]
    provider.answer = lambda: (200, json.dumps(document).encode())
    own = oidc(provider)
    with pytest.raises(Unavailable):
        await own.subject(provider.token(), time.time())
    shared = b"secret-secret-secret-secret-secret"
    assert await ground(own, provider.token("two", shared, "HS256")) == "algorithm"


async def test_a_new_key_is_asked_for_once_and_not_again_and_again(provider: Provider) -> None:
    """Tokens with keys that do not exist cost the provider nothing, and those with others too."""
    own = oidc(provider)
    assert not await ground(own, provider.token())
    CLOCK[0] += 11
    provider.add("two", "ES256")
    fresh = [provider.token("two", sub=f"{n}") for n in range(5)]
    assert await asyncio.gather(*(ground(own, token) for token in fresh)) == [""] * 5
    assert provider.asked == 2

    key = provider.keys["one"][1]
    for n in range(5):
        assert await ground(own, provider.token(f"no-{n}", key, "ES256")) == "key"
    assert provider.asked == 2
    CLOCK[0] += 11
    assert await ground(own, provider.token("no", key, "ES256")) == "key"
    assert provider.asked == 3


async def test_keys_that_are_there_serve_while_the_provider_is_away(provider: Provider) -> None:
    """An hour; nobody waits for it. Then nobody is let in until it answers."""
    own, token = oidc(provider), provider.token()
    assert not await ground(own, token)
    provider.answer = lambda: (500, b"")
    CLOCK[0] += 3000
    assert not await ground(own, token)
    CLOCK[0] += 1000
    with pytest.raises(Unavailable, match="keys of the OpenID provider cannot be had"):
        await own.subject(token, time.time())

    provider.answer = lambda: (200, provider.jwks())
    CLOCK[0] += 11
    assert not await ground(own, token)
    await own.keys.close()


async def test_a_key_that_the_provider_took_back_is_no_key(provider: Provider) -> None:
    """After five minutes at most; also for a token that was checked before."""
    own, token = oidc(provider), provider.token()
    assert not await ground(own, token)
    provider.keys.clear()
    provider.add("two", "ES256")
    CLOCK[0] += 301

    async def forgotten() -> bool:
        return await ground(own, token) == "key"

    await until(forgotten)


ANSWERS = {
    "no JSON": (200, b"<html>"),
    "no set": (200, b"[]"),
    "no keys": (200, b'{"keys": []}'),
    "odd keys": (200, b'{"keys": [{}, {"kty": 5}, {"kty": "RSA", "n": 5, "e": null}]}'),
    "deep": (200, b'{"keys": ' + b"[" * 100_000),
    "large": (200, b" " * (1024 * 1024 + 1)),
    "elsewhere": (302, b""),
    "away": (503, b""),
    "no UTF-8": (200, b"\xff"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_is_no_set_of_keys_lets_nobody_in(provider: Provider, case: str) -> None:
    """And is no error of the caller."""
    provider.answer = lambda: ANSWERS[case]
    with pytest.raises(Unavailable):
        await oidc(provider).subject(provider.token(), time.time())
    assert provider.asked == 1


async def test_the_event_loop_goes_on_while_keys_are_asked_for(provider: Provider) -> None:
    """A provider that is slow holds up nobody but those whose keys it has."""
    beats = 0

    def slow() -> tuple[int, bytes]:
        while beats < 5:
            time.sleep(0.001)
        return 200, provider.jwks()

    provider.answer = slow
    waiting = asyncio.create_task(ground(oidc(provider), provider.token()))
    while not waiting.done():
        beats += 1
        await asyncio.sleep(0.001)
    assert await waiting == ""
    assert beats >= 5


HANGS = {
    "headers": b"HTTP/1.1 200 OK\r\nX: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("case", HANGS)
async def test_a_provider_that_never_ends_takes_one_thread_and_nobody_elses(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """A byte now and then, for ever: who waits is told so, and other work has its threads."""
    monkeypatch.setattr("tidegate.edge.oidc._FETCH_SECONDS", 0.1)
    over = threading.Event()

    def drip() -> None:
        while True:
            try:
                link, _ = listening.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                link.sendall(HANGS[case])
                while not over.wait(0.02):
                    link.sendall(b"x" if HANGS[case] else b"")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, daemon=True).start()
        own = oidc(provider, jwks=f"http://127.0.0.1:{listening.getsockname()[1]}/")
        token = provider.token()
        for _ in range(20):
            CLOCK[0] += 11
            with pytest.raises(Unavailable):
                await own.subject(token, time.time())
        threads = [one for one in threading.enumerate() if one.name.startswith(("oidc", "asyncio"))]
        assert len(threads) <= 1
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "others work")
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
    await own.keys.close()
