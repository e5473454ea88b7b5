"""Conformance: what a gateway wrote follows from itself, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from policy.office import ANN, BOB, CY, OPEN, OPERATOR, PAYER, Office
from policy.office import policies as bundle
from tidegate.bench.history import WINDOW, History
from tidegate_bus.ingress import Submission
from tidegate_policy.decide import Limits
from tidegate_policy.replay import Conformance, Difference
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.record import Record, decode_record, encode_record
from tidegate_schemas.subjects import Verdict

CAREFUL = """
@id("all") permit (principal, action, resource);
@id("two") @require_approval("2 of ops.ann ops.bob ops.cy within 1h") @redact("/ssn")
permit (principal, action in Action::"task", resource);
"""


def checked(office: Office, leaves: list[bytes] | None = None) -> list[Difference]:
    """What is wrong with an office's ledger, or with another one."""
    ledger = office.ledger if leaves is None else leaves
    check = Conformance((office.window, 100_000), lambda seq: ledger[seq - 1], start=office.genesis)
    return [d for seq, leaf in enumerate(ledger, 1) for d in check.add(seq, leaf)]


def busy() -> Office:
    """An office in which something was held, agreed to, stopped and let go on."""
    office = Office(bundle(CAREFUL))
    held = [
        office.task(PAYER, "pay.out", {"n": n, "ssn": "123"}, dataschema="x").seq for n in range(4)
    ]
    office.grant(ANN, held[0])
    office.grant(BOB, held[0])
    office.grant(CY, held[1], "refuse")
    office.control(BOB, "control.pause", {"target": "agent:pay.payer"})
    office.grant(ANN, held[2])
    office.grant(BOB, held[2])
    office.control(BOB, "control.resume", {"target": "agent:pay.payer"})
    office.now += 3_700 * 10**9
    office.tick()
    office.activate(OPERATOR, bundle(OPEN))
    office.task(PAYER, "pay.out", {"n": 9})
    return office


def test_a_ledger_with_a_past_follows_from_itself() -> None:
    """Three bundles, holds, limits, commands, redactions, whatever people send: 0 differences."""
    leaves: list[bytes] = []
    check = Conformance(WINDOW, lambda seq: leaves[seq - 1])
    withheld = 0
    for seq, entry in enumerate(History(5).entries(2_500), 1):
        leaves.append(entry.payload)
        assert check.add(seq, entry.payload) == []
        withheld += entry.record.verdict == "reject" and entry.record.raw is None

    assert check.records == sum(check.bundles.values()) >= 2_500
    assert len(check.bundles) == 4
    assert check.unknown == withheld > 0  # no envelopes, so nobody could redact them


def test_what_was_held_and_ended_follows_too() -> None:
    """Approved, refused, expired, released; what was redacted stays redacted."""
    office = busy()
    verdicts = {(r.verdict.value, r.why.reason) for r in map(decode_record, office.ledger)}

    assert checked(office) == []
    assert {("allow", "approved"), ("deny", "approval_refused")} <= verdicts
    assert ("deny", "approval_expired") in verdicts
    assert not any(b'"123"' in leaf for leaf in office.ledger)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_gateway_that_was_killed_in_the_midst_follows(cut: int) -> None:
    """What was cut off is finished by the next one, at another time and with another epoch."""
    office = Office(bundle(CAREFUL))
    office.control(BOB, "control.pause", {"target": "agent:pay.payer"})
    for number in range(3):
        office.one(PAYER, Envelope.new("thing", {"n": number}))
        office.task(BOB, "pay.out")
    resume = Envelope.new(
        "control.resume", {"target": "agent:pay.payer"}, kind="control", to="control.resume"
    )
    office.submit(BOB, resume, cut=cut + 1)
    office.now += 10**9
    office.restart()
    office.task(PAYER, "pay.check")

    assert checked(office) == []


def test_what_could_not_be_read_is_decided_again_too() -> None:
    """From the bytes in the record; where it has none, it is said to be unknown."""
    office = Office(bundle(OPEN), limits=Limits(2_000))
    for payload in (b"", b"\xff", b"{}", b"x" * 3_000):
        office.one(PAYER, payload)
    name = "Nats-Sequence"
    submission = Submission(5, office.now, PAYER, b"{}", name)
    office.ledger += [entry.payload for entry in office.desk.take(submission, office.now) if entry]
    check = Conformance((office.window, 100_000), office.leaf, start=office.genesis)

    assert [d for seq, leaf in enumerate(office.ledger, 1) for d in check.add(seq, leaf)] == []
    assert check.unknown == 1
    assert b"reserved_header" in office.ledger[4]


def changed(**values: Any) -> Callable[[Record], Record]:
    """A record with other values."""
    return lambda record: msgspec.structs.replace(record, **values)


