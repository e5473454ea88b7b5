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

from tidegate_schemas.edge import SignatureSettings, WebhookSettings
from tidegate_schemas.errors import Unauthenticated

GITHUB = SignatureSettings(header="x-hub-signature-256", prefix="sha256=")
_STRIPE = "stripe-signature"
_SLACK, _SLACK_TIME = "x-slack-signature", "x-slack-request-timestamp"
_SECONDS = re.compile(r"\d{1,12}", re.ASCII)


def verify(
    settings: WebhookSettings,
    secrets: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
) -> None:
    """Check the signature of a request.

    Args:
        settings: how the sender signs.
        secrets: with any of these; none is empty.
        headers: of the request, by their names in lower case.
        body: of the request, byte for byte.
        now: seconds since 1970.

    Raises:
        Unauthenticated: `unsigned`, there is no signature; `malformed`, it cannot be read; `wrong`,
            it is not of this body with these secrets; `stale`, it is, of another time.
    """
    match settings.verify:
        case "github":
            _plain(GITHUB, secrets, headers, body)
        case "stripe":
            _stripe(secrets, headers, body, now, settings.tolerance)
        case "slack":
            _slack(secrets, headers, body, now, settings.tolerance)
        case "hmac":
            assert settings.signature is not None  # the settings see to it
            _plain(settings.signature, secrets, headers, body)


def _plain(
    how: SignatureSettings, secrets: Sequence[bytes], headers: Mapping[str, str], body: bytes
) -> None:
    name = how.header.lower()
    given = _header(headers, name)
    if not given.startswith(how.prefix):
        raise Unauthenticated("malformed", f"{name} does not begin with {how.prefix}")
    _compare([given.removeprefix(how.prefix)], secrets, body, how.algorithm, how.encoding)


def _stripe(
    secrets: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance: float,
) -> None:
    parts = [part.strip().partition("=") for part in _header(headers, _STRIPE).split(",")]
    times = [value for key, _, value in parts if key == "t"]
    given = [value for key, _, value in parts if key == "v1"]
    if len(times) != 1 or not given:
        raise Unauthenticated("malformed", f"{_STRIPE} has no time `t`, or no signature `v1`")
    seconds = _seconds(times[0], _STRIPE)
    _compare(given, secrets, times[0].encode() + b"." + body)
    _check_time(seconds, now, tolerance)


def _slack(
    secrets: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance: float,
) -> None:
    given, time = _header(headers, _SLACK), _header(headers, _SLACK_TIME)
    if not given.startswith("v0="):
        raise Unauthenticated("malformed", f"{_SLACK} does not begin with v0=")
    seconds = _seconds(time, _SLACK_TIME)
    _compare([given.removeprefix("v0=")], secrets, b"v0:" + time.encode() + b":" + body)
    _check_time(seconds, now, tolerance)


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


def _compare(
    given: Sequence[str],
    secrets: Sequence[bytes],
    signed: bytes,
    algorithm: str = "sha256",
    encoding: str = "hex",
) -> None:
    """How long it takes does not tell how much of a signature was right."""
    good = False
    for secret in secrets:
        digest = hmac.digest(secret, signed, algorithm)
        expected = base64.b64encode(digest) if encoding == "base64" else digest.hex().encode()
        for one in given:
            good |= hmac.compare_digest(one.encode("utf-8", "surrogatepass"), expected)
    if not good:
        raise Unauthenticated("wrong", "the signature is not of this body, or of another secret")
