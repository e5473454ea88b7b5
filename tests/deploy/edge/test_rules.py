"""Rules of webhooks: which event a payload becomes."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from tidegate.edge import rules
from tidegate_schemas.edge import EventSettings, SignatureSettings, WebhookSettings
from tidegate_schemas.envelope import encode
from tidegate_schemas.errors import InvalidEnvelope, InvalidExpression

FORM = "application/x-www-form-urlencoded; charset=utf-8"
GITHUB = {"x-github-delivery": "72d3162e", "x-github-event": "issues"}


def webhook(verify: Any, **event: str) -> WebhookSettings:
    """The settings of a webhook."""
    signature = SignatureSettings(header="x-signature") if verify == "hmac" else None
    return WebhookSettings(
        verify=verify,
        secret_env="SECRET",
        principal="outside.web",
        signature=signature,
        event=EventSettings(**event),
    )


def attributes(verify: Any, headers: dict[str, str], body: Any, **event: str) -> dict[str, Any]:
    """The attributes of the event that a request becomes, without those that all have."""
    text = body if isinstance(body, bytes) else msgspec.json.encode(body)
    found = msgspec.json.decode(
        encode(rules.event("shop", webhook(verify, **event), headers, text))
    )
    return {k: v for k, v in found.items() if k not in ("specversion", "datacontenttype", "data")}


def test_github() -> None:
    """The id of the delivery, event and action, and where it happened: on any server."""
    repository = {"full_name": "octo-org/tide", "id": 1}
    body = {"action": "opened", "repository": repository, "organization": {"login": "octo-org"}}
    assert attributes("github", GITHUB, body) == {
        "id": "72d3162e",
        "type": "github.issues.opened",
        "source": "https://github.com/octo-org/tide",
    }
    own = GITHUB | {"x-github-enterprise-host": "code.example.com", "x-github-event": "push"}
    del body["action"], body["repository"]
    assert attributes("github", own, body) == {
        "id": "72d3162e",
        "type": "github.push",
        "source": "https://code.example.com/octo-org",
    }


@pytest.mark.parametrize("action", [None, 1, {}, "on demand", "a.b", "", "x" * 500])
def test_what_is_no_word_is_no_part_of_the_type(action: Any) -> None:
    """GitHub lets clients choose the action of `repository_dispatch`: no message is lost of it."""
    assert attributes("github", GITHUB, {"action": action})["type"] == "github.issues"


def test_stripe() -> None:
    """The id of the event, its time, whose account, and what it is about."""
    body: dict[str, Any] = {
        "id": "evt_1",
        "type": "customer.subscription.created",
        "created": 1_700_000_000,
        "account": "acct_1",
        "data": {"object": {"id": "sub_1"}},
    }
    assert attributes("stripe", {}, body) == {
        "id": "evt_1",
        "type": "stripe.customer.subscription.created",
        "source": "https://api.stripe.com/acct_1",
        "subject": "sub_1",
        "time": "2023-11-14T22:13:20.000000000Z",
    }
    thin = {"id": "evt_2", "type": "v1.billing.meter.ok", "created": "2026-01-31T12:00:00.1Z"}
    assert attributes("stripe", {}, thin) == {
        "id": "evt_2",
        "type": "stripe.v1.billing.meter.ok",
        "source": "https://api.stripe.com",
        "time": "2026-01-31T12:00:00.1Z",
    }


def test_slack() -> None:
    """Events, commands and clicks; the last two come as forms."""
    happened = {
        "type": "event_callback",
        "event_id": "Ev1",
        "event_time": 1_700_000_000,
        "team_id": "T1",
        "event": {"type": "app_mention", "text": "hi"},
    }
    assert attributes("slack", {}, happened) == {
        "id": "Ev1",
        "type": "slack.app_mention",
        "source": "https://slack.com/T1",
        "time": "2023-11-14T22:13:20.000000000Z",
    }
    command = urlencode({"command": "/deploy", "text": "", "trigger_id": "1.2", "team_id": "T1"})
    assert attributes("slack", {"content-type": FORM}, command.encode()) == {
        "id": "1.2",
        "type": "slack.command",
        "source": "https://slack.com/T1",
    }
    closed = urlencode({"payload": '{"type": "view_closed", "team": {"id": "T2"}}'}).encode()
    time = {"content-type": FORM, "x-slack-request-timestamp": "5"}
    assert attributes("slack", time, closed) == {
        "id": f"5-{hashlib.sha256(closed).hexdigest()}",
        "type": "slack.view_closed",
        "source": "https://slack.com/T2",
    }
    alone = time | {"content-type": "application/json"}
    found = attributes("slack", alone, {"type": "x", "team": None})
    assert found["source"] == "https://slack.com"


def test_what_the_settings_say_goes_before_what_is_known() -> None:
    """Attribute by attribute; null takes one away that need not be there."""
    assert attributes(
        "stripe",
        {"x-id": "9"},
        {"id": "a", "type": "b", "created": 1},
        id='headers["x-id"] + "-" + body.id',
        time="null",
        subject="body.type",
    ) == {
        "id": "9-a",
        "type": "stripe.b",
        "source": "https://api.stripe.com",
        "subject": "b",
    }


def test_data_is_what_came_byte_for_byte() -> None:
    """Unless an expression says what it is to be; a form is a mapping of texts."""
    how = webhook("hmac", id="digest", type='"shop.sold"')
    text = b' {"b": 1.0, "a": [1, 18446744073709551615]} '
    assert rules.event("shop", how, {}, text).body == text.strip()
    assert rules.event("shop", how, {}, text).source == "webhook:shop"
    assert rules.event("shop", how, {"content-type": FORM}, b"a=1&b=%C3%A9&c=").payload() == {
        "a": "1",
        "b": "\u00e9",
        "c": "",
    }
    less = webhook("hmac", id="digest", type='"shop.sold"', data='{"only": body.b}')
    assert rules.event("shop", less, {}, b'{"a": 1, "b": [true]}').payload() == {"only": [True]}


BAD: dict[str, tuple[str, dict[str, str], bytes, dict[str, str]]] = {
    "no JSON": ("stripe", {}, b"{", {}),
    "empty": ("stripe", {}, b"", {}),
    "no UTF-8": ("stripe", {}, b'"\xff"', {}),
    "no form": ("slack", {"content-type": FORM}, b"payload=%ff", {}),
    "form without JSON": ("slack", {"content-type": FORM}, b"payload=x", {}),
    "no mapping": ("stripe", {}, b"[]", {}),
    "null": ("github", GITHUB, b"null", {}),
    "no delivery": ("github", {"x-github-event": "push"}, b"{}", {}),
    "no id": ("stripe", {}, b'{"type": "a"}', {}),
    "id is null": ("stripe", {}, b'{"id": null, "type": "a"}', {}),
    "id is a number": ("stripe", {}, b'{"id": 1, "type": "a"}', {}),
    "type is no destination": ("stripe", {}, b'{"id": "1", "type": "a b"}', {}),
    "time is none": ("stripe", {}, b'{"id": "1", "type": "a", "created": "now"}', {}),
    "time is far": ("stripe", {}, b'{"id": "1", "type": "a", "created": 1e300}', {}),
    "time is true": ("stripe", {}, b'{"id": "1", "type": "a", "created": true}', {}),
    "deep": ("stripe", {}, b'{"id": "1", "type": "a", "x": ' + b"[" * 500 + b"]" * 500 + b"}", {}),
    "very deep": ("stripe", {}, b"[" * 100_000 + b"]" * 100_000, {}),
    "rule": ("stripe", {}, b'{"id": "1", "type": "a"}', {"subject": "body.x.y"}),
    "source": ("stripe", {}, b'{"id": "1", "type": "a"}', {"source": "5"}),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_event_is_refused(case: str) -> None:
    """With one of the bus's own errors, whatever the body is."""
    verify, headers, body, event = BAD[case]
    with pytest.raises((InvalidEnvelope, InvalidExpression)):
        rules.event("shop", webhook(verify, **event), headers, body)
