"""The key service on a real broker: who gets which keys, and what is destroyed when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policy import rig
from support import AGENT, CAPABILITY, OTHER, PUBLISHER, TOPIC, Broker, until
from support.broker import ROSTER
from tidegate_bus.keys import Keys
from tidegate_policy.personal.vault import Vault
from tidegate_policy.replay import Conformance
from tidegate_policy.roster import Roster
from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.errors import Denied, InvalidEnvelope, Unavailable, Unopened
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Principal, Verdict
from tidegate_schemas.vocabulary import COORDINATOR, OPERATOR

SECRET = "4111-1111-1111-1111"
DATA = {"card": SECRET}
DEAF = Registration(str(AGENT), Role.AGENT, (CAPABILITY,))
MEMBERS = [DEAF if m.principal == str(AGENT) else m for m in ROSTER]


def about(
    subject: str = "customer-42", type: str = TOPIC, data: Any = DATA, **more: Any
) -> Envelope:
    """An envelope about somebody."""
    return Envelope.new(type, data, dataclassification="personal", datasubject=subject, **more)


async def command(broker: Broker, to: str, data: dict[str, Any]) -> Record:
    """An operator's command, admitted."""
    publisher = await broker.publisher(OPERATOR)
    receipt = await publisher.publish(Envelope.new(to, data, kind="control", to=to))
    return (await broker.records())[receipt.seq - 1]


async def pseudonym(broker: Broker, name: str) -> str | None:
    """Of a data subject, as an operator finds it."""
    return await Keys(await broker.connect(OPERATOR)).find(name, timeout=5)


def on_disk(folder: Path) -> dict[Path, bytes]:
    """Every file of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.asynccontextmanager
async def serving(broker: Broker, **more: Any) -> AsyncGenerator[rig.Running]:
    """A gateway that knows who listens."""
    async with rig.running(broker, roster=MEMBERS, **more) as gateway:
        yield gateway


async def test_personal_data_reaches_no_disk_and_whom_it_is_for_reads_it(broker: Broker) -> None:
    """The record holds what was submitted, byte for byte, and that is sealed."""
    async with serving(broker):
        publisher = await broker.publisher()
        receipt = await publisher.publish(about())
        again = await publisher.publish(about(id=receipt.id))
        record = (await broker.records())[receipt.seq - 1]
        reader = Keys(await broker.connect(OTHER))
        opened = await reader.open_one(record, timeout=5)

    assert opened.payload() == DATA
    assert (again.verdict, again.seq) == (Verdict.DUPLICATE, receipt.seq)
    message = record.message()
    assert message
    assert (message.dataenc, message.dataclassification) == ("v1", "personal")
    assert opened.datasubject == message.datasubject
    for path, content in on_disk(broker.folder).items():
        assert SECRET.encode() not in content, path
        assert path == broker.vault or b"customer-42" not in content, path


@pytest.mark.parametrize("who", [AGENT, PUBLISHER, OPERATOR], ids=str)
async def test_a_stranger_gets_no_key(broker: Broker, who: Principal) -> None:
    """Neither another agent nor the sender's own kind nor an operator, who can read the record."""
    async with serving(broker):
        receipt = await (await broker.publisher()).publish(about())
        record = (await broker.records())[receipt.seq - 1]
        with pytest.raises(Unopened) as caught:
            await Keys(await broker.connect(who)).open_one(record, timeout=5)
    assert caught.value.why == Unopened.FORBIDDEN


async def test_tasks_results_and_starts_of_runs_are_for_those_they_go_to(broker: Broker) -> None:
    """The provider opens a task, who asked its result, the coordinator what starts a run."""
    async with serving(broker):
        ask, answer = await broker.publisher(), await broker.publisher(AGENT)
        asked = Envelope.new(CAPABILITY, kind="task", to=CAPABILITY)
        seq = (await (await broker.publisher(COORDINATOR)).publish(asked)).seq
        answering = {"to": str(COORDINATOR), "causationid": asked.id, "answers": str(seq)}
        sent = [
            (ask, about(type="work", kind="task", to=CAPABILITY), {AGENT}),
            (answer, about(type="done", kind="result", **answering), {COORDINATOR}),
            (ask, about(type="run.start", kind="control", to="run.start"), {COORDINATOR}),
            (ask, about(), {OTHER, COORDINATOR}),
        ]
        for publisher, envelope, whom in sent:
            receipt = await publisher.publish(envelope)
            record = (await broker.records())[receipt.seq - 1]
            able: set[Principal] = set()
            for who in (AGENT, OTHER, COORDINATOR):
                with contextlib.suppress(Unopened):
                    await Keys(await broker.connect(who)).open_one(record, timeout=5)
                    able.add(who)
            assert able == whom, envelope.type


