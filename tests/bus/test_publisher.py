"""Submitting envelopes and hearing what became of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support import AGENT, LIMITS, OTHER, PUBLISHER, Broker, running_broker, until
from tidegate_bus import publisher as module
from tidegate_bus.broker.accounts import MAX_PAYLOAD, REGISTRAR
from tidegate_bus.broker.topology import converge
from tidegate_bus.publisher import Publisher
from tidegate_policy.invariants import Checker
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import (
    BacklogFull,
    Denied,
    InvalidEnvelope,
    NoReceipt,
    Rejected,
    Unavailable,
)
from tidegate_schemas.record import Receipt, encode_receipts
from tidegate_schemas.subjects import Verdict, receipt
from tidegate_schemas.vocabulary import GATEWAY

INGRESS = "INGRESS_0"


def event(name: str = "1", type: str = "thing") -> Envelope:
    """An envelope of that id."""
    return Envelope.new(type, id=name)


def nothing_is_kept(publisher: Publisher) -> bool:
    """Whether a publisher has forgotten all that it sent."""
    tables = (publisher._by_token, publisher._by_ingress)  # pyright: ignore
    return not any(tables)


async def test_a_receipt_says_where_the_record_is(broker: Broker) -> None:
    """Verdict, grounds and sequence are those of the ledger."""
    async with broker.gateway():
        publisher = await broker.publisher()
        first = await publisher.publish(event("1"))
        second = await publisher.publish(event("2"))
    records = await broker.records()

    assert (first.id, first.verdict, first.seq) == ("1", "allow", 1)
    assert (second.id, second.verdict, second.seq) == ("2", "allow", 2)
    assert first.policies == records[0].why.policies == ("everything",)
    assert [record.ingress.seq for record in records] == [first.ingress, second.ingress]
    assert nothing_is_kept(publisher)


async def test_a_denial_names_the_policies_that_decided(broker: Broker) -> None:
    """Denied has their ids, the reason and the sequence of the record."""
    async with broker.gateway():
        with pytest.raises(Denied) as caught:
            await (await broker.publisher()).publish(event(type="secret"))

    error = caught.value
    assert (error.reason, error.policies, error.seq) == ("forbidden", ("no-secrets",), 1)


async def test_where_no_policy_permits_there_is_none_to_name(broker: Broker) -> None:
    """Deny is the default."""
    async with broker.gateway(
        policies='@id("x") permit (principal, action, resource) when {false};'
    ):
        with pytest.raises(Denied) as caught:
            await (await broker.publisher()).publish(event())

    assert (caught.value.reason, caught.value.policies) == ("not_permitted", ())


async def test_a_repeated_envelope_gets_the_first_verdict(broker: Broker) -> None:
    """An admitted one its first sequence, a denied one its first error; repeats are on record."""
    async with broker.gateway():
        publisher = await broker.publisher()
        first = await publisher.publish(event("1"))
        again = await publisher.publish(event("1"))
        denials: list[Denied] = []
        for _ in range(2):
            with pytest.raises(Denied) as caught:
                await publisher.publish(event("2", type="secret"))
            denials.append(caught.value)

    assert (again.verdict, again.was, again.seq) == ("duplicate", "allow", first.seq)
    assert denials[0].seq == denials[1].seq
    assert denials[1].policies == ("no-secrets",)
    assert [record.verdict for record in await broker.records()] == [
        Verdict.ALLOW,
        Verdict.DUPLICATE,
        Verdict.DENY,
        Verdict.DUPLICATE,
    ]


async def test_events_are_told_apart_by_source_and_id(broker: Broker) -> None:
    """Two systems behind one principal may count both from 1; what is answered has one id."""
    async with broker.gateway():
        publisher = await broker.publisher()
        sources = [Envelope.new("thing", id="1", source=source) for source in ("a", "b", "a")]
        receipts = await asyncio.gather(*map(publisher.publish, sources))
        told = [
            await publisher.publish(Envelope.new("x", id="2", source=s, kind="control", to="do.it"))
            for s in ("a", "b")
        ]

    first = [found.seq for found in receipts]
    assert first[0] == first[2] != first[1]
    assert sorted(found.verdict for found in receipts) == ["allow", "allow", "duplicate"]
    assert [found.verdict for found in told] == ["allow", "duplicate"]


async def test_ids_are_of_each_sender(broker: Broker) -> None:
    """Two senders may use the same id."""
    async with broker.gateway():
        for who in (AGENT, OTHER):
            assert (await (await broker.publisher(who)).publish(event("1"))).verdict == "allow"


async def test_what_the_gateway_cannot_take_is_rejected(broker: Broker) -> None:
    """Also the receipt of an envelope that it did not read finds its sender."""
    async with broker.gateway(envelope_bytes=1000):
        publisher = await broker.publisher()
        large = Envelope.new("thing", "x" * 2000, id="large")
        results = await asyncio.gather(
            *(publisher.publish(event(str(n)), timeout=10.0) for n in range(20)),
            publisher.publish(large, timeout=10.0),
            *(publisher.publish(event(str(n)), timeout=10.0) for n in range(20, 40)),
            return_exceptions=True,
        )
    rejected = [result for result in results if isinstance(result, BaseException)]

    assert len(rejected) == 1
    assert isinstance(rejected[0], Rejected)
    assert rejected[0] is results[20]
    assert (rejected[0].reason, await broker.length(INGRESS)) == ("oversized", 41)
    assert nothing_is_kept(publisher)


async def test_what_the_broker_cannot_take_is_invalid_and_not_sent(broker: Broker) -> None:
    """A retry does not help, so it is not called unavailable."""
    publisher = await broker.publisher()
    with pytest.raises(InvalidEnvelope) as caught:
        await publisher.publish(Envelope.new("thing", "x" * MAX_PAYLOAD))

    assert caught.value.code == "oversized"
    assert await broker.length(INGRESS) == 0


async def test_no_more_envelopes_are_under_way_than_the_window_holds(broker: Broker) -> None:
    """Others wait in the callers; all get through."""
    publisher = await broker.publisher(window=3)
    publishing = [asyncio.create_task(publisher.publish(event(str(n)))) for n in range(10)]
    await until(lambda: broker_has(broker, 3))
    assert len(publisher._by_token) == 3  # pyright: ignore[reportPrivateUsage]

    async with broker.gateway():
        receipts = await asyncio.gather(*publishing)
    assert sorted(found.seq for found in receipts) == list(range(1, 11))


async def broker_has(broker: Broker, submissions: int) -> bool:
    """Whether that many are in the ingress."""
    return await broker.length(INGRESS) == submissions


async def test_accepted_needs_no_gateway(broker: Broker) -> None:
    """It returns when the ingress has it, well before anything would be sent again."""
    publisher = await broker.publisher()
    async with asyncio.timeout(module._RESEND_SECONDS / 2):  # pyright: ignore
        await publisher.publish(event(), wait="accepted")

    assert await broker.length(INGRESS) == 1
    assert nothing_is_kept(publisher)


async def test_without_a_gateway_there_is_no_receipt_and_trying_again_is_safe(
    broker: Broker,
) -> None:
    """NoReceipt says what was missing; the same envelope later is recorded as admitted once."""
    publisher = await broker.publisher()
    with pytest.raises(NoReceipt, match=r"no receipt for envelope '1' within 0\.2 s") as caught:
        await publisher.publish(event("1"), timeout=0.2)
    assert caught.value.envelope_id == "1"
    async with broker.gateway():
        found = await publisher.publish(event("1"))

    verdicts = [record.verdict for record in await broker.records()]
    assert verdicts == [Verdict.ALLOW, Verdict.DUPLICATE]
    assert found.seq == 1


async def test_an_envelope_that_nothing_is_heard_of_is_sent_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one call, without the caller knowing."""
    monkeypatch.setattr(module, "_RESEND_SECONDS", 0.2)
    publisher = await broker.publisher()
    publishing = asyncio.create_task(publisher.publish(event()))
    await until(lambda: broker_has(broker, 2))
    async with broker.gateway():
        assert (await publishing).seq == 1


