"""The probe: refused everywhere on the product's configuration, and not where a defence is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from support import ADMIN, AGENT, CAPABILITY, Broker, until
from support.broker import ROSTER, configure
from tidegate_bus.broker import authority, tls
from tidegate_bus.broker.accounts import PROBE
from tidegate_bus.broker.server import Server
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.keyring import Keyring, new_seed
from tidegate_bus.identity.operator_mode import AccountLimits, Authority
from tidegate_bus.watch.probe import Report, probe
from tidegate_bus.watch.prober import Prober
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.identity import Role
from tidegate_schemas.record import Record
from tidegate_schemas.vocabulary import BYPASSED, PROBED

Mutation = Callable[[dict[str, Any], str], None]
"""Changes a configuration, given the public key of the probe."""

INJECTION = {"inject-by-reply", "one-record"}


@contextlib.asynccontextmanager
async def mutated(folder: Path, mutate: Mutation) -> AsyncGenerator[Broker]:
    """A broker whose configuration is not the product's, with streams and a consumer."""
    keyring = Keyring(folder / "keys")
    path = configure(folder, keyring)
    document = json.loads(path.read_text())
    mutate(document, keyring.ensure(PROBE))
    path.write_text(json.dumps(document))
    broker = Broker(await Server.start(path, folder / "server.log"), keyring, folder)
    try:
        await broker.converge(Subscription(AGENT, (CAPABILITY,), (), 2.0))
        yield broker
    finally:
        await broker.close()


async def prober(broker: Broker, **options: Any) -> Prober:
    """A prober of a broker, with a reader."""
    reader = await broker.reader()
    secret = broker.keyring.path(PROBE)
    return Prober(broker.url, secret, victim=AGENT, reader=reader, **options)


def bypass() -> float:
    """The gauge now."""
    return REGISTRY.get_sample_value("tidegate_bypass") or 0.0


def payload(record: Record) -> dict[str, Any]:
    """The data of a record's envelope."""
    message = record.message()
    assert message
    data: dict[str, Any] = message.payload()
    return data


def unlimited(direction: str) -> Mutation:
    """The probe may do in one direction what it likes."""

    def mutate(document: dict[str, Any], key: str) -> None:
        accounts = document["accounts"].values()
        (user,) = [u for account in accounts for u in account["users"] if u["nkey"] == key]
        user["permissions"][direction]["allow"] = [">"]

    return mutate


def one_account(document: dict[str, Any], _: str) -> None:
    """The agents live where the streams are; what each user may do is as it was."""
    accounts = document["accounts"]
    for name in [name for name in accounts if name not in ("SYS", "BUS")]:
        accounts["BUS"]["users"] += accounts.pop(name)["users"]
    del accounts["BUS"]["exports"]


def open_door(document: dict[str, Any], key: str) -> None:
    """Who shows no key is the probe."""
    document["no_auth_user"] = key


async def test_on_the_configuration_of_the_product_everything_is_refused(broker: Broker) -> None:
    """By the broker's own words, and the ledger has the one record of the round."""
    probing = await prober(broker)
    async with broker.gateway():
        report = await probing.once()

    assert [a for a in report.attempts if a.through is not False] == []
    assert len(report.attempts) == 22
    assert (report.alarm, bypass()) == (0, 0)
    (record,) = await broker.records()
    assert (record.by, record.to, record.verdict) == (str(PROBE), PROBED, "allow")
    assert payload(record)["nonce"] == report.nonce
    assert {a["name"] for a in payload(record)["attempts"]} == {
        a.name for a in report.attempts if a.name not in INJECTION
    }


async def test_a_probe_that_policy_knows_nothing_of_leaves_a_record_all_the_same(
    broker: Broker,
) -> None:
    """A denial is a record."""
    probing = await prober(broker)
    async with broker.gateway(roster=[r for r in ROSTER if r.principal != str(PROBE)]):
        report = await probing.once()

    assert report.through == report.inconclusive == ()
    assert [record.verdict for record in await broker.records()] == ["deny"]


PUBLISHING = (
    *("submit-as-other", "write-ledger", "forge-receipt", "create-stream", "update-stream"),
    *("delete-stream", "purge-stream", "create-consumer", "read-ledger", "ack-as-other"),
    *("pull-as-other", "ask-system"),
)
HEARING = ("hear-everything", "hear-submissions", "hear-ledger", "hear-inbox", "hear-receipts")


@pytest.mark.parametrize(
    ("mutate", "through"),
    [
        (unlimited("publish"), PUBLISHING),
        (unlimited("subscribe"), HEARING),
        (one_account, ("inject-by-reply",)),
        (open_door, ("login-keyless", "login-unproven")),
    ],
    ids=["publish", "subscribe", "one account", "open door"],
)
async def test_each_defence_that_is_removed_is_found_out(
    tmp_path: Path, mutate: Mutation, through: tuple[str, ...]
) -> None:
    """The attempts that it held off go through, the gauge says so, and the ledger."""
    async with mutated(tmp_path, mutate) as broker:
        probing = await prober(broker)
        async with broker.gateway():
            with capture_logs() as logs:
                report = await probing.once()
        records = await broker.records()
    alarms = [record for record in records if record.to == BYPASSED]

    assert report.through == through
    assert report.inconclusive == ()
    assert bypass() == 1
    assert any(line["log_level"] == "error" for line in logs)
    assert [(a.seq, payload(a)["attempts"]) for a in alarms] == [(report.alarm, list(through))]


