"""Who forges, replays or repeats: tokens of a provider and signed webhooks, at an edge that runs.

Whatever is tried is refused by name, nothing of it is in the ledger, and nothing is a fault.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support import until

from .hooked import GITHUB, SLACK, STRIPE, Answer, Edge, event, github, hooked, slack

EVENT = b'{"specversion": "1.0", "id": "attack", "source": "x", "type": "a.b"}'
PUSH = b'{"ref": "refs/heads/main", "repository": {"full_name": "octo-org/tide"}}'
HOOK = "/v1/webhooks/github"
OWN = ec.generate_private_key(ec.SECP256R1())
"""A key of the attacker."""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Edge]:
    """An edge that runs; its provider signs with keys of two kinds."""
    with hooked(tmp_path_factory.mktemp("edge"), pytestconfig) as running:
        running.provider.add("two", "RS256")
        yield running


def part(value: Any) -> str:
    """A part of a JWT."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def forged(header: dict[str, Any], claims: str, signature: bytes = b"") -> str:
    """A token with a head of one's own."""
    return f"{part(header)}.{claims}.{part(signature)}"


def tokens(edge: Edge) -> dict[str, str]:
    """What is tried, by name: none of it is a token of the provider for us and for now."""
    provider, now = edge.provider, int(time.time())
    good = provider.token()
    head, claims, signature = good.split(".")
    public = provider.keys["two"][1].public_key()
    shown = {
        "PEM": public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "DER": public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "PKCS 1": public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
    }
    found: dict[str, str] = {}
    for name in ("none", "None", "nOnE", "", "HS256", "RS256", "ES512", "dir"):
        found[f"alg {name}"] = forged({"alg": name, "kid": "one"}, claims)
    for name, secret in shown.items():
        start = f"{part({'alg': 'HS256', 'kid': 'two', 'typ': 'JWT'})}.{claims}"
        signed = hmac.digest(secret, start.encode(), "sha256")
        found[f"HS256 with the public key as {name}"] = f"{start}.{part(signed)}"
    own: dict[str, Any] = jwt.get_algorithm_by_name("ES256").to_jwk(OWN.public_key(), as_dict=True)
    said = {"iss": provider.url, "aud": "tidegate", "sub": "ada", "exp": now + 300}
    heads: dict[str, dict[str, Any]] = {
        "kid of a file": {"kid": "../../../../dev/null"},
        "kid of an address": {"kid": f"{provider.url}/mine"},
        "kid of a query": {"kid": "one' OR '1'='1"},
        "kid of another kind": {"kid": "two"},
        "no kid": {},
        "empty kid": {"kid": ""},
        "own key inside": {"kid": "one", "jwk": own},
        "own key elsewhere": {"kid": "one", "jku": f"{provider.url}/mine"},
        "own certificate": {"kid": "one", "x5u": f"{provider.url}/mine", "x5c": ["AAAA"]},
        "critical": {"kid": "one", "crit": ["exp"]},
        "body apart": {"kid": "one", "crit": ["b64"], "b64": False},
    }
    for name, more in heads.items():
        found[name] = jwt.encode(said, OWN, "ES256", headers=more)
    for name, kid in {"list": ["one"], "number": 1, "map": {"one": 1}}.items():
        found[f"kid as {name}"] = forged({"alg": "ES256", "kid": kid}, claims, bytes(64))
    for name, value in {"zeros": bytes(64), "ones": b"\xff" * 64, "short": b"\x01"}.items():
        found[f"signature of {name}"] = forged({"alg": "ES256", "kid": "one"}, claims, value)
    wrong: dict[str, dict[str, Any]] = {
        "expired": {"exp": now - 31},
        "not yet": {"nbf": now + 60},
        "for others": {"aud": "others"},
        "for nobody": {"aud": []},
        "of others": {"iss": "https://evil.example"},
        "of something like it": {"iss": f"{provider.url}/"},
        "without an end": {"exp": None},
        "with an end without end": {"exp": 10**400},
    }
    for name, more in wrong.items():
        found[name] = provider.token(**more)
    found |= {
        "encrypted": f"{head}.a.b.c.d",
        "cut": f"{head}.{claims}.",
        "longer": f"{good}.{signature}",
        "padded": f"{good}==",
        "with a comma": f"{good}, Bearer {good}",
        "as JSON": part({"payload": claims, "signatures": [{"protected": head}]}),
        "much": "ey" + "A" * 30_000 + f".{claims}.{signature}",
        "deep": f"{part(b'[' * 10_000)}.{claims}.{signature}",
    }
    return found