async def test_without_an_ingress_the_error_says_so(tmp_path: Path) -> None:
    """NoReceipt tells that not even acceptance was heard, and what the broker said instead."""
    async with running_broker(tmp_path, streams=False) as broker:
        with pytest.raises(NoReceipt, match=r"no acceptance \(no ingress \(503\)\)"):
            await (await broker.publisher()).publish(event(), timeout=0.3)


async def test_everything_gets_through_a_restart_of_the_broker(broker: Broker) -> None:
    """Killed in the middle: every envelope has a receipt, and one record that is no duplicate."""
    async with broker.gateway() as gateway:
        publisher = await broker.publisher(window=64)
        publishing = [asyncio.create_task(publisher.publish(event(str(n)))) for n in range(500)]
        await until(lambda: sum(task.done() for task in publishing) > 100)
        await broker.kill()
        await broker.restart()
        receipts = await asyncio.gather(*publishing)
        assert not gateway.done()
        ingress_last = await broker.length(INGRESS)
        await until(lambda: all_recorded(broker, ingress_last))

    checker = Checker()
    records = [checker.add(stored) async for stored in (await broker.reader()).read()]
    first = Counter(
        record.message().id  # type: ignore[union-attr]
        for record in records
        if record and record.verdict is not Verdict.DUPLICATE
    )
    assert checker.finish(ingress_last=ingress_last) == []
    assert first == Counter(str(n) for n in range(500))
    assert len({found.seq for found in receipts}) == 500
    assert nothing_is_kept(publisher)