async def test_who_was_denied_gets_nothing_opened(broker: Broker) -> None:
    """Only what was admitted is for anybody."""
    async with serving(broker):
        with pytest.raises(Denied) as caught:
            await (await broker.publisher()).publish(about(type="secret"))
        record = (await broker.records())[caught.value.seq - 1]
        with pytest.raises(Unopened, match="forbidden"):
            await Keys(await broker.connect(COORDINATOR)).open_one(record, timeout=5)


async def test_who_is_stopped_gets_no_key_until_released(broker: Broker) -> None:
    """A quarantine and a kill hold it back, a pause lets work in hand be finished."""
    target = {"target": f"agent:{OTHER}"}
    async with serving(broker):
        receipt = await (await broker.publisher()).publish(about())
        record = (await broker.records())[receipt.seq - 1]
        reader = Keys(await broker.connect(OTHER))
        await command(broker, "control.pause", target)
        await reader.open_one(record, timeout=5)
        for stop in ("control.quarantine", "control.kill"):
            await command(broker, stop, target)
            with pytest.raises(Unavailable, match="stopped by an operator"):
                await reader.open_one(record, timeout=0.5)
        await command(broker, "control.release", target)
        await reader.open_one(record, timeout=5)


async def test_unsealed_personal_data_is_denied_and_not_kept(broker: Broker) -> None:
    """Of a raw client the record says that it tried, and nothing of the data or of whom."""
    async with serving(broker), rig.sending(broker, PUBLISHER) as sender:
        plain = about(id="plain")
        fake = about(id="fake", dataenc="v1")
        named = about(
            "0" * 32 + ".2026-01", id="named", data_base64="AQ==", dataenc="v1", data=None
        )
        for envelope in (plain, fake, named):
            await sender.send(encode(envelope))
        await sender.send(encode(plain)[:-1])
        await until(lambda: len(sender.receipts) == 4)
        records = await rig.check(broker)

    assert [r.why.reason for r in records] == [*["unsealed"] * 3, "malformed"]
    for record in records[:3]:
        message = record.message()
        assert message
        assert (message.body, message.data_base64, message.datasubject) == (b"", None, None)
    assert records[3].raw is None
    ledger = await broker.stored(subjects.ledger_stream(0))
    assert SECRET.encode() not in b"".join(payload for _, payload in ledger)
    assert b"customer-42" not in b"".join(payload for _, payload in ledger)
    assert verified(broker, ledger, keys=True) == (0, 0)


async def test_a_sealed_message_of_another_is_denied(broker: Broker) -> None:
    """Who copies it from the ledger cannot send it, under their own name or another id."""
    async with serving(broker), rig.sending(broker, AGENT) as thief:
        receipt = await (await broker.publisher()).publish(about())
        message = (await broker.records())[receipt.seq - 1].message()
        assert message
        await thief.send(encode(message))
        await until(lambda: len(thief.receipts) == 1)
    assert thief.receipts[0].reason == "unsealed"


async def test_personal_data_needs_its_data_subject(broker: Broker) -> None:
    """The sender is told before anything is sent."""
    async with serving(broker):
        publisher = await broker.publisher()
        with pytest.raises(InvalidEnvelope, match="whom it is about"):
            await publisher.publish(Envelope.new("t", 1, dataclassification="personal"))
    assert await broker.records() == []


async def test_policy_sees_the_facts_of_sealed_data(broker: Broker) -> None:
    """What decides is what was sealed; what is redacted is sealed again without it."""
    rules = """
        @id("small") @redact("/card") permit (principal, action, resource)
        when { context.to == "thing.happened" };
        @id("rest") permit (principal, action, resource) unless { context.to == "thing.happened" };
    """
    async with serving(broker, policies=rules):
        receipt = await (await broker.publisher()).publish(about(data={**DATA, "n": 1}))
        record = (await broker.records())[receipt.seq - 1]
        opened = await Keys(await broker.connect(OTHER)).open_one(record, timeout=5)
    assert opened.payload() == {"card": "[redacted]", "n": 1}
    assert record.why.obligations == ("redact:/card#small",)


