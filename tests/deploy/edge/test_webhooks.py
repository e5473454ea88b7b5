"""Webhooks, tokens and certificates against the real edge of a real stack, over TLS."""

from __future__ import annotations

import base64
import hmac
import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest

from support.npm import INSTALL_SECONDS, install
from tidegate.tokens import Tokens
from tidegate_schemas.clock import rfc3339

from .hooked import SHOP, STRIPE, Answer, Edge, event, github, hooked, slack
from .kit import WEB

NODE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Edge]:
    """An edge that runs."""
    with hooked(tmp_path_factory.mktemp("edge"), pytestconfig) as running:
        yield running


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
