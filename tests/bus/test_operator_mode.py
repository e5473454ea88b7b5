"""The broker in operator mode: the same permissions, signed instead of listed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support import AGENT, CAPABILITY, LIMITS, OPERATOR, OTHER, PUBLISHER, Broker, Raw, until
from support.broker import IN_CONTAINER
from tidegate_bus.broker import accounts, topology
from tidegate_bus.broker.accounts import NOTARY, PROBE, REGISTRAR, WARDEN, Identity
from tidegate_bus.broker.server import Server
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.connection import ApiError, Connection, connect
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_bus.identity import jwt
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.jwt import Key
from tidegate_bus.identity.keyring import Keyring
from tidegate_bus.identity.operator_mode import AccountLimits, Authority
from tidegate_bus.publisher import Publisher
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import InvalidInput, InvalidName, NotConnected, Unavailable
from tidegate_schemas.identity import Role
from tidegate_schemas.record import decode_record
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import COORDINATOR, EDGE, GATEWAY

pytestmark = pytest.mark.skipif(IN_CONTAINER, reason="the folder of accounts is not mounted")

INGRESS, LEDGER = "INGRESS_0", "LEDGER_0"
SECOND = 1_000_000_000
STORE_BYTES = 2**32
ROLE_OF = {
    GATEWAY: Role.GATEWAY,
    REGISTRAR: Role.REGISTRAR,
    WARDEN: Role.WARDEN,
    PROBE: Role.PROBE,
    NOTARY: Role.NOTARY,
    COORDINATOR: Role.COORDINATOR,
    OPERATOR: Role.OPERATOR,
    EDGE: Role.READER,
    AGENT: Role.AGENT,
    OTHER: Role.AGENT,
    PUBLISHER: Role.PUBLISHER,
}
EVENT = encode(Envelope.new("thing.happened", id="1"))
VIOLATION = b"-ERR 'Authorization Violation'"


class Wallet(Keyring):
    """Gives each principal the text of a `.creds` file, made when it is first asked for."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder)
        self._authority = authority
        self._texts: dict[Principal, str] = {}

    def seed(self, principal: Principal) -> str:
        """What `connect` takes."""
        if principal not in self._texts:
            found = self._authority.credentials(principal, ROLE_OF[principal], now=time.time_ns())
            self._texts[principal] = jwt.credentials_text(found)
        return self._texts[principal]


class Deployment(Broker):
    """A broker in operator mode, with its authority."""

    def __init__(self, server: Server, folder: Path, authority: Authority) -> None:
        super().__init__(server, Wallet(folder / "keys", authority), folder)
        self.authority = authority

    def credentials(self, who: Principal, **times: int) -> Credentials:
        """Fresh ones."""
        return self.authority.credentials(who, ROLE_OF[who], **{"now": time.time_ns(), **times})

    async def enter(self, who: Principal, credentials: Credentials) -> Connection:
        """A connection by these credentials, which ends with the broker."""
        connection = await connect(self.url, who, jwt.credentials_text(credentials))
        return await self._stack.enter_async_context(connection)

    async def revoke(self, warden: Connection, public_key: str, **times: int) -> None:
        """Take back what was issued to an agent's key."""
        times = {"now": time.time_ns(), **times}
        await self.authority.revoke(warden, public_key, Role.AGENT, **times)

    @property
    def revoked(self) -> set[str]:
        """The keys that the configuration revokes."""
        text = self.authority.configuration(store=self.folder / "jetstream")
        tokens = json.loads(text)["resolver_preload"].values()
        return {key for t in tokens for key in jwt.decode(t, jwt.Account).nats.revocations}

    async def start_again(self, configuration: str) -> None:
        """Kill the server and start it with a configuration."""
        os.kill(self.server.pid, signal.SIGKILL)
        await self.server.wait()
        file = self.folder / "nats.conf"
        file.write_text(configuration)
        self._server = await Server.start(file, self.server.log)

    async def length(self, stream: str) -> int:
        """Last sequence of a stream; nobody here may do everything."""
        return (await (await self.connect(GATEWAY)).stream_state(stream)).last_seq