async def test_erased_it_is_gone_for_all_and_the_ledger_stays(broker: Broker) -> None:
    """The key is destroyed, readers are told, what is sealed with it later is denied."""
    async with serving(broker):
        publisher = await broker.publisher()
        receipt = await publisher.publish(about())
        other = await publisher.publish(about("customer-7"))
        before = await broker.stored(subjects.ledger_stream(0))
        found = await pseudonym(broker, "customer-42")
        assert found
        held = Keys(await broker.connect(PUBLISHER))
        late = await held.seal(about(id="late"), timeout=5)
        erased = await command(broker, "privacy.erase", {"subject": found})
        assert await pseudonym(broker, "customer-42") is None

        records = await broker.records()
        reader = Keys(await broker.connect(OTHER))
        with pytest.raises(Unopened) as caught:
            await reader.open_one(records[receipt.seq - 1], timeout=5)
        assert caught.value.why == Unopened.ERASED
        assert (await reader.open_one(records[other.seq - 1], timeout=5)).payload() == DATA
        with pytest.raises(Denied) as denied:
            await publisher.publish(late)
        assert denied.value.reason == "erased"
        with pytest.raises(Unopened, match="erased"):
            await publisher.publish(about(late.datasubject or ""))
        # What comes later is about somebody of whom nothing was kept.
        await publisher.publish(about())
        assert await pseudonym(broker, "customer-42") not in (None, found)

    after = await broker.stored(subjects.ledger_stream(0))
    assert after[: len(before)] == before
    assert erased.seq == len(before) + 1
    await rig.check(broker)


async def test_a_legal_hold_blocks_it_and_says_whose_it_is(broker: Broker) -> None:
    """Until it is released, whoever asks."""
    async with serving(broker):
        await (await broker.publisher()).publish(about())
        found = await pseudonym(broker, "customer-42")
        held = await command(broker, "privacy.hold", {"subject": found, "reason": "case 7"})
        for to in ("privacy.erase", "privacy.hold"):
            with pytest.raises(Denied) as caught:
                await command(broker, to, {"subject": found})
            assert caught.value.reason == "invalid_command"
            assert f"under legal hold by {OPERATOR} since {held.time}" in caught.value.detail
        assert await pseudonym(broker, "customer-42") == found
        await command(broker, "privacy.release", {"subject": found})
        with pytest.raises(Denied, match="is not held"):
            await command(broker, "privacy.release", {"subject": found})
        await command(broker, "privacy.erase", {"subject": found})
        assert await pseudonym(broker, "customer-42") is None


async def test_a_backup_of_the_vault_brings_no_key_back(broker: Broker) -> None:
    """Each start destroys again what the ledger says, and follows what a crash left undone."""
    async with serving(broker):
        publisher = await broker.publisher()
        receipt = await publisher.publish(about())
        backup = broker.vault.read_bytes()
        found = await pseudonym(broker, "customer-42")
        await command(broker, "privacy.erase", {"subject": found})
    broker.vault.write_bytes(backup)
    async with serving(broker):
        assert await pseudonym(broker, "customer-42") is None
        record = (await broker.records())[receipt.seq - 1]
        with pytest.raises(Unopened, match="erased"):
            await Keys(await broker.connect(OTHER)).open_one(record, timeout=5)


def moving(*times: str) -> tuple[Callable[[], int], list[int]]:
    """A clock, and what it shows."""
    now = [parse_rfc3339(time) for time in times]
    return lambda: now[0], now