def grounds(**values: Any) -> Callable[[Record], Record]:
    """A record with other grounds."""
    return lambda r: msgspec.structs.replace(r, why=msgspec.structs.replace(r.why, **values))


def emptied(reason: str) -> Callable[[Record], Record]:
    """A record that says it was rejected, with what stands for a message that is not there."""
    why = grounds(reason=reason, facts={"detail": "", "bytes": 1, "sha256": ""})
    return lambda record: why(changed(envelope=msgspec.UNSET, verdict="reject")(record))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (grounds(policies=("none",)), "allow, permitted by none under .* it follows allow, permi"),
        (grounds(reason="learned"), "allow, learned by all under .*; it follows allow, permitted"),
        (grounds(bundle="sha256:" + "0" * 64), "under sha256:000000000000; it follows"),
        (grounds(obligations=("redact:/x#all",)), "obliged to redact:/x#all"),
        (grounds(facts={"detail": "so"}), r"\(so\)"),
        (changed(to="pay.check"), "`to` is 'pay.check'; it follows 'pay.out'"),
        (changed(by="nobody.here"), "unknown_sender"),
        (changed(first=1), "`first` is 1"),
        (changed(verdict="duplicate"), "cannot be read|duplicate"),
        (changed(envelope=msgspec.Raw(b"{}")), "cannot be read"),
        (changed(time="2026-02-30T00:00:00Z"), "cannot be read"),
    ],
)
def test_a_record_that_was_changed_is_a_difference(
    change: Callable[[Record], Record], said: str
) -> None:
    """Whatever of it was changed; the records after it are judged by what the ledger says."""
    office = Office(bundle(OPEN))
    for number in range(5):
        office.task(PAYER, "pay.out", {"n": number})
    leaves = list(office.ledger)
    leaves[2] = encode_record(change(decode_record(leaves[2])))
    differences = checked(office, leaves)

    assert [difference.seq for difference in differences] == [3]
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(differences[0].what)


@pytest.mark.parametrize(
    "change",
    [
        changed(envelope=msgspec.UNSET),
        changed(envelope=msgspec.UNSET, verdict="deny"),
        changed(envelope=msgspec.UNSET, verdict="reject"),
        emptied("malformed"),
        emptied("forbidden"),
    ],
)
def test_a_record_without_its_message_is_a_difference(change: Callable[[Record], Record]) -> None:
    """Unless it was too large for a record, or was not to be read where something is redacted."""
    office = Office(bundle(OPEN))
    office.task(PAYER, "pay.out")
    leaf = encode_record(change(decode_record(office.ledger[0])))

    assert [difference.seq for difference in checked(office, [leaf])] == [1]


def test_what_is_missing_and_what_is_too_much_are_differences() -> None:
    """A consequence that was left out, and one that follows from nothing."""
    office = busy()
    approved = next(
        n for n, leaf in enumerate(office.ledger) if decode_record(leaf).why.reason == "approved"
    )
    without = office.ledger[:approved] + office.ledger[approved + 1 :]
    twice = [*office.ledger[: approved + 1], *office.ledger[approved:]]

    assert checked(office, without)[0] == Difference(
        approved + 1, "comes before a consequence of the last submission"
    )
    assert "nothing follows" in checked(office, twice)[0].what


def test_a_verdict_that_was_turned_is_found_in_any_place() -> None:
    """One denied message that is recorded as admitted, or the other way round, anywhere."""
    office = busy()
    for place, leaf in enumerate(office.ledger):
        record = decode_record(leaf)
        other = "deny" if record.verdict == "allow" else "allow"
        leaves = list(office.ledger)
        leaves[place] = encode_record(msgspec.structs.replace(record, verdict=other))
        assert place + 1 in {d.seq for d in checked(office, leaves)}


def test_bytes_that_are_no_record_are_a_difference() -> None:
    """It goes on with the next one."""
    office = Office(bundle(OPEN))
    office.task(PAYER, "pay.out")
    office.one(PAYER, encode(Envelope.new("thing")))
    differences = checked(office, [office.ledger[0], b"what?", office.ledger[1]])

    assert differences[0].seq == 2
    assert "cannot be read" in differences[0].what


def test_settings_may_change_over_the_life_of_a_ledger() -> None:
    """What no ledger holds, its records tell: a size, a report that was missing."""
    office = Office(bundle(OPEN), limits=Limits(20_000))
    office.one(PAYER, Envelope.new("thing", "x" * 10_000))
    first, second = (bundle(OPEN + f"// {n}") for n in "12")
    office.activate(BOB, first)
    office.limits = Limits(5_000, report=True)
    office.restart()
    office.one(PAYER, Envelope.new("thing", "x" * 10_000))
    (denied,) = office.activate(BOB, second)
    assert denied.verdict is Verdict.DENY

    assert checked(office) == []
