"""Rules by which the payload of a webhook becomes an event. Pure.

An attribute is a CEL expression over what came: `headers`, by their names in lower case; `body`,
the JSON, or the fields of a form; `digest`, the SHA-256 of the body, hexadecimal. Null is no such
attribute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from tidegate_agents.expression import Scope, faults
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.edge import EventSettings, WebhookSettings
from tidegate_schemas.envelope import Envelope, describe
from tidegate_schemas.errors import InvalidEnvelope, Problem

NAMES = frozenset(("body", "digest", "headers"))


def _rule(**expressions: str) -> EventSettings:
    """A rule whose expressions stand on several lines here, and on one in errors."""
    return EventSettings(**{name: " ".join(text.split()) for name, text in expressions.items()})


_GITHUB = _rule(
    id='headers["x-github-delivery"]',
    type="""
        "github." + headers["x-github-event"] + (
            has(body.action) && type(body.action) == string
            && body.action.matches("^[A-Za-z0-9_-]{1,64}$") ? "." + body.action : "")
        """,
    source="""
        "https://" + (
            "x-github-enterprise-host" in headers ? headers["x-github-enterprise-host"]
            : "github.com"
        ) + (
            has(body.repository) && type(body.repository) == map && has(body.repository.full_name)
            ? "/" + body.repository.full_name
            : has(body.organization) && type(body.organization) == map
            && has(body.organization.login) ? "/" + body.organization.login
            : "")
        """,
)
"""docs.github.com/en/webhooks/webhook-events-and-payloads, of which `action` of
`repository_dispatch` is any text of a client."""

_STRIPE = _rule(
    id="body.id",
    type='"stripe." + body.type',
    source='"https://api.stripe.com" + (has(body.account) ? "/" + body.account : "")',
    subject="""
        has(body.data) && has(body.data.object) && has(body.data.object.id)
        ? body.data.object.id : null
        """,
    time="has(body.created) ? body.created : null",
)
"""docs.stripe.com/api/events/object"""

_SLACK = _rule(
    id="""
        has(body.event_id) ? body.event_id
        : has(body.trigger_id) ? body.trigger_id
        : headers["x-slack-request-timestamp"] + "-" + digest
        """,
    type="""
        "slack." + (
            has(body.event) ? body.event.type : has(body.command) ? "command" : body.type)
        """,
    source="""
        "https://slack.com" + (
            has(body.team_id) ? "/" + body.team_id
            : has(body.team) && type(body.team) == map && has(body.team.id) ? "/" + body.team.id
            : "")
        """,
    time="has(body.event_time) ? body.event_time : null",
)
"""docs.slack.dev: Events API, slash commands, interactive payloads."""

_KNOWN = {"github": _GITHUB, "stripe": _STRIPE, "slack": _SLACK, "hmac": EventSettings()}
_SECOND = 1_000_000_000


def check(name: str, settings: WebhookSettings) -> list[Problem]:
    """What is wrong with the expressions of a webhook."""
    return [
        fault
        for attribute, text in _given(settings.event).items()
        for fault in faults(f"edge.webhooks.{name}.event.{attribute}", text, NAMES)
    ]


def payload(kind: str, body: bytes) -> tuple[msgspec.Raw, Any]:
    """What a body says: its JSON, as it was written and as it is read.

    A form (`application/x-www-form-urlencoded`) is a mapping of texts; one with a field `payload`
    is the JSON in there, as github and slack send it.

    Args:
        kind: the header `content-type`.
        body: of the request.

    Raises:
        InvalidEnvelope: code `data`; it is neither.
    """
    try:
        if kind.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
            fields = dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
            body = (
                fields["payload"].encode() if "payload" in fields else msgspec.json.encode(fields)
            )
        text = msgspec.json.decode(body, type=msgspec.Raw)
        return msgspec.Raw(bytes(text)), msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidEnvelope("data", f"the body is no JSON: {describe(error)}") from None


def event(
    name: str, settings: WebhookSettings, headers: Mapping[str, str], body: bytes
) -> Envelope:
    """The event that a request of a webhook is.

    Args:
        name: of the webhook.
        settings: of it.
        headers: of the request, by their names in lower case.
        body: of the request.

    Raises:
        InvalidExpression: an expression has no value over this request.
        InvalidEnvelope: it is no JSON, or the values make no event.
    """
    raw, data = payload(headers.get("content-type", ""), body)
    digest = hashlib.sha256(body).hexdigest()
    scope = Scope({"body": data, "digest": digest, "headers": dict(headers)})
    rule = _given(_KNOWN[settings.verify]) | _given(settings.event)
    values: dict[str, Any] = {"source": f"webhook:{name}"}
    for attribute, text in rule.items():
        value = scope.evaluate(text)
        if value is not None:
            values[attribute] = _time(value) if attribute == "time" else value
    for attribute in ("id", "type"):
        if attribute not in values:
            raise InvalidEnvelope("malformed", f"the rule gives no `{attribute}` for this request")
    return Envelope.new(values.pop("type"), values.pop("data", raw), **values)


def _given(rule: EventSettings) -> dict[str, str]:
    return rule.model_dump(exclude_none=True)


def _time(value: Any) -> Any:
    """A time as an envelope has it: seconds since 1970 are written out."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return rfc3339(int(value * _SECOND))
        except OverflowError:
            raise InvalidEnvelope("malformed", "`time` is outside the years 1 to 9999") from None
    return value