def test_no_forged_token_lets_anybody_in(edge: Edge) -> None:
    """401 each time, with a problem document; before and after them the real ones are taken."""
    real = [event(edge, {"Authorization": f"Bearer {edge.provider.token(n)}"}) for n in ("one",)]
    before, link = len(edge.records()), edge.connection()
    kind = {"Content-Type": "application/cloudevents+json"}
    said: dict[str, tuple[int, str]] = {}
    for name, token in tokens(edge).items():
        headers = kind | {"Authorization": f"Bearer {token}"}
        answer = edge.post("/v1/events", headers, EVENT, link)
        said[name] = answer.status, answer.json.get("type", "").rpartition(":")[2]
    link.close()

    assert [answer.status for answer in real] == [200]
    assert said == dict.fromkeys(said, (401, "unauthenticated"))
    assert len(said) > 40
    assert len(edge.records()) == before
    assert event(edge, {"Authorization": f"Bearer {edge.provider.token()}"}).status == 200


@pytest.mark.long
def test_a_key_that_the_provider_adds_is_known_soon(edge: Edge) -> None:
    """Within ten seconds, also where others ask for keys that there are not."""
    edge.provider.add("three", "PS256")

    def taken() -> bool:
        event(edge, {"Authorization": f"Bearer {edge.provider.token('no', OWN, 'ES256')}"})
        return (
            event(edge, {"Authorization": f"Bearer {edge.provider.token('three')}"}).status == 200
        )

    asyncio.run(until(taken, seconds=15))


def stripe(body: bytes, *, age: float = 0, before: str = "", after: str = "") -> dict[str, str]:
    """The header that Stripe sends, some time ago, with more in it."""
    then = f"{time.time() - age:.0f}"
    signature = hmac.digest(STRIPE, f"{then}.".encode() + body, "sha256").hex()
    return {"Stripe-Signature": f"t={then},{before}v1={signature}{after}"}


def charge(id: str) -> bytes:
    """What Stripe sends."""
    return json.dumps({"id": id, "type": "charge.made", "created": 1_700_000_000}).encode()


def sent(edge: Edge, path: str, body: bytes, *headers: tuple[str, str]) -> Answer:
    """Send a request whose headers may come again."""
    link = edge.connection()
    link.putrequest("POST", path)
    for name, value in (*headers, ("Content-Length", f"{len(body)}")):
        link.putheader(name, value)
    link.endheaders(body)
    answer = link.getresponse()
    found = Answer(answer.status, answer.headers.get("content-type", ""), answer.read())
    link.close()
    return found


def test_a_signature_of_stripe_is_good_for_its_time_alone(edge: Edge) -> None:
    """Five minutes both ways; one of several signatures is enough, two times are none."""
    path = "/v1/webhooks/stripe"
    tries = {
        "now": (stripe(charge("s-1")), charge("s-1"), 200),
        "late": (stripe(charge("s-2"), age=290), charge("s-2"), 200),
        "too late": (stripe(charge("s-3"), age=310), charge("s-3"), 401),
        "too early": (stripe(charge("s-4"), age=-310), charge("s-4"), 401),
        "one of two": (stripe(charge("s-5"), before=f"v1={'0' * 64},"), charge("s-5"), 200),
        "one of many": (stripe(charge("s-6"), after=",v1=00" * 500), charge("s-6"), 200),
        "another time": (stripe(charge("s-7"), after=",t=1"), charge("s-7"), 401),
        "another body": (stripe(charge("s-8")), charge("s-9"), 401),
    }
    said = {name: edge.post(path, *one[:2]).status for name, one in tries.items()}

    assert said == {name: one[2] for name, one in tries.items()}
    stamped, other = stripe(charge("s-10")), stripe(charge("s-10"), age=1000)
    first, second = stamped["Stripe-Signature"], other["Stripe-Signature"]
    for pair in ((first, second), (second, first)):
        headers = [("Stripe-Signature", value) for value in pair]
        assert sent(edge, path, charge("s-10"), *headers).status == 401


