"""An edge with webhooks, certificates and an OpenID provider, over TLS; and what calls it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http.client
import json
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidegate.bus import Bus
from tidegate.cli.init import init
from tidegate.processes import running
from tidegate.project import Project, load_project
from tidegate_schemas.record import Record

from .kit import Authority, Provider, up

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


@contextlib.contextmanager
def hooked(folder: Path, config: pytest.Config) -> Generator[Edge]:
    """Run an edge with webhooks, certificates and an OpenID provider."""
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
    with up(root, config, environment):
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