async def all_recorded(broker: Broker, ingress_last: int) -> bool:
    """Whether the ledger answers the last submission."""
    last = await (await broker.reader()).last()
    return last is not None and last.record().ingress.seq >= ingress_last


async def test_a_sender_over_its_quota_is_refused_and_gets_through_later(tmp_path: Path) -> None:
    """The broker refuses what is over the backlog of one sender; others are untouched."""
    async with running_broker(tmp_path, streams=False) as broker:
        await converge(await broker.connect(REGISTRAR), replace(LIMITS, backlog=10))
        flooding, other = await broker.publisher(AGENT), await broker.publisher(OTHER)
        publishing = [
            asyncio.create_task(flooding.publish(event(str(n)), wait="accepted")) for n in range(15)
        ]
        await until(lambda: sum(task.done() for task in publishing) == 10)
        with pytest.raises(NoReceipt, match=r"no acceptance \(maximum messages per subject"):
            await flooding.publish(event("late"), timeout=0.2)
        with pytest.raises(BacklogFull, match="try again") as full:
            await flooding.publish(event("later"), wait="accepted", when_full="raise")
        assert 0 < full.value.retry_after < 60
        await other.publish(event("1"), wait="accepted", timeout=1.0)
        assert await broker.length(INGRESS) == 11

        admin = await broker.connect(GATEWAY)
        await admin.api(f"$JS.API.STREAM.PURGE.{INGRESS}", {"seq": 12})
        await asyncio.gather(*publishing)
        assert len(await broker.stored(INGRESS)) == 5


async def test_forged_receipts_are_ignored(tmp_path: Path) -> None:
    """Another sender of the account can have the broker's answer sent to this subject too.

    All are in one account in operator mode; in an account of its own no such answer comes.
    """
    async with running_broker(tmp_path, together=True) as broker:
        publisher, other = await broker.publisher(), await broker.connect(OTHER)
        publishing = asyncio.create_task(publisher.publish(event("1")))
        await until(lambda: broker_has(broker, 1))
        with capture_logs() as logs:
            await other.publish("in.team.other", b"anything", reply=receipt(PUBLISHER))
            await until(lambda: bool(logs))
            assert not publishing.done()
        async with broker.gateway():
            assert (await publishing).verdict == "allow"

    assert [entry["event"] for entry in logs] == ["not receipts"]


