"""The checker: silent on a good ledger, and each single fault of another is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from policy.kit import NOW, PERMIT, PROVIDER, SENDER, loaded, submission
from tidegate_bus.ledger import StoredRecord
from tidegate_policy.decide import Limits, decide, record
from tidegate_policy.invariants import Checker
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.record import Record, encode_record
from tidegate_schemas.subjects import Kind, Verdict

Ledger = list[StoredRecord]
SUBMISSIONS = 9


def task(name: str, **attributes: Any) -> bytes:
    """A task for the one who takes it."""
    return encode(Envelope.new("t", id=name, kind="task", to="work.do", **attributes))


def result(name: str, of: str, answers: int, to: str = SENDER) -> bytes:
    """The result of a task."""
    cause: dict[str, Any] = {"causationid": of, "answers": str(answers)}
    return encode(Envelope.new("r", id=name, kind="result", to=to, **cause))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A ledger with every verdict, two gateways, a repetition and a consequence."""
    bundle = loaded(
        tmp_path_factory.mktemp("bundle"),
        PERMIT,
        '@id("secret") forbid (principal, action, resource == Topic::"secret");',
    )
    window = Window(60, 100)
    state = State(bundle, window)
    given_ = [
        submission(task("t1")),
        submission(b"garbage"),
        submission(task("t1")),
        submission(encode(Envelope.new("secret", id="e1"))),
        submission(task("t2"), by=PROVIDER),
        submission(result("r1", "t1", 1), by=PROVIDER),
        submission(task("t2")),
        submission(result("r2", "t2", 8), by=PROVIDER),
        submission(result("r3", "t2", 6, PROVIDER), by=PROVIDER),
    ]
    ledger: Ledger = []

    def add(made: Record) -> None:
        subject = subjects.ledger(0, made.verdict, made.kind, made.to)
        ledger.append(StoredRecord(made.seq, subject, encode_record(made), NOW))

    for number, one in enumerate(given_, 1):
        seq = len(ledger) + 1
        numbered = submission(one.payload, by=one.by, seq=number)
        decision = decide(state, Limits(1000), numbered, NOW)
        epoch = 1 if number < 5 else 2
        made = record(
            decision, numbered, bundle.bundle.digest, log="test/0", seq=seq, epoch=epoch, now=NOW
        )
        if decision.envelope is not None:
            window.add_record(made, decision.envelope.key, NOW)
            state.asked.apply(made, decision.envelope)
        if number == 4:  # as when what is held is denied at once
            add(msgspec.structs.replace(made, verdict=Verdict.HOLD))
            follows = msgspec.structs.replace(made.ingress, n=1)
            made = msgspec.structs.replace(made, seq=seq + 1, ingress=follows, first=seq)
        add(made)
    assert {one.record().verdict for one in ledger} == set(Verdict)
    return ledger


def check(ledger: Ledger, ingress_last: int | None = SUBMISSIONS) -> list[str]:
    """What the checker says of a ledger."""
    checker = Checker()
    for stored in ledger:
        checker.add(stored)
    return checker.finish(ingress_last=ingress_last)


def test_a_good_ledger_passes(good: Ledger) -> None:
    """Nothing is found, and what was counted is right."""
    checker = Checker()
    returned = [checker.add(stored) for stored in good]

    assert checker.finish(ingress_last=SUBMISSIONS) == []
    assert returned == [stored.record() for stored in good]
    assert checker.records == len(good) == SUBMISSIONS + 1
    assert checker.last_ingress == SUBMISSIONS
    assert checker.verdicts == {"allow": 6, "deny": 1, "hold": 1, "duplicate": 1, "reject": 1}


def test_an_empty_ledger_passes() -> None:
    """Before the first message there is nothing to find, unless the ingress had one already."""
    assert check([], 0) == []
    assert check([], None) == []
    assert check([], 1) == ["ingress ends at 1, its records at 0"]


def test_a_ledger_may_still_be_growing(good: Ledger) -> None:
    """Every beginning of a good ledger is good, but for tasks that are still open."""
    for length in range(len(good)):
        checker = Checker()
        for stored in good[:length]:
            checker.add(stored)
        assert checker.finish(quiet=False) == []
        assert checker.finish() == [f"record {n}: task without result" for n in checker.open_tasks]


def changed(stored: StoredRecord, **fields: Any) -> StoredRecord:
    """The same place in the stream, another record in it."""
    payload = encode_record(msgspec.structs.replace(stored.record(), **fields))
    return StoredRecord(stored.seq, stored.subject, payload, stored.stored)


def renumbered(ledger: Ledger) -> Ledger:
    """The stream and its records count from 1 again, as somebody would who hides a change."""
    return [
        StoredRecord(seq, one.subject, changed(one, seq=seq).payload, one.stored)
        for seq, one in enumerate(ledger, 1)
    ]


def ingress(stored: StoredRecord, **fields: int) -> StoredRecord:
    """Another submission as the cause."""
    return changed(stored, ingress=msgspec.structs.replace(stored.record().ingress, **fields))


def moved(stored: StoredRecord, subject: str) -> StoredRecord:
    """The same record under another subject."""
    return StoredRecord(stored.seq, subject, stored.payload, stored.stored)


def damaged(stored: StoredRecord, payload: bytes) -> StoredRecord:
    """Other bytes in its place."""
    return StoredRecord(stored.seq, stored.subject, payload, stored.stored)


OTHER = encode(Envelope.new("other", id="other"))
Fault = Callable[[Ledger, int], Ledger]