async def test_what_is_older_than_the_retention_is_let_go_by_months(broker: Broker) -> None:
    """The gateway says so in the ledger; a legal hold keeps what was there."""
    clock, now = moving("2026-01-31T12:00:00Z")
    async with serving(broker, clock=clock):
        publisher = await broker.publisher()
        january = [await publisher.publish(about(name)) for name in ("ann", "bob")]
        ann = await pseudonym(broker, "ann")
        await command(broker, "privacy.hold", {"subject": ann})
        now[0] = parse_rfc3339("2026-02-01T12:00:00Z")
        february = await publisher.publish(about("bob"))
    now[0] = parse_rfc3339("2026-03-03T00:00:00Z")  # 30 days after the end of January

    async def opens(seq: int) -> bool:
        record = (await broker.records())[seq - 1]
        try:
            await Keys(await broker.connect(OTHER)).open_one(record, timeout=5)
        except Unopened:
            return False
        return True

    async with serving(broker, clock=clock, retention=30 * 86_400.0):

        async def let_go() -> bool:
            return not await opens(january[1].seq)

        await until(let_go)
        assert await opens(january[0].seq)
        assert await opens(february.seq)
        await command(broker, "privacy.release", {"subject": ann})
        assert not await opens(january[0].seq)
        with pytest.raises(Denied, match="told by the gateway itself"):
            await command(broker, "privacy.expire", {"before": "2030-01"})
    (expired,) = [
        r for r in await broker.records() if (r.to, r.verdict) == ("privacy.expire", "allow")
    ]
    message = expired.message()
    assert message
    assert (expired.by, message.payload()) == ("tidegate.gateway", {"before": "2026-02"})


async def test_a_command_to_the_bus_is_no_personal_data(broker: Broker) -> None:
    """Whoever replays the ledger must be able to follow it."""
    async with serving(broker):
        with pytest.raises(Denied, match="is no personal data"):
            await (await broker.publisher(OPERATOR)).publish(
                about(
                    type="control.pause", data={"target": "bus"}, kind="control", to="control.pause"
                )
            )


async def test_what_waits_and_is_erased_waits_in_vain(broker: Broker) -> None:
    """It is denied at once, and its ciphertext goes nowhere."""
    async with serving(broker):
        await command(broker, "control.pause", {"target": f"capability:{CAPABILITY}"})
        held = await (await broker.publisher()).publish(about(type="w", kind="task", to=CAPABILITY))
        assert held.verdict is Verdict.HOLD
        found = await pseudonym(broker, "customer-42")
        erased = await command(broker, "privacy.erase", {"subject": found})
        end = (await broker.records())[erased.seq]
    assert (end.verdict, end.why.reason, end.first) == (Verdict.DENY, "erased", held.seq)


async def test_the_verdicts_follow_from_the_ledger_with_the_vault_and_without(
    broker: Broker,
) -> None:
    """With all keys every record is decided again; without, those are counted, and no more."""
    async with serving(broker):
        publisher = await broker.publisher()
        for name in ("ann", "bob", "ann"):
            await publisher.publish(about(name))
        await publisher.publish(Envelope.new("plain"))
        with pytest.raises(Denied):
            await publisher.publish(about("bob", type="secret"))
        whole = await broker.stored(subjects.ledger_stream(0))
        assert verified(broker, whole, keys=True) == (0, 0)
        await command(broker, "privacy.erase", {"subject": await pseudonym(broker, "ann")})
        whole = await broker.stored(subjects.ledger_stream(0))
    assert verified(broker, whole, keys=True) == (0, 2)
    assert verified(broker, whole, keys=False) == (0, 4)


def verified(broker: Broker, ledger: list[tuple[str, bytes]], *, keys: bool) -> tuple[int, int]:
    """How many records differ, and how many cannot be replayed."""
    from policy.kit import write
    from support.broker import PERMIT_ALL
    from tidegate_policy.bundle import load_bundle
    from tidegate_policy.personal.privacy import NOTHING

    bundle = load_bundle(write(broker.folder / "again", {"policy.cedar": PERMIT_ALL}))
    vault = Vault.read(broker.vault) if keys else None
    start = bundle.snapshot(Roster.of(MEMBERS))
    check = Conformance(
        (600.0, 100_000), lambda n: ledger[n - 1][1], start=start, opener=vault or NOTHING
    )
    found = [d for n, (_, payload) in enumerate(ledger) for d in check.add(n + 1, payload)]
    if vault:
        vault.close()
    assert found == []
    return len(found), check.erased


async def test_an_answer_that_is_aimed_at_the_service_is_none(broker: Broker) -> None:
    """What comes without a way back is not looked at, and nonsense gets a refusal."""
    async with serving(broker):
        connection = await broker.connect(AGENT)
        await connection.publish(subjects.vault(AGENT), b"x")
        answer = await connection.request(subjects.vault(AGENT), b"x")
        assert msgspec.json.decode(answer)["why"] == "forbidden"
        await asyncio.wait_for(connection.request(subjects.vault(AGENT), b'{"ask":"open"}'), 5)
