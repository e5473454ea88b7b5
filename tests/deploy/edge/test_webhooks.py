"""Webhooks, tokens and certificates against the real edge of a real stack, over TLS."""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.npm import INSTALL_SECONDS, install
from tidegate.bus import Bus
from tidegate.cli.init import init
from tidegate.processes import running
from tidegate.project import Project, load_project
from tidegate.tokens import Tokens
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.record import Record

from .kit import WEB, Authority, Provider, up

SETTINGS = """
project: hello
publishers: [outside.web, outside.hooks, outside.gone]
edge:
  tls: {certificate: edge.pem, key: edge.key, clients: authority.pem}
  certificates: {"CN=shop,O=Example": outside.web}
  oidc:
    issuer: ISSUER
    audience: tidegate
    jwks: ISSUER/keys
    principals: {ada: outside.web}
  webhooks:
    github: {verify: github, secret_file: github.secret, principal: outside.hooks}
    stripe: {verify: stripe, secret_env: STRIPE_SECRET, principal: outside.hooks}
    slack: {verify: slack, secret_env: SLACK_SECRET, principal: outside.hooks}
    gone: {verify: github, secret_file: github.secret, principal: outside.gone}
    shop:
      verify: hmac
      secret_env: SHOP_SECRET
      principal: outside.hooks
      signature: {header: X-Shop-Signature, encoding: base64, algorithm: sha512}
      event: {id: body.order, type: '"shop." + body.what', data: '{"total": body.total}'}
"""
POLICY = """
@id("webhooks-say-what-happened")
permit (principal == Agent::"outside.hooks", action in Action::"event", resource)
unless { context.to == "stripe.charge.refunded" || context.to == "shop.sold" };
@id("shops-are-asked")
@require_approval("1 of role operator within 1h")
permit (
  principal == Agent::"outside.hooks", action in Action::"event", resource == Topic::"shop.sold"
);
@id("web")
permit (principal == Agent::"outside.web", action in Action::"event", resource);
"""
GITHUB, STRIPE, SLACK, SHOP = b"old-secret", b"whsec_1", b"slack-secret", b"shop-secret"
NODE = Path(__file__).parent / "node"


class Answer(NamedTuple):
    """Of the edge."""

    status: int
    kind: str
    body: bytes

    @property
    def json(self) -> Any:
        """What it says."""
        return json.loads(self.body)


@dataclass
class Edge:
    """The edge of a stack that runs, and what calls it."""

    project: Project
    authority: Authority
    provider: Provider
    context: ssl.SSLContext

    def connection(self, context: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
        """A connection to it."""
        url = self.project.state.edge_url.read_text().strip()
        host = url.removeprefix("https://")
        return http.client.HTTPSConnection(host, timeout=30, context=context or self.context)

    def post(
        self,
        path: str,
        headers: dict[str, str],
        body: bytes,
        connection: http.client.HTTPSConnection | None = None,
    ) -> Answer:
        """Send a request; what it answers."""
        link = connection or self.connection()
        try:
            link.request("POST", path, body, headers)
            answer = link.getresponse()
            kind = answer.headers.get("content-type", "")
            return Answer(answer.status, kind, answer.read())
        finally:
            if connection is None:
                link.close()

    def counted(self, source: str, outcome: str) -> float:
        """How many webhooks had this outcome, as the edge says to whoever scrapes it."""
        found = running(self.project.state)
        port = next(info.telemetry for info in found if info.name == "edge")
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        link.request("GET", "/metrics")
        text = link.getresponse().read().decode()
        link.close()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "tidegate_edge_webhooks_total"
            and sample.labels == {"source": source, "outcome": outcome}
        )

    def logged(self, source: str) -> list[dict[str, Any]]:
        """Lines of its log about a source."""
        text = (self.project.state.logs / "edge.log").read_text()
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("source") == source]

    def records(self) -> list[Record]:
        """The whole ledger."""

        async def read() -> list[Record]:
            async with await Bus.of_project("tidegate.operator", self.project.root) as bus:
                return [record async for record in bus.records()]

        return asyncio.run(read())

    def record(self, answer: Answer) -> Record:
        """The one that an answer names."""
        seq: int = answer.json["seq"]
        return self.records()[seq - 1]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Edge]:
    """An edge that runs."""
    folder = tmp_path_factory.mktemp("edge")
    init(folder / "hello")
    root = folder / "hello"
    (root / "agents" / "greeter.yaml").unlink()
    (root / "blueprints" / "greet-visitor.yaml").unlink()
    provider, authority = Provider(), Authority(root)
    authority.make("CN=edge", "edge")
    (root / "tidegate.yaml").write_text(SETTINGS.replace("ISSUER", provider.url))
    with (root / "policy" / "main.cedar").open("a") as file:
        file.write(POLICY)
    (root / "github.secret").touch(0o600)
    (root / "github.secret").write_bytes(GITHUB + b"\nnew-secret\n")
    secrets = {"STRIPE": STRIPE, "SLACK": SLACK, "SHOP": SHOP}
    environment = {f"{name}_SECRET": secret.decode() for name, secret in secrets.items()}
    context = ssl.create_default_context(cafile=authority.path)
    with up(root, pytestconfig, environment):
        yield Edge(load_project(root), authority, provider, context)
    provider.close()


