"""Signatures of webhooks: whether who knows the secret sent this body. Pure.

    github  X-Hub-Signature-256: sha256=<hex>, over the body
            docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    stripe  Stripe-Signature: t=<seconds>,v1=<hex>[,v1=…], over `<t>.<body>`
            docs.stripe.com/webhooks/signature
    slack   X-Slack-Signature: v0=<hex>, over `v0:<X-Slack-Request-Timestamp>:<body>`
            docs.slack.dev/authentication/verifying-requests-from-slack
    hmac    whatever the settings say, over the body

All are HMACs (RFC 2104). Other headers than these are not signed: whoever gets hold of a signed
body can send it again under another id as long as no time is signed with it, so mind TLS.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tidegate_schemas.edge import SignatureSettings, WebhookSettings
from tidegate_schemas.errors import Unauthenticated

GITHUB = SignatureSettings(header="x-hub-signature-256", prefix="sha256=")
_STRIPE = "stripe-signature"
_SLACK, _SLACK_TIME = "x-slack-signature", "x-slack-request-timestamp"
_SECONDS = re.compile(r"\d{1,12}", re.ASCII)


class Shown(NamedTuple):
    """What the head of a request says of its signature.

    Attributes:
        given: signatures, of which one must be right.
        before: what was signed before the body.
        seconds: since 1970, when it was signed, where that is signed too.
        algorithm, encoding: of the signatures.
    """

    given: Sequence[str]
    before: bytes = b""
    seconds: int | None = None
    algorithm: str = "sha256"
    encoding: str = "hex"


def shown(settings: WebhookSettings, headers: Mapping[str, str]) -> Shown:
    """Read the signature of a request, before its body is there.

    Args:
        settings: how the sender signs.
        headers: of the request, by their names in lower case.

    Raises:
        Unauthenticated: `unsigned`, there is no signature; `malformed`, it cannot be read.
    """
    match settings.verify:
        case "github":
            return _plain(GITHUB, headers)
        case "stripe":
            return _stripe(headers)
        case "slack":
            return _slack(headers)
        case "hmac":
            assert settings.signature is not None  # the settings see to it
            return _plain(settings.signature, headers)


def verify(
    shown: Shown, secrets: Sequence[bytes], body: bytes, now: float, tolerance: float
) -> None:
    """Check the signature of a request.

    Args:
        shown: it.
        secrets: with any of these; none is empty.
        body: of the request, byte for byte.
        now: seconds since 1970.
        tolerance: seconds that it may be old, or early.

    Raises:
        Unauthenticated: `wrong`, it is not of this body with these secrets; `stale`, it is, of
            another time.
    """
    _compare(shown, secrets, shown.before + body)
    if shown.seconds is not None:
        _check_time(shown.seconds, now, tolerance)


def _plain(how: SignatureSettings, headers: Mapping[str, str]) -> Shown:
    name = how.header.lower()
    given = _header(headers, name)
    if not given.startswith(how.prefix):
        raise Unauthenticated("malformed", f"{name} does not begin with {how.prefix}")
    one = given.removeprefix(how.prefix)
    return Shown([one], algorithm=how.algorithm, encoding=how.encoding)


def _stripe(headers: Mapping[str, str]) -> Shown:
    parts = [part.strip().partition("=") for part in _header(headers, _STRIPE).split(",")]
    times = [value for key, _, value in parts if key == "t"]
    given = [value for key, _, value in parts if key == "v1"]
    if len(times) != 1 or not given:
        raise Unauthenticated("malformed", f"{_STRIPE} has no time `t`, or no signature `v1`")
    seconds = _seconds(times[0], _STRIPE)
    return Shown(given, times[0].encode() + b".", seconds)


def _slack(headers: Mapping[str, str]) -> Shown:
    given, time = _header(headers, _SLACK), _header(headers, _SLACK_TIME)
    if not given.startswith("v0="):
        raise Unauthenticated("malformed", f"{_SLACK} does not begin with v0=")
    seconds = _seconds(time, _SLACK_TIME)
    return Shown([given.removeprefix("v0=")], b"v0:" + time.encode() + b":", seconds)


def _header(headers: Mapping[str, str], name: str) -> str:
    if name not in headers:
        raise Unauthenticated("unsigned", f"there is no header {name}")
    return headers[name]


def _seconds(text: str, where: str) -> int:
    if not _SECONDS.fullmatch(text):
        raise Unauthenticated("malformed", f"{where} has no time in seconds since 1970")
    return int(text)


def _check_time(seconds: int, now: float, tolerance: float) -> None:
    """Only for what is signed: what is wrong is not told apart from what is late."""
    if abs(now - seconds) > tolerance:
        raise Unauthenticated(
            "stale", f"it was signed {now - seconds:.0f} s ago; at most {tolerance:g} s are taken"
        )


def _compare(shown: Shown, secrets: Sequence[bytes], signed: bytes) -> None:
    """How long it takes does not tell how much of a signature was right."""
    good = False
    for secret in secrets:
        digest = hmac.digest(secret, signed, shown.algorithm)
        hexadecimal = shown.encoding == "hex"
        expected = digest.hex().encode() if hexadecimal else base64.b64encode(digest)
        for one in shown.given:
            one = one.lower() if hexadecimal else one
            good |= hmac.compare_digest(one.encode("utf-8", "surrogatepass"), expected)
    if not good:
        raise Unauthenticated("wrong", "the signature is not of this body, or of another secret")
