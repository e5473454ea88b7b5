"""Settings of the HTTP edge: where it listens, who may come in, and what webhooks become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from .documents import Document, Duration, Name, PrincipalName, misfit
from .documents.location import Location
from .identity import is_built_in
from .rate import Rate
from .vocabulary import OPERATOR

_MiB = 1024 * 1024
_TOLERANCE = 300.0
_HERE = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/.*)?")


def _rate(value: str) -> str:
    Rate.parse(value)
    return value


def _caller(value: str) -> str:
    if is_built_in(value) and value != str(OPERATOR):
        raise ValueError(f"{value} is the bus's own; of those only {OPERATOR} can be spoken for")
    return value


def _keys(value: str) -> str:
    if "://" not in value:
        return value
    try:
        parts = urlsplit(value)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError("it is neither an https URL nor a file") from None
    if parts.scheme == "http" and not _HERE.fullmatch(value):
        raise ValueError("keys that come over plain http are anybody's: write https://")
    return value


Text = Annotated[str, Field(min_length=1)]
RateText = Annotated[
    str,
    AfterValidator(_rate),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\d{1,9}/\d{1,15}(\.\d{1,9})?(ms|s|m|h|d)$"},
    ),
]
"""How often, e.g. `100/1s`; all of them may come at once."""
CallerName = Annotated[PrincipalName, AfterValidator(_caller)]
"""`team.name` of somebody whom a caller may be taken for."""
Expression = Annotated[str, Field(min_length=1, max_length=4096)]
"""CEL over `headers` (lower case), `body` and `digest`."""


class EdgeTlsSettings(Document):
    """Certificates of the HTTP edge; paths are relative to the project."""

    certificate: Text
    key: Text
    clients: Text | None = None
    """Authority of the certificates that clients may show; without it none are asked for."""


class OidcSettings(Document):
    """Whose bearer tokens (OpenID Connect, RFC 9068) are taken, and for whom they are taken."""

    issuer: Text
    """What the claim `iss` must be."""
    audience: Text
    """What the claim `aud` must be, or hold."""
    jwks: Annotated[str, Field(min_length=1), AfterValidator(_keys)]
    """Where the issuer's public keys are (RFC 7517): an https URL, or a file of the project."""
    claim: Text = "sub"
    """Claim that says who it is."""
    principals: Annotated[dict[str, CallerName], Field(min_length=1)]
    """By the value of that claim."""

    def keys_file(self, root: Path) -> Path | None:
        """The file that the keys are in, if they are in one."""
        return None if "://" in self.jwks else root / self.jwks


class SignatureSettings(Document):
    """How a sender that is none of the known ones signs: an HMAC of the body in a header."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]
    prefix: Annotated[str, Field(max_length=100)] = ""
    """What stands before the signature in the header."""
    encoding: Literal["hex", "base64"] = "hex"
    algorithm: Literal["sha256", "sha512"] = "sha256"


class EventSettings(Document):
    """What becomes of a payload: an expression for each attribute of the event.

    For github, stripe and slack there is a rule for each; what stands here goes before it.
    """

    id: Expression | None = None
    """Text; a repeated one is a duplicate."""
    type: Expression | None = None
    """Text; also where the event goes."""
    source: Expression | None = None
    """Text, a URI reference; null is no such attribute, also below."""
    subject: Expression | None = None
    time: Expression | None = None
    """RFC 3339 text, or seconds since 1970."""
    data: Expression | None = None
    """Anything; `body` by default."""


class WebhookSettings(Document):
    """A sender of webhooks: `POST /v1/webhooks/{name}`."""

    verify: Literal["github", "stripe", "slack", "hmac"]
    """How it signs."""
    secret_file: Text | None = None
    """File with the secret, relative to the project; two lines while it is being changed."""
    secret_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Environment variable with the same."""
    principal: PrincipalName
    """Who submits what comes."""
    event: EventSettings = EventSettings()
    signature: SignatureSettings | None = None
    """For `hmac`."""
    tolerance: Annotated[Duration, Field(gt=0)] = _TOLERANCE
    """How old or early a signature may be, where it holds a time (stripe, slack)."""

    @model_validator(mode="after")
    def _whole(self) -> WebhookSettings:
        faults: list[tuple[Location, str]] = []
        if (self.secret_file is None) == (self.secret_env is None):
            faults.append((("secret_file",), "give it, or `secret_env`, and not both"))
        if is_built_in(self.principal):
            faults.append((("principal",), f"{self.principal} is the bus's own"))
        if (self.verify == "hmac") != (self.signature is not None):
            faults.append((("signature",), "is for `verify: hmac`, which needs it"))
        if self.verify == "hmac":
            needed = [name for name in ("id", "type") if getattr(self.event, name) is None]
            faults += [(("event", name), "is required with `verify: hmac`") for name in needed]
        if faults:
            raise misfit(WebhookSettings, faults)
        return self


class EdgeSettings(Document):
    """HTTP for systems that do not speak NATS."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 takes a free one; the URL is written to the state directory."""
    body_bytes: Annotated[int, Field(ge=1024, le=64 * _MiB)] = _MiB
    """Largest request; what an envelope may hold is said by `gateway.envelope_bytes`."""
    rate: RateText | None = None
    """How often each caller may come, unless its token says otherwise; any number by default. Of a
    batch each event counts."""
    tls: EdgeTlsSettings | None = None
    """Without it plain HTTP is spoken, which is for this machine or behind a proxy."""
    certificates: dict[str, CallerName] = Field(default_factory=dict[str, str])
    """Who shows which certificate of a client, by its subject as RFC 4514 writes it."""
    oidc: OidcSettings | None = None
    webhooks: dict[Name, WebhookSettings] = Field(default_factory=dict[str, WebhookSettings])

    @model_validator(mode="after")
    def _certificates(self) -> EdgeSettings:
        faults: list[tuple[Location, str]] = []
        if self.certificates and not (self.tls and self.tls.clients):
            faults.append((("certificates",), "nobody is asked for one without `tls.clients`"))
        if self.certificates:
            from .distinguished import normal_name

            seen = dict[str, str]()
            for name in self.certificates:
                try:
                    other = seen.setdefault(normal_name(name), name)
                except ValueError as error:
                    faults.append((("certificates", name), str(error)))
                    continue
                if other != name:
                    faults.append((("certificates", name), f"is the same as {other!r}"))
        if faults:
            raise misfit(EdgeSettings, faults)
        return self