def github(body: bytes, delivery: str, event: str = "push", key: bytes = GITHUB) -> dict[str, str]:
    """The headers that GitHub sends."""
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={hmac.digest(key, body, 'sha256').hex()}",
    }


def slack(body: bytes, **headers: str) -> dict[str, str]:
    """The headers that Slack sends."""
    now = f"{time.time():.0f}"
    signature = hmac.digest(SLACK, f"v0:{now}:".encode() + body, "sha256").hex()
    return {
        "Content-Type": "application/json",
        "X-Slack-Request-Timestamp": now,
        "X-Slack-Signature": f"v0={signature}",
        **headers,
    }


PUSH = b'{"ref": "refs/heads/main", "repository": {"full_name": "octo-org/tide"}}'
HOOK = "/v1/webhooks/github"


def test_a_delivery_is_an_event_of_its_principal(edge: Edge) -> None:
    """In the ledger, with the id of the delivery; also signed with the secret to come."""
    old = edge.post(HOOK, github(PUSH, "d-1"), PUSH)
    new = edge.post(HOOK, github(PUSH, "d-2", key=b"new-secret"), PUSH)

    assert (old.status, old.json["verdict"], old.json["id"]) == (200, "allow", "d-1")
    assert new.status == 200
    record = edge.record(old)
    message = record.message()
    assert message
    assert (record.by, record.to, record.why.policies) == (
        "outside.hooks",
        "github.push",
        ("webhooks-say-what-happened",),
    )
    assert (message.source, message.body) == ("https://github.com/octo-org/tide", PUSH)


def test_a_delivery_that_is_repeated_is_a_duplicate(edge: Edge) -> None:
    """The sender is told that all is well; the ledger says what it was."""
    first = edge.post(HOOK, github(PUSH, "again"), PUSH).json
    second = edge.post(HOOK, github(PUSH, "again"), PUSH)

    assert (second.status, second.json) == (200, first | {"verdict": "duplicate"})
    found = [r.verdict for r in edge.records() if (m := r.message()) and m.id == "again"]
    assert found == ["allow", "duplicate"]
    assert edge.counted("github", "duplicate") == 1