async def test_in_an_account_of_its_own_no_forged_receipt_arrives(broker: Broker) -> None:
    """The answer that another sender aims at our receipts stays in the account of that one."""
    publisher, other = await broker.publisher(), await broker.connect(OTHER)
    publishing = asyncio.create_task(publisher.publish(event("1")))
    await until(lambda: broker_has(broker, 1))
    with capture_logs() as logs:
        await other.publish("in.team.other", b"anything", reply=receipt(PUBLISHER))
        await until(lambda: broker_has(broker, 2))
        async with broker.gateway():
            assert (await publishing).verdict == "allow"

    assert "not receipts" not in [entry["event"] for entry in logs]


async def test_receipts_of_others_with_the_same_key_are_ignored(broker: Broker) -> None:
    """A principal may run many processes; each hears all receipts and takes its own."""
    gateway = await broker.connect(GATEWAY)
    publisher, twin = await broker.publisher(), await broker.publisher()
    mine = asyncio.create_task(publisher.publish(event("mine")))
    await until(lambda: broker_has(broker, 1))
    unread = Receipt("", Verdict.REJECT, 1, "oversized", ingress=77)
    stranger = Receipt("theirs", Verdict.ALLOW, 1, "permitted", ingress=1)
    await gateway.publish(receipt(PUBLISHER), encode_receipts([unread, stranger]))
    own = Receipt("mine", Verdict.ALLOW, 2, "permitted", ingress=1)
    await gateway.publish(receipt(PUBLISHER), encode_receipts([own]))

    assert (await mine).seq == 2
    assert nothing_is_kept(twin)


async def test_a_cancelled_publish_leaves_nothing_behind(broker: Broker) -> None:
    """Neither state nor a place in the window, wherever it was."""
    publisher = await broker.publisher(window=2)
    publishing = [asyncio.create_task(publisher.publish(event(str(n % 2)))) for n in range(4)]
    await until(lambda: broker_has(broker, 2))
    for task in publishing:
        task.cancel()
    await asyncio.wait(publishing)
    assert all(task.cancelled() for task in publishing)
    assert nothing_is_kept(publisher)

    async with broker.gateway(), asyncio.timeout(10.0):
        await asyncio.gather(*(publisher.publish(event(str(n))) for n in range(10, 16)))


async def test_the_same_envelope_twice_at_once_gets_two_answers(broker: Broker) -> None:
    """One record is the first, and both callers hear of it."""
    async with broker.gateway():
        publisher = await broker.publisher()
        receipts = await asyncio.gather(*(publisher.publish(event("1")) for _ in range(5)))

    assert {found.seq for found in receipts} == {1}
    assert nothing_is_kept(publisher)


async def test_closing_ends_what_is_under_way(broker: Broker) -> None:
    """Unavailable at once, for those who wait and for those who come later."""
    connection = await broker.connect(PUBLISHER)
    async with await Publisher.start(connection) as publisher:
        publishing = asyncio.create_task(publisher.publish(event(), timeout=60.0))
        await until(lambda: broker_has(broker, 1))
    for attempt in (publishing, publisher.publish(event("2"))):
        async with asyncio.timeout(5.0):
            with pytest.raises(Unavailable):
                await attempt


async def test_a_broker_that_stands_still_does_not_hold_up_the_timeout(broker: Broker) -> None:
    """Not even once so much was sent that the socket takes no more."""
    publisher = await broker.publisher()
    large = [Envelope.new("thing", "x" * 900_000, id=str(n)) for n in range(8)]
    async with broker.paused(), asyncio.timeout(15.0):
        results = await asyncio.gather(
            *(publisher.publish(envelope, timeout=0.5) for envelope in large),
            return_exceptions=True,
        )

    assert [type(result) for result in results] == [NoReceipt] * 8