@pytest.mark.parametrize("together", [False, True], ids=["two accounts", "one account"])
async def test_what_goes_through_does_no_harm(tmp_path: Path, together: bool) -> None:
    """Streams, consumers and ledger are as they were, but for records in the probe's own names.

    The victim goes on hearing of what it publishes.
    """

    def both(document: dict[str, Any], key: str) -> None:
        unlimited("publish")(document, key)
        if together:
            one_account(document, key)

    async with mutated(tmp_path, both) as bus:
        probing = await prober(bus)
        async with bus.gateway():
            victim = await bus.publisher(AGENT)
            await victim.publish(Envelope.new("before"))
            report = await probing.once()
            again = await probing.once()
            await victim.publish(Envelope.new("after"))
        records = await bus.records()
        admin = await bus.connect(ADMIN)
        streams = await admin.api("$JS.API.STREAM.NAMES")
        consumers = await admin.api("$JS.API.CONSUMER.NAMES.LEDGER_0")

    assert report.through
    assert again.through == report.through
    assert sorted(streams["streams"]) == ["HEADS_0", "INGRESS_0", "LEDGER_0"]
    assert consumers["consumers"] == ["team_agent"]
    others = [record.to for record in records if not record.by.startswith(str(PROBE))]
    assert others == ["before", "after"]
    assert [record.seq for record in records] == list(range(1, len(records) + 1))


async def test_an_alarm_ends_when_everything_is_proven_refused_again(
    broker: Broker, tmp_path: Path
) -> None:
    """Not before: a broker that is away proves nothing."""
    (tmp_path / "other").mkdir()
    async with mutated(tmp_path / "other", unlimited("subscribe")) as other:
        await (await prober(other, timeout=0.3)).once()
        assert bypass() == 1
    probing = await prober(broker, timeout=0.3)
    without_gateway = await probing.once()
    assert set(without_gateway.inconclusive) == INJECTION
    assert bypass() == 1
    async with broker.gateway():
        await (await prober(broker)).once()
    assert bypass() == 0


async def test_where_no_broker_is_nothing_is_proven(broker: Broker) -> None:
    """And nothing is raised."""
    credentials = Credentials.of(broker.keyring.path(PROBE))
    reader = await broker.reader()
    url = broker.url
    await broker.kill()
    report = await probe(url, credentials, victim=AGENT, reader=reader, timeout=0.2)

    assert {attempt.through for attempt in report.attempts} == {None}
    assert report.inconclusive == tuple(attempt.name for attempt in report.attempts)


async def test_a_broker_that_stands_still_does_not_hold_up_the_probe(broker: Broker) -> None:
    """Whatever it has been asked; nothing is proven."""
    credentials = Credentials.of(broker.keyring.path(PROBE))
    reader = await broker.reader()
    async with broker.paused(), asyncio.timeout(5):
        report = await probe(broker.url, credentials, victim=AGENT, reader=reader, timeout=0.1)

    assert {attempt.through for attempt in report.attempts} == {None}
    assert len(report.attempts) == 22


async def test_a_probe_that_the_broker_does_not_know_proves_nothing(broker: Broker) -> None:
    """But that strangers are refused: what is refused for another reason is not proven."""
    stranger = Credentials(new_seed())
    report = await probe(broker.url, stranger, victim=AGENT, reader=None)

    assert {a.name for a in report.attempts if a.through is False} == {
        "login-unknown",
        "login-keyless",
        "login-unproven",
    }
    assert not report.through


async def test_a_prober_goes_on_whatever_happens(broker: Broker) -> None:
    """It tells of each round; a key that is gone is logged and tried again."""
    reports: list[Report] = []
    async with broker.gateway():
        probing = await prober(broker, interval=0.01, tell=reports.append)
        path = broker.keyring.path(PROBE)
        task = asyncio.create_task(probing.run())
        try:
            await until(lambda: len(reports) > 0)
            path.rename(path.with_suffix(".away"))
            with capture_logs() as logs:
                await until(lambda: any(line["event"] == "cannot probe" for line in logs))
            path.with_suffix(".away").rename(path)
            before = len(reports)
            await until(lambda: len(reports) > before)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("optional", [False, True], ids=["required", "optional"])
async def test_with_tls_clear_text_is_tried_too(tmp_path: Path, optional: bool) -> None:
    """And found out where the broker takes both."""
    authority.create(tmp_path / "tls")
    keyring = Keyring(tmp_path / "keys")
    path = configure(tmp_path, keyring)
    document = json.loads(path.read_text())
    document["tls"] = tls.server_block(tmp_path / "tls", mutual=True)
    document["allow_non_tls"] = optional
    path.write_text(json.dumps(document))
    trust = tls.client_context(tmp_path / "tls")
    async with await Server.start(path, tmp_path / "server.log") as server:
        credentials = Credentials.of(keyring.path(PROBE))
        report = await probe(server.url, credentials, victim=AGENT, reader=None, tls=trust)

    assert report.through == (("clear-text",) if optional else ())
    assert set(report.inconclusive) == INJECTION  # there are no streams


async def test_in_operator_mode_everything_is_refused_too(tmp_path: Path) -> None:
    """A token without its seed opens nothing, nor does a key without a token."""
    now = time.time_ns()
    operator = Authority.open(tmp_path / "authority", AccountLimits(2**30), now=now)
    path = tmp_path / "nats.conf"
    path.write_text(operator.configuration(store=tmp_path / "jetstream"))
    credentials = operator.credentials(PROBE, Role.PROBE, now=now)
    async with await Server.start(path, tmp_path / "server.log") as server:
        report = await probe(server.url, credentials, victim=AGENT, reader=None)

    assert report.through == ()
    assert set(report.inconclusive) == INJECTION  # there are no streams