def test_what_slack_sent_is_replayed_in_vain(edge: Edge) -> None:
    """At once it is a duplicate, later it is stale; the time is signed."""
    body = b'{"type": "event_callback", "event_id": "Ev1", "event": {"type": "ping"}}'
    headers = slack(body)
    path = "/v1/webhooks/slack"
    assert [edge.post(path, headers, body).status for _ in range(2)] == [200, 200]
    verdicts = [r.verdict for r in edge.records() if (m := r.message()) and m.id == "Ev1"]
    assert verdicts == ["allow", "duplicate"]

    fresh = headers | {"X-Slack-Request-Timestamp": f"{time.time() + 1:.0f}"}
    assert edge.post(path, fresh, body).json["reason"] == "wrong"
    then = f"{time.time() - 400:.0f}"
    old = hmac.digest(SLACK, f"v0:{then}:".encode() + body, "sha256").hex()
    stale = headers | {"X-Slack-Request-Timestamp": then, "X-Slack-Signature": f"v0={old}"}
    assert edge.post(path, stale, body).json["reason"] == "stale"


def test_a_signature_is_of_the_bytes_of_the_body(edge: Edge) -> None:
    """Written in another way, encoded or compressed, the same is another body."""
    signed = github(PUSH, "b-0")
    for number, body in enumerate(
        (
            json.dumps(json.loads(PUSH)).encode().replace(b": ", b":"),
            PUSH + b"\n",
            b"\xef\xbb\xbf" + PUSH,
            PUSH.decode().encode("utf-16"),
            gzip.compress(PUSH),
            b"payload=" + PUSH,
        )
    ):
        headers = signed | {"X-GitHub-Delivery": f"b-{number}"}
        assert edge.post(HOOK, headers, body).json["reason"] == "wrong"
    packed = gzip.compress(PUSH)
    refused = edge.post(HOOK, github(packed, "b-7") | {"Content-Encoding": "gzip"}, packed)
    assert refused.status == 415
    assert not [r for r in edge.records() if (m := r.message()) and m.id.startswith("b-")]

    link = edge.connection()
    link.request("POST", HOOK, iter([PUSH[:10], PUSH[10:]]), github(PUSH, "b-9"))
    assert link.getresponse().status == 200
    link.close()


def test_a_signature_is_written_in_one_way_and_once(edge: Edge) -> None:
    """But for the case of its digits; one that is given twice is none, whichever comes first."""
    digest = hmac.digest(GITHUB, PUSH, "sha256")
    good, wrong = f"sha256={digest.hex()}", f"sha256={'0' * 64}"
    upper = github(PUSH, "w-0") | {"X-Hub-Signature-256": f"sha256={digest.hex().upper()}"}
    assert edge.post(HOOK, upper, PUSH).status == 200
    for text in (
        base64.b64encode(digest).decode(),
        f"sha256={base64.b64encode(digest).decode()}",
        f"SHA256={digest.hex()}",
        f"sha256= {digest.hex()}",
        f"{good[:-1]}",
        f"{good}00",
        f"{good},{good}",
        "sha256=",
    ):
        headers = github(PUSH, "w-1") | {"X-Hub-Signature-256": text}
        assert edge.post(HOOK, headers, PUSH).status == 401, text

    rest = [("X-GitHub-Event", "push"), ("X-GitHub-Delivery", "w-2")]
    for pair in ((good, wrong), (wrong, good), (good, good)):
        twice = [("X-Hub-Signature-256", value) for value in pair]
        assert sent(edge, HOOK, PUSH, *rest, *twice).status == 401, pair