WRONG: dict[str, tuple[dict[str, str], bytes, str]] = {
    "other secret": (github(PUSH, "w-1", key=b"guess"), PUSH, "wrong"),
    "changed body": (github(PUSH, "w-2"), PUSH.replace(b"main", b"evil"), "wrong"),
    "body with a space": (github(PUSH, "w-3"), PUSH + b" ", "wrong"),
    "no signature": ({"X-GitHub-Delivery": "w-4", "X-GitHub-Event": "push"}, PUSH, "unsigned"),
    "other scheme": (github(PUSH, "w-5") | {"X-Hub-Signature-256": "sha1=0"}, PUSH, "malformed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_signed_by_the_sender_is_refused_and_seen(edge: Edge, case: str) -> None:
    """401, a line of the log and a count; nothing is submitted."""
    headers, body, reason = WRONG[case]
    before = edge.counted("github", reason)
    answer = edge.post(HOOK, headers, body)

    assert (answer.status, answer.kind) == (401, "application/problem+json")
    assert answer.json["reason"] == reason
    assert edge.counted("github", reason) == before + 1
    line = edge.logged("github")[-1]
    assert line["event"] == "webhook not taken"
    assert (line["outcome"], line["delivery"]) == (reason, headers["X-GitHub-Delivery"])
    assert not [r for r in edge.records() if (m := r.message()) and m.id.startswith("w-")]


EARLY: dict[str, tuple[str, dict[str, str], int]] = {
    "nowhere": ("/v1/webhooks/no", {}, 404),
    "unsigned": (HOOK, {}, 401),
    "malformed": (HOOK, {"X-Hub-Signature-256": "sha1=0"}, 401),
    "no time": ("/v1/webhooks/slack", {"X-Slack-Signature": "v0=0"}, 401),
    "too large": (HOOK, {"X-Hub-Signature-256": "sha256=0", "Content-Length": "9999999"}, 413),
}


@pytest.mark.parametrize("case", EARLY)
def test_what_the_head_tells_is_said_before_the_body_comes(edge: Edge, case: str) -> None:
    """Nobody's megabyte is kept to find that there is no signature."""
    path, headers, status = EARLY[case]
    link = edge.connection()
    link.putrequest("POST", path)
    for name, value in ({"Content-Length": "1000"} | headers).items():
        link.putheader(name, value)
    link.endheaders()
    answer = link.getresponse()
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    link.close()


def test_a_flood_of_wrong_signatures_does_not_flood_the_log(edge: Edge) -> None:
    """All of them are counted; the next line says how many were not written."""
    link, before = edge.connection(), edge.counted("gone", "unsigned")
    for _ in range(40):
        assert edge.post("/v1/webhooks/gone", {}, b"{}", link).status == 401
    link.close()
    assert edge.counted("gone", "unsigned") == before + 40
    assert 10 <= len([x for x in edge.logged("gone") if x["outcome"] == "unsigned"]) < 30


def test_what_policy_denies_is_told_and_seen(edge: Edge) -> None:
    """403 with the record; Stripe will come again, and is told the same."""
    body = b'{"id": "evt_1", "type": "charge.refunded", "created": 1700000000}'
    now = f"{time.time():.0f}"
    signature = hmac.digest(STRIPE, f"{now}.".encode() + body, "sha256").hex()
    headers = {"Stripe-Signature": f"t={now},v1={signature}"}
    answers = [edge.post("/v1/webhooks/stripe", headers, body) for _ in range(2)]

    assert [answer.status for answer in answers] == [403, 403]
    line = edge.logged("stripe")[0]
    assert (line["outcome"], line["record"]) == ("deny", answers[0].json["seq"])
    assert edge.counted("stripe", "deny") == 2


def test_what_waits_for_an_approval_is_taken(edge: Edge) -> None:
    """202: the sender need not come again. Its rule is all in the settings."""
    body = b'{"order": "o-1", "what": "sold", "total": 5, "card": "4111"}'
    signature = base64.b64encode(hmac.digest(SHOP, body, "sha512")).decode()
    answer = edge.post("/v1/webhooks/shop", {"X-Shop-Signature": signature}, body)

    assert (answer.status, answer.json["verdict"]) == (202, "hold")
    record = edge.record(answer)
    message = record.message()
    assert message
    assert (message.source, message.payload()) == ("webhook:shop", {"total": 5})


def test_slack_is_answered_as_it_wants(edge: Edge) -> None:
    """Its challenge in plain text; to what happened and to commands, nothing."""
    hello = b'{"type": "url_verification", "challenge": "3eZbrw1a", "token": "x"}'
    path = "/v1/webhooks/slack"
    assert edge.post(path, slack(hello), hello)[::2] == (200, b"3eZbrw1a")
    assert edge.post(path, slack(hello) | {"X-Slack-Signature": "v0=0"}, hello).status == 401

    command = urlencode({"command": "/deploy", "trigger_id": "t.1", "team_id": "T1"}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert edge.post(path, slack(command, **form), command)[::2] == (200, b"")
    assert [r.to for r in edge.records() if (m := r.message()) and m.id == "t.1"] == [
        "slack.command"
    ]


def test_what_makes_no_event_is_told_where(edge: Edge) -> None:
    """Signed, and of no use: 400. A webhook that is not there: 404."""
    for body in (b"{", b"[]", b"null", b""):
        answer = edge.post(HOOK, github(body, ""), body)
        assert (answer.status, answer.kind) == (400, "application/problem+json")
    assert edge.post("/v1/webhooks/no", {}, b"{}").status == 404
    assert edge.counted("github", "invalid") == 4


def test_a_principal_that_was_revoked_submits_nothing(edge: Edge) -> None:
    """Nor does the webhook that stood for it: 403, and it shows."""
    assert edge.post("/v1/webhooks/gone", github(PUSH, "g"), PUSH).status == 403  # by policy
    with edge.project.state.register.edit() as entries:
        entries["outside.gone"] = msgspec.structs.replace(
            entries["outside.gone"], revoked=rfc3339(time.time_ns())
        )
    answer = edge.post("/v1/webhooks/gone", github(PUSH, "h"), PUSH)

    assert answer.status == 403
    assert "outside.gone may not connect: unknown, revoked" in answer.json["detail"]
    assert edge.counted("gone", "not admitted") == 1


def event(edge: Edge, headers: dict[str, str], context: ssl.SSLContext | None = None) -> Answer:
    """Send an event as somebody."""
    kind = {"Content-Type": "application/cloudevents+json"}
    id = f"{time.time_ns()}"
    body = json.dumps({"specversion": "1.0", "id": id, "source": "x", "type": "a.b"}).encode()
    link = edge.connection(context)
    try:
        return edge.post("/v1/events", kind | headers, body, link)
    finally:
        link.close()


def test_each_way_in_is_a_principal(edge: Edge) -> None:
    """A token, a certificate and an OpenID token: the record says who it was."""
    tokens = Tokens(edge.project.state.tokens)
    token, text = tokens.add(WEB, now=time.time_ns(), rate="2/1h")
    shown = ssl.create_default_context(cafile=edge.authority.path)
    shown.load_cert_chain(*edge.authority.make("CN=shop,O=Example", "client"))
    ways: list[tuple[dict[str, str], ssl.SSLContext | None]] = [
        ({"Authorization": f"Bearer {text}"}, None),
        ({}, shown),
        ({"Authorization": f"Bearer {edge.provider.token()}"}, None),
    ]
    answers = [event(edge, *way) for way in ways]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert {edge.record(answer).by for answer in answers} == {"outside.web"}
    assert event(edge, *ways[0]).status == 200
    limited = event(edge, *ways[0])
    assert (limited.status, limited.kind) == (429, "application/problem+json")
    tokens.revoke(token.id)
    assert event(edge, *ways[0]).status == 401


def test_whoever_shows_nothing_good_is_told_what_to_show(edge: Edge) -> None:
    """401; 403 for somebody who is known to others but not here."""
    stranger = ssl.create_default_context(cafile=edge.authority.path)
    stranger.load_cert_chain(*edge.authority.make("CN=stranger", "stranger"))

    assert event(edge, {}).status == 401
    assert event(edge, {"Authorization": "Bearer tg_x"}).status == 401
    assert event(edge, {}, stranger).status == 403
    expired = edge.provider.token(exp=int(time.time()) - 100)
    assert event(edge, {"Authorization": f"Bearer {expired}"}).status == 401
    eve = edge.provider.token(sub="eve")
    assert event(edge, {"Authorization": f"Bearer {eve}"}).status == 403


@pytest.fixture
def payloads(tmp_path: Path) -> list[tuple[str, bytes]]:
    """Event and body of every example of the npm package."""
    package = install(NODE, tmp_path / "node") / "node_modules" / "@octokit" / "webhooks-examples"
    return [
        (entry["name"], json.dumps(example).encode())
        for index in sorted(package.glob("*/index.json"))
        for entry in json.loads(index.read_text())
        for example in entry["examples"]
    ]


@pytest.mark.long
@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_every_payload_that_github_is_known_to_send_passes(
    edge: Edge, payloads: list[tuple[str, bytes]]
) -> None:
    """Of github.com and five versions of the server: signed, sent, and one record each."""
    before = len(edge.records())

    def some(start: int) -> list[tuple[str, Answer]]:
        link = edge.connection()
        found: list[tuple[str, Answer]] = []
        for number in range(start, len(payloads), 4):
            name, body = payloads[number]
            answer = edge.post(HOOK, github(body, f"npm-{number}", name), body, link)
            found.append((name, answer))
        link.close()
        return found

    with ThreadPoolExecutor(4) as pool:
        answers = [answer for part in pool.map(some, range(4)) for answer in part]
    records = edge.records()[before:]

    assert len(answers) == len(payloads) == 726
    assert [(n, a.status, a.body) for n, a in answers if a.status != 200] == []
    assert len(records) == len(payloads)
    assert {record.verdict for record in records} == {"allow"}
    for name, answer in answers:
        seq: int = answer.json["seq"]
        record = records[seq - before - 1]
        assert record.to.split(".")[:2] == ["github", name]
        message = record.message()
        assert message
        assert message.body == payloads[int(message.id[4:])][1]
        assert message.source.startswith("https://github.com")