def at(change: Callable[[StoredRecord], StoredRecord]) -> Fault:
    """A fault of one record."""
    return lambda ledger, n: [*ledger[:n], change(ledger[n]), *ledger[n + 1 :]]


FAULTS: dict[str, Fault] = {
    "dropped": lambda ledger, n: [*ledger[:n], *ledger[n + 1 :]],
    "repeated": lambda ledger, n: [*ledger[: n + 1], *ledger[n:]],
    "swapped": lambda ledger, n: [
        *ledger[: n - 1],
        ledger[n],
        ledger[n - 1],
        *ledger[n + 1 :],
    ],
    "repeated and renumbered": lambda ledger, n: renumbered([*ledger[: n + 1], *ledger[n:]]),
    "swapped and renumbered": lambda ledger, n: renumbered(
        [*ledger[: n - 1], ledger[n], ledger[n - 1], *ledger[n + 1 :]]
    ),
    "under another verdict": at(lambda one: moved(one, "ledger.0.hold.event.x")),
    "under another destination": at(lambda one: moved(one, f"{one.subject}.x")),
    "under no ledger subject": at(lambda one: moved(one, "ledger.0")),
    "bears the sequence before": at(lambda one: changed(one, seq=one.seq - 1)),
    "bears the sequence after": at(lambda one: changed(one, seq=one.seq + 1)),
    "of the submission before": at(lambda one: ingress(one, seq=one.record().ingress.seq - 1)),
    "of the submission after": at(lambda one: ingress(one, seq=one.record().ingress.seq + 1)),
    "of another part of it": at(lambda one: ingress(one, n=one.record().ingress.n + 1)),
    "of a negative part of it": at(lambda one: ingress(one, n=-1)),
    "of an earlier epoch": at(lambda one: changed(one, epoch=0)),
    "other kind": at(
        lambda one: changed(one, kind=Kind.EVENT if one.record().kind != "event" else Kind.TASK)
    ),
    "with the envelope of another": at(lambda one: changed(one, envelope=msgspec.Raw(OTHER))),
    "without envelope": at(
        lambda one: changed(one, envelope=msgspec.UNSET, verdict=Verdict.ALLOW, first=None)
    ),
    "refers to itself": at(lambda one: changed(one, verdict=Verdict.DUPLICATE, first=one.seq)),
    "empty": at(lambda one: damaged(one, b"")),
    "garbage": at(lambda one: damaged(one, b"\xff{")),
    "cut short": at(lambda one: damaged(one, one.payload[:-1])),
    "with a space": at(lambda one: damaged(one, one.payload.replace(b":", b": ", 1))),
    "of a later version": at(lambda one: damaged(one, one.payload.replace(b'"v":1', b'"v":2', 1))),
    "with a damaged envelope": at(
        lambda one: changed(one, envelope=msgspec.Raw(b'{"specversion":"1.0"}'))
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_single_fault_is_found(good: Ledger, fault: str) -> None:
    """Whichever record it strikes."""
    first = 1 if fault.startswith("swapped") or fault == "of an earlier epoch" else 0
    for n in range(first, len(good)):
        assert check(FAULTS[fault](good, n)), f"not found at {n}"


def test_a_hidden_loss_is_found(good: Ledger) -> None:
    """A record cut out, with all after it counted anew, leaves its submission without an answer."""
    for n, stored in enumerate(good):
        if stored.record().ingress.n == 0:
            assert check(renumbered([*good[:n], *good[n + 1 :]])), f"not found at {n}"


@pytest.mark.parametrize("first", [None, 0, -1, 3, 4, 10_000])
def test_a_duplicate_refers_to_an_earlier_record(good: Ledger, first: int | None) -> None:
    """Not to nothing, not to itself and not to what comes later."""
    assert good[2].record().verdict is Verdict.DUPLICATE

    assert check(at(lambda one: changed(one, first=first))(good, 2)) == [
        f"record 3: duplicate refers to {first}"
    ]


def test_only_a_duplicate_refers_to_another_record(good: Ledger) -> None:
    """A first record of anything else is a fault."""
    assert check(at(lambda one: changed(one, first=1))(good, 6)) == ["record 7: allow refers to 1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict": Verdict.DENY},
        {"to": PROVIDER},
        {"kind": Kind.EVENT},
        {"envelope": msgspec.Raw(result("r1", "other", 1))},
    ],
)
def test_a_task_without_result_is_found(good: Ledger, fields: dict[str, Any]) -> None:
    """What closes a task is an admitted result, to its sender, that names it as its cause."""
    struck = changed(good[6], **fields)
    made = struck.record()
    subject = subjects.ledger(0, made.verdict, made.kind, made.to)
    ledger = [*good[:6], moved(struck, subject), *good[7:]]

    assert check(ledger)[-1] == "record 1: task without result"


def test_few_violations_say_enough(good: Ledger) -> None:
    """A ledger that is wrong all over is told in a hundred lines."""
    stored = good[0]
    checker = Checker()
    for _ in range(1_000):
        checker.add(stored)

    assert len(checker.violations) == 100


def test_what_was_held_ends_once_and_as_its_sender_s(good: Ledger) -> None:
    """The end of a hold names it, bears its sender, and there is no second one."""
    for first in (None, 1, 5, 10_000):
        faulty = [*good[:4], changed(good[4], first=first), *good[5:]]
        assert check(faulty) == [f"record 5: deny refers to {first}"]
    assert "record 5: deny refers to 4" in check(at(lambda one: changed(one, by=PROVIDER))(good, 4))
