"""Signatures of webhooks: the vectors that were published, and what is not signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.edge import signatures
from tidegate_schemas.edge import EventSettings, SignatureSettings, WebhookSettings
from tidegate_schemas.errors import Unauthenticated

EXAMPLES = settings(database=None, deadline=None, derandomize=True, max_examples=200)
NOW = 1_531_420_618.0


def webhook(verify: Any, **fields: Any) -> WebhookSettings:
    """The settings of a webhook."""
    return WebhookSettings(verify=verify, secret_env="SECRET", principal="outside.web", **fields)


def generic(**fields: Any) -> WebhookSettings:
    """The settings of a webhook that is signed like no known one."""
    return webhook(
        "hmac",
        signature=SignatureSettings(header="X-Signature", **fields),
        event=EventSettings(id="digest", type='"x"'),
    )


def refused(how: WebhookSettings, headers: dict[str, str], body: bytes, *more: bytes) -> str:
    """The ground on which a request is refused; empty if it is not."""
    try:
        shown = signatures.shown(how, headers)
        signatures.verify(shown, more or (b"secret",), body, NOW, how.tolerance)
    except Unauthenticated as error:
        return error.reason
    return ""


SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmib"
    b"IGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
SLACK = {
    "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    "x-slack-request-timestamp": "1531420618",
}
GITHUB = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_what_github_and_slack_publish_as_examples_is_taken() -> None:
    """The secret, body and signature of their documents."""
    github = {"x-hub-signature-256": GITHUB}
    assert not refused(webhook("github"), github, b"Hello, World!", b"It's a Secret to Everybody")
    assert not refused(webhook("slack"), SLACK, SLACK_BODY, b"8f742231b10e8888abcd99yyyzzz85a5")


RFC_4231 = (
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a"
        "6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
    ),
    (
        b"\x0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702"
        "038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
    ),
)


@pytest.mark.parametrize("vector", RFC_4231, ids=["test case 2", "test case 1"])
def test_any_other_sender_signs_by_rfc_4231(vector: tuple[bytes, bytes, str, str]) -> None:
    """Its vectors, with both algorithms, in both encodings, with and without something before."""
    key, body, short, long = vector
    for algorithm, digest in (("sha256", short), ("sha512", long)):
        text = base64.b64encode(bytes.fromhex(digest)).decode()
        for shown in (digest, text):
            encoding = "hex" if shown is digest else "base64"
            for prefix in ("", "v1 "):
                how = generic(algorithm=algorithm, encoding=encoding, prefix=prefix)
                assert not refused(how, {"x-signature": prefix + shown}, body, key)
                assert refused(how, {"x-signature": prefix + shown[:-2]}, body, key) == "wrong"


def stripe(body: bytes, secret: bytes = b"secret", time: float = NOW, *before: str) -> str:
    """The header that Stripe makes."""
    signed = f"{time:.0f}.".encode() + body
    parts = [*before, f"v1={hmac.digest(secret, signed, 'sha256').hex()}", "v0=ff"]
    return ",".join((f"t={time:.0f}", *parts))


def test_stripe_signs_the_time_and_sends_several_while_a_secret_changes() -> None:
    """One of several signatures is enough, with one of several secrets."""
    how, body = webhook("stripe"), b'{"id": "evt_1"}'
    assert not refused(how, {"stripe-signature": stripe(body)}, body)
    assert not refused(
        how, {"stripe-signature": stripe(body, b"new", NOW, "v1=00")}, body, b"old", b"new"
    )
    assert refused(how, {"stripe-signature": stripe(body, b"other")}, body) == "wrong"
    assert refused(how, {"stripe-signature": stripe(body)}, body + b" ") == "wrong"


@pytest.mark.parametrize(("age", "said"), [(300, ""), (-300, ""), (301, "stale"), (-301, "stale")])
def test_a_signature_of_another_time_is_stale(age: int, said: str) -> None:
    """Only one that is right otherwise: whoever makes one up learns nothing of clocks."""
    how, body = webhook("stripe", tolerance="300s"), b"{}"
    assert refused(how, {"stripe-signature": stripe(body, time=NOW - age)}, body) == said
    assert refused(how, {"stripe-signature": stripe(body, b"x", NOW - age)}, body) == "wrong"
    signed = f"v0:{NOW - age:.0f}:".encode() + body
    headers = {
        "x-slack-signature": f"v0={hmac.new(b'secret', signed, hashlib.sha256).hexdigest()}",
        "x-slack-request-timestamp": f"{NOW - age:.0f}",
    }
    assert refused(webhook("slack"), headers, body) == said


MALFORMED: dict[str, tuple[str, dict[str, str]]] = {
    "github, none": ("github", {}),
    "github, SHA-1": ("github", {"x-hub-signature": "sha1=00"}),
    "github, other algorithm": ("github", {"x-hub-signature-256": GITHUB.replace("256", "1")}),
    "stripe, none": ("stripe", {}),
    "stripe, empty": ("stripe", {"stripe-signature": ""}),
    "stripe, no time": ("stripe", {"stripe-signature": "v1=00"}),
    "stripe, two times": ("stripe", {"stripe-signature": "t=1,t=2,v1=00"}),
    "stripe, old scheme": ("stripe", {"stripe-signature": "t=1,v0=00"}),
    "stripe, no digits": ("stripe", {"stripe-signature": "t=\u0661,v1=00"}),
    "stripe, endless": ("stripe", {"stripe-signature": f"t={'9' * 5000},v1=00"}),
    "slack, none": ("slack", {}),
    "slack, no time": ("slack", {"x-slack-signature": "v0=00"}),
    "slack, other version": ("slack", SLACK | {"x-slack-signature": "v1=00"}),
    "slack, no number": ("slack", SLACK | {"x-slack-request-timestamp": "-1"}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_signature_that_cannot_be_read_is_refused(case: str) -> None:
    """With another ground than a wrong one; nothing else is raised."""
    kind, headers = MALFORMED[case]
    assert refused(webhook(kind), headers, SLACK_BODY) in {"unsigned", "malformed"}


texts = st.text(st.characters(exclude_categories=[]), max_size=80)


@EXAMPLES
@given(st.sampled_from(["github", "stripe", "slack"]), texts, texts, st.binary(max_size=50))
def test_nobody_gets_in_with_anything_else(kind: str, one: str, two: str, body: bytes) -> None:
    """Whatever stands in the headers: it is refused, and nothing else is raised."""
    before = {"github": "sha256=", "stripe": "t=1531420618,v1=", "slack": "v0="}[kind]
    for text in (one, before + one):
        headers = {
            "x-hub-signature-256": text,
            "stripe-signature": text,
            "x-slack-signature": text,
            "x-slack-request-timestamp": two,
        }
        assert refused(webhook(kind), headers, body)


keys = st.text("ab\u00e9 ", min_size=1, max_size=60).map(str.encode)


@EXAMPLES
@given(st.binary(max_size=100), st.binary(max_size=100), keys, keys)
def test_a_signature_is_good_for_its_body_alone(
    body: bytes, other: bytes, key: bytes, second: bytes
) -> None:
    """With its secret alone."""
    headers = {"x-hub-signature-256": f"sha256={hmac.digest(key, body, 'sha256').hex()}"}
    how = webhook("github")
    assert not refused(how, headers, body, second, key)
    assert refused(how, headers, other, key) == ("" if other == body else "wrong")
    assert refused(how, headers, body, second) == ("" if second == key else "wrong")