def open_authority(folder: Path) -> Authority:
    """The authority of the tests."""
    return Authority.open(folder / "authority", AccountLimits(STORE_BYTES), now=time.time_ns())


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncGenerator[Deployment]:
    """A broker in operator mode with streams and consumers."""
    authority = open_authority(tmp_path)
    file = tmp_path / "nats.conf"
    file.write_text(authority.configuration(store=tmp_path / "jetstream"))
    running = Deployment(await Server.start(file, tmp_path / "server.log"), tmp_path, authority)
    try:
        await running.converge(Subscription(AGENT, (CAPABILITY,), (), 2.0))
        yield running
    finally:
        await running.close()


class Token(Raw):
    """The protocol by hand, with a token."""

    @classmethod
    async def knock(cls, url: str, credentials: Credentials, **more: Any) -> Token | bytes:
        """The connection, or how the broker refused it."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        nonce = json.loads((await reader.readline()).removeprefix(b"INFO "))["nonce"]
        options = {
            "jwt": credentials.jwt,
            "sig": credentials.sign(nonce).decode(),
            "headers": True,
            "verbose": False,
            **more,
        }
        writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
        answer = (await reader.readline()).strip()
        if answer == b"PONG":
            return cls(reader, writer)
        writer.close()
        await writer.wait_closed()
        return answer

    async def last_words(self) -> bytes:
        """What the broker says until it closes the connection, besides asking who is there."""
        words = await self._reader.read()
        await self.close()
        return words.replace(b"PING\r\n", b"").strip()


def refused(answers: list[bytes]) -> bool:
    """Whether the broker said no to what was asked last."""
    return any(b"Permissions Violation" in line for line in answers)


def examples(principal: Principal, *, publish: bool) -> set[str]:
    """One subject for each that any role of this name is allowed."""
    return {
        re.sub(r"\*|>", "x", subject)
        for role in Role
        for allowed in [accounts.permissions(principal, role)]
        for subject in (allowed.publish if publish else allowed.subscribe)
    }


PUBLISHED = sorted(
    {
        *examples(AGENT, publish=True),
        *examples(OTHER, publish=True),
        *examples(AGENT, publish=False),
        *("in.team.agent.more", "ledger.1.x", "_R_.x.y", "x", "$SYS.REQ.USER.INFO"),
        *("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.FC.x", "$JS.API.STREAM.CREATE.ANOTHER"),
        *(
            f"$JS.API.STREAM.{verb}.{stream}"
            for verb in ("UPDATE", "PURGE", "DELETE", "RESTORE", "SNAPSHOT", "MSG.GET")
            for stream in (INGRESS, LEDGER)
        ),
        *(
            f"$JS.API.CONSUMER.{verb}.{stream}.{name}"
            for verb in ("CREATE", "DURABLE.CREATE", "INFO", "DELETE", "MSG.NEXT", "RESET")
            for stream in (INGRESS, LEDGER)
            for name in ("team_agent", "team_other", "x.ledger.0.allow.task.work.do")
        ),
    }
)
SUBSCRIBED = sorted(
    {
        *examples(AGENT, publish=False),
        *examples(OTHER, publish=False),
        *(">", "*", "*.*", "*.*.*", "*.team.agent", "in.>", "in.team.agent", "ledger.>", "$JS.>"),
        *("$SYS.>", "_R_.>", "_INBOX.>", "_INBOX_team_agent.>", "_INBOX_team_other.>"),
        *("receipt.>", "receipt.team.*", "tail.>", "tail.1", "> q", "receipt.team.agent q"),
    }
)


async def effective(raw: Raw) -> tuple[set[str], set[str]]:
    """What the broker lets somebody publish on and subscribe to, of all that was tried."""
    subscribed = {
        subject
        for number, subject in enumerate(SUBSCRIBED)
        if not refused(
            await raw.say(f"SUB {subject} {number}".encode(), f"UNSUB {number}".encode())
        )
    }
    published = {s for s in PUBLISHED if not refused(await raw.publish(s, b"{}"))}
    await raw.close()
    return published, subscribed


async def test_each_role_may_do_what_it_may_do_by_the_static_configuration(
    deployment: Deployment, tmp_path: Path
) -> None:
    """The broker itself, asked about everything, lets through and refuses the same."""
    keys = Keyring(tmp_path / "static")
    named = {role: Principal("static", role.value) for role in Role}
    text = accounts.configuration(
        [Identity(AGENT, role, keys.ensure(who)) for role, who in named.items()],
        store=tmp_path / "static-streams",
        store_bytes=STORE_BYTES,
    )
    (tmp_path / "static.conf").write_text(text)
    now = time.time_ns()
    async with await Server.start(tmp_path / "static.conf", tmp_path / "static.log") as static:
        for role, who in named.items():
            listed = await Raw.open(static.url, keys.seed(who))
            found = deployment.authority.credentials(AGENT, role, now=now)
            signed = await Token.knock(deployment.url, found)
            assert isinstance(signed, Token), (role, signed)
            assert await effective(signed) == (expected := await effective(listed)), role
            assert all(expected), role


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("who", [AGENT, Principal("a-b", "-"), Principal("0", "a" * 63)], ids=str)
def test_a_template_with_the_tags_of_a_token_is_the_permissions(
    tmp_path: Path, role: Role, who: Principal
) -> None:
    """Whatever the name: the broker's substitution gives what `accounts.permissions` gives."""
    authority = open_authority(tmp_path)
    document = json.loads(authority.configuration(store=tmp_path / "jetstream"))
    found = authority.credentials(who, role, now=time.time_ns())
    user = jwt.decode(found.jwt, jwt.User)
    token = document["resolver_preload"][user.nats.issuer_account]
    keys = jwt.decode(token, jwt.Account).nats.signing_keys
    (scope,) = [k for k in keys if isinstance(k, jwt.Scope) and k.key == user.iss]
    tags = dict(tag.split(":") for tag in user.nats.tags)

    def substituted(subjects: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(re.sub(r"{{tag\((\w+)\)}}", lambda m: tags[m[1]], s) for s in subjects)

    allowed = accounts.permissions(who, role)
    assert scope.role == role
    assert substituted(scope.template.pub.allow) == allowed.publish
    assert substituted(scope.template.sub.allow) == allowed.subscribe


async def test_no_reply_subject_leads_into_a_stream(deployment: Deployment) -> None:
    """What an agent asks to be answered on stays in its account, as it does without tokens."""
    raw = await Token.knock(deployment.url, deployment.credentials(AGENT))
    assert isinstance(raw, Token)
    replies = ["ledger.0.allow.task.work.do", "in.team.other", "in.outside.source", "tail.0"]
    async with deployment.gateway():
        publisher = await deployment.publisher()
        await publisher.publish(Envelope.new("work", kind="task", to=CAPABILITY))
        for reply in replies:
            await raw.publish("in.team.agent", EVENT, reply)
            await raw.publish("$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.team_agent", b"1", reply)
            await raw.publish("$JS.ACK.LEDGER_0.team_agent.1.1.1.1.0", b"+NXT 1", reply)
        last = await publisher.publish(Envelope.new("afterwards"))
    await raw.close()

    records = await deployment.records()
    assert [r.by for r in records] == [str(PUBLISHER), *[str(AGENT)] * 4, str(PUBLISHER)]
    assert await deployment.length(INGRESS) == await deployment.length(LEDGER) == last.seq == 6


async def test_the_gateway_decides_and_a_worker_is_fed(deployment: Deployment) -> None:
    """Publisher, gateway, ledger and inbox work over it, and go on when others are revoked."""
    got: list[int] = []
    settling: list[asyncio.Task[None]] = []

    def receive(delivery: Delivery) -> None:
        got.append(delivery.record.seq)
        settling.append(asyncio.create_task(delivery.done()))

    warden = await deployment.connect(WARDEN)
    inbox = Inbox(await deployment.connect(AGENT), receive)
    await inbox.start()
    inbox.want(100)
    async with deployment.gateway():
        publisher = await deployment.publisher()
        admitted: list[int] = []
        for _ in range(5):
            receipt = await publisher.publish(Envelope.new("task", kind="task", to=CAPABILITY))
            admitted.append(receipt.seq)
            await until(lambda: got == admitted, seconds=2)
            await deployment.revoke(warden, Key.USER.public(Key.USER.new_seed()))
    await inbox.close()
    await asyncio.gather(*settling)


async def test_an_operator_reads_in_bulk(deployment: Deployment) -> None:
    """By its token, which says who may."""
    async with deployment.gateway():
        publisher = await deployment.publisher()
        await publisher.publish(Envelope.new("thing.happened", id="1"))
    records = await deployment.records()
    access = Access(deployment.url, OPERATOR, deployment.keyring.seed(OPERATOR))
    with BulkReader(access) as reader:
        entries = [entry for entries in reader.read() for entry in entries]
    refused = pytest.raises(Unavailable, match="Permissions Violation")
    poor = Access(deployment.url, PUBLISHER, deployment.keyring.seed(PUBLISHER))
    with BulkReader(poor) as reader, refused:
        list(reader.read())

    assert [decode_record(payload) for _, payload in entries] == records


async def test_a_new_agent_needs_no_change_at_the_server(deployment: Deployment) -> None:
    """A token that is signed while the server runs is enough to connect and to publish."""
    new = Principal("new-team", "new-agent")
    log = deployment.server.log.read_bytes()
    found = deployment.authority.credentials(new, Role.AGENT, now=time.time_ns())
    connection = await deployment.enter(new, found)
    answer = await connection.api("in.new-team.new-agent", {})

    assert answer == {"stream": INGRESS, "seq": 1}
    assert deployment.server.log.read_bytes() == log


async def test_a_key_that_is_not_known_here_gets_a_token(deployment: Deployment) -> None:
    """Who has the seed sends its public key, and puts the token it gets to its seed."""
    seed = Key.USER.new_seed()
    token = deployment.authority.token(AGENT, Role.AGENT, Key.USER.public(seed), now=time.time_ns())
    connection = await deployment.enter(AGENT, Credentials(seed, token))

    assert (await connection.api("in.team.agent", {}))["seq"] == 1


async def test_an_expired_token_is_refused(deployment: Deployment) -> None:
    """The time of the server decides."""
    now = time.time_ns()
    found = deployment.credentials(AGENT, now=now - 10 * SECOND, expires=now - 5 * SECOND)

    assert await Token.knock(deployment.url, found) == VIOLATION


async def test_a_connection_is_cut_when_its_token_expires(deployment: Deployment) -> None:
    """Without anybody's doing; in its last second it is still let in, and cut at once."""
    found = deployment.credentials(AGENT, expires=time.time_ns() + 2 * SECOND)
    raw = await Token.knock(deployment.url, found)
    assert isinstance(raw, Token)
    assert not refused(await raw.publish("in.team.agent", EVENT))

    assert await raw.last_words() == b"-ERR 'User Authentication Expired'"


async def test_a_revoked_agent_is_cut_at_once_and_nobody_else(deployment: Deployment) -> None:
    """When `revoke` returns it is over for that key; what another publishes arrives, once.

    At the broker something of it may be lost or doubled in that moment: the publisher sends
    again what was not acknowledged, and the gateway knows what it has seen.
    """
    warden, connection = await deployment.connect(WARDEN), await deployment.connect(OTHER)
    other = await Publisher.start(connection)
    sent: list[str] = []
    done = False

    async def flow() -> None:
        while not done:
            envelope = Envelope.new("thing")
            await other.publish(envelope)
            sent.append(envelope.id)

    async with deployment.gateway():
        flows = [asyncio.create_task(flow()) for _ in range(20)]
        for _ in range(10):
            found = deployment.credentials(AGENT)
            victim = await Token.knock(deployment.url, found)
            assert isinstance(victim, Token)
            before = len(sent)
            await until(lambda n=before: len(sent) > n + 20)
            await deployment.revoke(warden, found.public_key)
            assert await victim.last_words() == b"-ERR 'User Authentication Revoked'"
            assert await Token.knock(deployment.url, found) == VIOLATION
        done = True
        await asyncio.gather(*flows)

    first = [r.message() for r in await deployment.records() if r.verdict == "allow"]
    assert sorted(envelope.id for envelope in first if envelope) == sorted(sent)
    assert connection.nats.stats["reconnects"] == 0


async def test_whoever_subscribes_during_a_revocation_hears_of_its_verdicts(
    deployment: Deployment,
) -> None:
    """The broker would leave such a subscription without what is imported, for as long as it is."""
    warden, gateway = await deployment.connect(WARDEN), await deployment.connect(GATEWAY)
    agent = await deployment.connect(AGENT)
    heard: set[int] = set()
    subscribed, done = 0, False

    def listener(number: int) -> Callable[[Any], Any]:
        async def hear(_: object) -> None:
            heard.add(number)

        return hear

    async def subscribe() -> None:
        nonlocal subscribed
        while not done and subscribed < accounts.MAX_SUBSCRIPTIONS - 10:
            await agent.listen("receipt.team.agent", listener(subscribed))
            await agent.nats.flush()
            subscribed += 1

    subscribing = asyncio.create_task(subscribe())
    for _ in range(40):
        await deployment.revoke(warden, Key.USER.public(Key.USER.new_seed()))
    done = True
    await subscribing
    await gateway.publish("receipt.team.agent", b"")

    await until(lambda: len(heard) == subscribed)


async def test_a_key_may_come_back_after_its_revocation(deployment: Deployment) -> None:
    """Only what was issued until then is void, the second itself included."""
    warden = await deployment.connect(WARDEN)
    now = time.time_ns()
    old = deployment.credentials(AGENT, now=now)
    await deployment.revoke(warden, old.public_key, now=now)
    await deployment.revoke(warden, old.public_key, now=now - 60 * SECOND)
    for later, answer in ((0, VIOLATION), (1, None)):
        token = deployment.authority.token(
            AGENT, Role.AGENT, old.public_key, now=now + later * SECOND
        )
        found = await Token.knock(deployment.url, Credentials(old.seed, token))
        assert (found if isinstance(found, bytes) else None) == answer
        if isinstance(found, Token):
            await found.close()


@pytest.mark.parametrize("text", ["old", "new"])
@pytest.mark.parametrize("accounts_lost", [False, True])
async def test_a_restart_forgets_no_revocation(
    deployment: Deployment, text: str, accounts_lost: bool
) -> None:
    """Neither with the text from before, nor when the server's folder of accounts is gone.

    Only both together would forget it: then nobody has told this server.
    """
    if text == "old" and accounts_lost:
        pytest.skip("a server that was never told; the start writes the text anew")
    store = deployment.folder / "jetstream"
    old = deployment.authority.configuration(store=store)
    warden = await deployment.connect(WARDEN)
    found = [deployment.credentials(AGENT) for _ in range(3)]
    for credentials in found[:2]:  # in one second, most likely
        await deployment.revoke(warden, credentials.public_key)
    if accounts_lost:
        await warden.close()
        for file in (deployment.folder / "jetstream-accounts").rglob("*.jwt"):
            file.unlink()
    again = open_authority(deployment.folder)
    await deployment.start_again(old if text == "old" else again.configuration(store=store))

    answers = [await Token.knock(deployment.url, credentials) for credentials in found]
    assert answers[:2] == [VIOLATION] * 2
    assert isinstance(answers[2], Token)
    await answers[2].close()


async def test_a_revocation_that_did_not_arrive_is_in_force_after_the_next_start(
    deployment: Deployment,
) -> None:
    """It is written down first; and the caller knows that it did not arrive."""
    found = deployment.credentials(AGENT)
    warden = await deployment.connect(WARDEN)
    await warden.close()

    with pytest.raises(Unavailable, match="no answer to"):
        await deployment.revoke(warden, found.public_key)
    connection = await Token.knock(deployment.url, found)
    assert isinstance(connection, Token)
    await connection.close()

    text = open_authority(deployment.folder).configuration(store=deployment.folder / "jetstream")
    await deployment.start_again(text)
    assert await Token.knock(deployment.url, found) == VIOLATION


async def test_two_revocations_at_once_are_both_in_force(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes: one whose push is held up does not take the other back."""
    slow, quick = await deployment.connect(WARDEN), await deployment.connect(WARDEN)
    second = open_authority(deployment.folder)
    first_key, second_key = deployment.credentials(AGENT), deployment.credentials(AGENT)
    held, release, push = asyncio.Event(), asyncio.Event(), slow.api

    async def hold_up(subject: str, request: Any = None, *, timeout: float = 5.0) -> Any:
        held.set()
        await release.wait()
        return await push(subject, request, timeout=timeout)

    monkeypatch.setattr(slow, "api", hold_up)
    now = time.time_ns()
    one = asyncio.create_task(deployment.revoke(slow, first_key.public_key))
    await held.wait()
    two = asyncio.create_task(second.revoke(quick, second_key.public_key, Role.AGENT, now=now))
    await asyncio.wait({two}, timeout=0.3)
    release.set()
    await asyncio.gather(one, two)

    assert await Token.knock(deployment.url, first_key) == VIOLATION
    assert await Token.knock(deployment.url, second_key) == VIOLATION


async def test_what_no_longer_needs_to_be_revoked_is_forgotten(deployment: Deployment) -> None:
    """Once its tokens have expired, so the list does not grow for ever."""
    warden, now = await deployment.connect(WARDEN), time.time_ns()
    keys = [Key.USER.public(Key.USER.new_seed()) for _ in range(3)]
    await deployment.revoke(warden, keys[0], now=now, until=now + 5 * SECOND)
    await deployment.revoke(warden, keys[1], now=now)
    await deployment.revoke(warden, keys[2], now=now + 6 * SECOND)

    assert deployment.revoked == {keys[1], keys[2]}


async def test_too_many_revocations_are_an_error_and_change_nothing(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would read no such account, and a start would fail on it."""
    warden, found = await deployment.connect(WARDEN), deployment.credentials(AGENT)
    monkeypatch.setattr(jwt, "MAX_BYTES", 1_000)
    with pytest.raises(InvalidInput, match="the broker reads"):
        await deployment.revoke(warden, found.public_key)
    monkeypatch.undo()

    assert deployment.revoked == set()
    raw = await Token.knock(deployment.url, found)
    assert isinstance(raw, Token)
    await raw.close()


def forged(deployment: Deployment, **how: Any) -> Credentials:
    """A token of an agent as the authority would sign it, but for one thing."""
    seed = Key.USER.new_seed()
    right = jwt.decode(deployment.credentials(AGENT).jwt, jwt.User)
    account = how.get("account", right.nats.issuer_account)
    fields: dict[str, Any] = {"issuer_account": account, "tags": right.nats.tags}
    body = jwt.User(**{**fields, **how.get("body", {})})
    keys = deployment.folder / "authority"
    by = how.get("by", (keys / "signs-agent.nk").read_text().strip())
    token = jwt.encode(body, subject=Key.USER.public(seed), seed=by, now=time.time_ns())
    return Credentials(seed, token)


async def test_a_token_that_the_authority_did_not_sign_is_refused(deployment: Deployment) -> None:
    """Another key, another account, the account itself, the user itself, permissions of its own."""
    keys = deployment.folder / "authority"
    stranger, bus = Key.ACCOUNT.new_seed(), (keys / "BUS.nk").read_text().strip()
    agents = (keys / "AGENTS.nk").read_text().strip()
    everything = jwt.Permission(allow=(">",))
    attempts = {
        "another key": forged(deployment, by=stranger),
        "an account of its own": forged(
            deployment, by=stranger, account=Key.ACCOUNT.public(stranger)
        ),
        "another account": forged(deployment, account=Key.ACCOUNT.public(bus)),
        "the account's own key": forged(deployment, by=agents, body={"issuer_account": ""}),
        "the account's key by name": forged(deployment, by=agents),
        "permissions of its own": forged(deployment, body={"pub": everything}),
        "narrower permissions": forged(deployment, body={"sub": jwt.Permission(deny=("x",))}),
        "limits of its own": forged(deployment, body={"subs": 5}),
        "a bearer": forged(deployment, body={"bearer_token": True}),
        "the key of another": Credentials(Key.USER.new_seed(), deployment.credentials(AGENT).jwt),
    }
    answers = {how: await Token.knock(deployment.url, found) for how, found in attempts.items()}
    assert answers == dict.fromkeys(attempts, VIOLATION)

    right = forged(deployment)
    header, payload, _ = right.jwt.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["iss"] = claims["sub"]
    text = f"{header}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}"
    signature = base64.b64decode(right.sign(text))
    token = f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    assert await Token.knock(deployment.url, Credentials(right.seed, token)) == VIOLATION

    raw = await Token.knock(deployment.url, right)
    assert isinstance(raw, Token)  # so it was that one thing each time
    await raw.close()


async def test_a_token_without_tags_may_do_nothing(deployment: Deployment) -> None:
    """What a template lacks is left out by the broker, not filled with something."""
    raw = await Token.knock(deployment.url, forged(deployment, body={"tags": ()}))
    assert isinstance(raw, Token)

    assert await effective(raw) == (set(), set())


@pytest.mark.parametrize(
    ("team", "name"),
    [
        *[("*", "a"), ("a", "*"), (">", "a"), ("a", ">"), ("a.b", "c"), ("a", "b.c"), ("", "a")],
        *[("a", ""), ("a b", "c"), ("A", "b"), ("a_b", "c"), ("a", "{{name()}}"), ("a:b", "c")],
    ],
)
def test_a_name_that_is_more_than_a_name_gets_no_token(
    tmp_path: Path, team: str, name: str
) -> None:
    """A user named `*` would be everybody. Also where a principal was made past its own check."""
    forged_name = object.__new__(Principal)
    object.__setattr__(forged_name, "team", team)
    object.__setattr__(forged_name, "name", name)

    with pytest.raises(InvalidName):
        open_authority(tmp_path).credentials(forged_name, Role.AGENT, now=time.time_ns())


async def test_limits_of_connections_and_payloads_hold(tmp_path: Path) -> None:
    """Of all agents together, and of each of their messages."""
    limits = AccountLimits(STORE_BYTES, connections=2, subscriptions=3, payload_bytes=100)
    authority = Authority.open(tmp_path / "authority", limits, now=time.time_ns())
    (tmp_path / "nats.conf").write_text(authority.configuration(store=tmp_path / "jetstream"))
    found = authority.credentials(AGENT, Role.AGENT, now=time.time_ns())
    async with await Server.start(tmp_path / "nats.conf", tmp_path / "server.log") as server:
        first, second = [await Token.knock(server.url, found) for _ in range(2)]
        assert isinstance(first, Token)
        assert isinstance(second, Token)
        third = await Token.knock(server.url, found)
        assert third == b"-ERR 'maximum account active connections exceeded'"
        for number in range(3):
            assert not await first.say(b"SUB _INBOX_team_agent.%d %d" % (number, number))
        answers = await first.say(b"SUB _INBOX_team_agent.3 3")
        assert answers == [b"-ERR 'maximum subscriptions exceeded'"]
        with pytest.raises(AssertionError, match="closed"):
            await second.publish("in.team.agent", b"x" * 101)
        for raw in (first, second):
            await raw.close()


def test_an_authority_is_made_once_and_kept(tmp_path: Path) -> None:
    """The same keys and the same configuration, to the byte; only the owner may read them."""
    text = open_authority(tmp_path).configuration(store=tmp_path / "jetstream")
    again = open_authority(tmp_path).configuration(store=tmp_path / "jetstream")
    seeds = list((tmp_path / "authority").glob("*.nk"))

    assert text == again
    assert "SA" not in {line[:2] for line in re.findall(r"S[AOU][A-Z2-7]{56}", text)}
    assert len(seeds) == 2 + 3 + len(Role)
    assert {seed.stat().st_mode & 0o777 for seed in seeds} == {0o600}
    assert (tmp_path / "authority").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "authority").glob("*.part")) == []


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("operator.nk", "SOMETHING", "not an nkey seed"),
        ("BUS.nk", Key.USER.new_seed(), "no public key of kind account"),
        ("state.json", "{", r"state\.json: unreadable"),
        ("state.json", "", r"state\.json: unreadable"),
    ],
)
def test_a_damaged_authority_does_not_open(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    """It does not begin anew: that would forget who was revoked."""
    open_authority(tmp_path)
    (tmp_path / "authority" / name).write_text(content)

    with pytest.raises(InvalidInput, match=complaint):
        open_authority(tmp_path)


def test_seeds_that_others_may_read_are_refused(tmp_path: Path) -> None:
    """The message says what to do."""
    open_authority(tmp_path)
    (tmp_path / "authority" / "operator.nk").chmod(0o644)

    with pytest.raises(InvalidInput, match="chmod 600"):
        open_authority(tmp_path)


async def test_credentials_that_the_broker_refuses_are_not_connected(
    deployment: Deployment,
) -> None:
    """The product's own connection says so as it does for an unknown key."""
    now = time.time_ns()
    found = deployment.credentials(AGENT, now=now - 10 * SECOND, expires=now - 5 * SECOND)
    text = jwt.credentials_text(found)

    with pytest.raises(NotConnected, match=r"team\.agent.*Authorization Violation"):
        await connect(deployment.url, AGENT, text, timeout=0.5)


async def test_a_key_of_the_gateway_can_be_revoked_too(deployment: Deployment) -> None:
    """In its own account; agents stay connected."""
    warden = await deployment.connect(WARDEN)
    found = deployment.credentials(GATEWAY)
    gateway = await Token.knock(deployment.url, found)
    agent = await Token.knock(deployment.url, deployment.credentials(AGENT))
    assert isinstance(gateway, Token)
    assert isinstance(agent, Token)
    await deployment.authority.revoke(warden, found.public_key, Role.GATEWAY, now=time.time_ns())

    assert await gateway.last_words() == b"-ERR 'User Authentication Revoked'"
    assert await Token.knock(deployment.url, found) == VIOLATION
    assert set(await agent.say()) <= {b"PING"}
    await agent.close()


async def test_what_the_server_refuses_to_take_is_an_api_error(deployment: Deployment) -> None:
    """Its own words come with it."""
    warden = await deployment.connect(WARDEN)
    with pytest.raises(ApiError, match="jwt update resulted in error"):
        await warden.api("$SYS.REQ.CLAIMS.UPDATE", {})


async def test_the_streams_are_as_declared(deployment: Deployment) -> None:
    """Operator mode changes nothing about them."""
    registrar = await deployment.connect(REGISTRAR)

    assert await topology.drift(registrar, LIMITS) == []
