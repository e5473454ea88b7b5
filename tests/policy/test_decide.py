"""The pure core: every submission gets one verdict, on the first ground that applies."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from policy.kit import EXAMPLES, NOW, PROVIDER, SENDER, loaded, submission
from tidegate_bus.broker.accounts import MAX_PAYLOAD
from tidegate_bus.ingress import Submission
from tidegate_policy.bundle import Snapshot
from tidegate_policy.decide import MAX_LIMIT, Decision, Limits, decide, receipt, record
from tidegate_policy.state import State
from tidegate_policy.window import First, Window
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope, decode, encode
from tidegate_schemas.record import Ingress, Receipt, Record, Why, decode_record, encode_record
from tidegate_schemas.subjects import Kind, Verdict

LIMITS = Limits(10_000)
POLICIES = """
@id("open") permit (principal, action, resource) unless { context.to == "closed" };
@id("open-too") permit (principal, action, resource == Topic::"x.y");
@id("no-secrets") forbid (principal, action, resource == Topic::"secret");
@id("boom") forbid (principal, action, resource)
  when { context.to == "boom" && 9223372036854775807 + 1 > 0 };
"""
FIRST = First(7, NOW - 1, Verdict.DENY, "forbidden", ("no-secrets",))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Permits nearly everything; forbids secrets; fails for `boom`."""
    return loaded(tmp_path_factory.mktemp("bundle"), POLICIES)


def envelope(type: str = "x.y", data: Any = None, **attributes: Any) -> bytes:
    """An envelope with the id `e1`."""
    return encode(Envelope.new(type, data, id="e1", **attributes))


def window(first: First | None = None, **attributes: Any) -> Window:
    """A window that has seen at most the envelope `e1` of the sender."""
    seen = Window(600, 1000)
    if first:
        seen.add(SENDER, decode(envelope(**attributes)).key, first)
    return seen


def made(bundle: Snapshot, decision: Decision, given: Submission, now: int = NOW) -> Record:
    """The record of a decision as number 9 of the ledger."""
    return record(decision, given, bundle.bundle.digest, log="test/0", seq=9, epoch=3, now=now)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
good = st.fixed_dictionaries(
    {
        "specversion": st.just("1.0"),
        "id": st.sampled_from(["e1", "e2", "é💥"]),
        "source": st.just("s"),
        "type": st.sampled_from(["x.y", "secret", "closed", "boom"]),
    },
    optional={
        "kind": st.just("event"),
        "to": st.sampled_from(["x.y", "secret", "work.do", "boom", SENDER]),
        "runid": st.sampled_from(["r1", '"', "\\"]),
        "dataclassification": st.just("public"),
        "expirytime": st.sampled_from([rfc3339(NOW), rfc3339(NOW + 1)]),
        "costs": st.just("usd:1"),
        "attempt": st.integers(1, 9),
        "data": json_values,
    },
)
addressed = st.builds(
    dict[str, Any].__or__,
    good,
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["task", "event", "result", "control"]),
            "to": st.sampled_from(["work.do", "work.none", PROVIDER, "x.y", "boom"]),
        }
    ),
)
wrong = st.dictionaries(
    st.sampled_from(["data_base64", "x", "time", "id", "kind", "to"]), json_values, max_size=2
)
space = st.text(" \t\r\n", max_size=3).map(str.encode)


def as_json(value: object) -> bytes:
    """Text of a value; surrogates as the escapes that a hostile sender would write."""
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good envelope with one piece of it replaced."""
    good = envelope("x.y", {"n": [1, "two", None]}, kind="task", to="work.do", costs="usd:1")
    start = draw(st.integers(0, len(good)))
    end = draw(st.integers(start, min(start + 4, len(good))))
    return good[:start] + draw(st.binary(max_size=3)) + good[end:]


def joined(before: bytes, value: object, after: bytes) -> bytes:
    """A value with white space around it, and inside."""
    return before + as_json(value).replace(b"{", b"{ \r\n", 1) + after


payloads: st.SearchStrategy[bytes] = (
    st.binary(max_size=200)
    | json_values.map(as_json)
    | st.builds(joined, space, good, space)
    | st.builds(joined, space, addressed, space)
    | st.builds(joined, space, st.builds(dict[str, Any].__or__, addressed, wrong), space)
    | damaged()
)


@EXAMPLES
@given(payloads, st.sampled_from([SENDER, PROVIDER, "some.stranger", "*.>", ""]))
def test_any_bytes_get_a_record_and_a_receipt(bundle: Snapshot, payload: bytes, by: str) -> None:
    """Whatever is submitted, there is one verdict, one readable record and one receipt."""
    given_ = submission(payload, by=by, seq=77)
    decision = decide(State(bundle, window(FIRST)), LIMITS, given_, NOW)

    stored = made(bundle, decision, given_)

    event(f"{stored.verdict} {stored.why.reason}")  # --hypothesis-show-statistics
    assert decode_record(encode_record(stored)) == stored
    assert b"\n" not in encode_record(stored)
    message = stored.message()
    assert (message is None) == (stored.verdict is Verdict.REJECT) == (stored.raw is not None)
    if message is None:
        assert base64.b64decode(stored.raw or "") == payload
        assert (stored.kind, stored.to) == (Kind.UNKNOWN, "none")
    else:
        one_line = payload.strip(b" \t\r\n").replace(b"\r", b" ").replace(b"\n", b" ")
        assert bytes(msgspec.convert(stored.envelope, msgspec.Raw)) == one_line
        assert (stored.kind, stored.to) == message.destination()
    answer = receipt(decision, given_, stored.seq)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Receipt) == answer
    assert (answer.id, answer.ingress) == (message.id if message else "", 77)


@EXAMPLES
@given(payloads, st.sampled_from([SENDER, "some.stranger"]), st.booleans())
def test_the_same_arguments_make_the_same_record(
    bundle: Snapshot, payload: bytes, by: str, seen: bool
) -> None:
    """Nothing but the arguments matters: no clock, no chance, no memory of other questions."""

    def once() -> bytes:
        given_ = submission(payload, by=by)
        decision = decide(State(bundle, window(FIRST if seen else None)), LIMITS, given_, NOW)
        return encode_record(made(bundle, decision, given_))

    assert once() == once()


def test_a_record_says_everything(bundle: Snapshot) -> None:
    """Each field of a record is what the submission, the bundle and the gateway know."""
    payload = envelope(data={"é": 1.50})
    given_ = submission(b" \n" + payload + b"\r\n\t", seq=5, time=NOW - 1)

    decision = decide(State(bundle, window()), LIMITS, given_, NOW)

    assert made(bundle, decision, given_) == Record(
        v=1,
        log="test/0",
        seq=9,
        time=rfc3339(NOW),
        epoch=3,
        ingress=Ingress(5, 0, rfc3339(NOW - 1)),
        by=SENDER,
        kind=Kind.EVENT,
        to="x.y",
        verdict=Verdict.ALLOW,
        why=Why(("open", "open-too"), "permitted", bundle.bundle.digest),
        envelope=msgspec.Raw(payload),
    )
    assert receipt(decision, given_, 9) == Receipt(
        "e1", Verdict.ALLOW, 9, "permitted", 5, policies=("open", "open-too")
    )


TASK = {"kind": "task", "to": "work.do"}
GROUNDS: dict[str, tuple[bytes, Verdict, str, tuple[str, ...]]] = {
    "not JSON": (b"hello", Verdict.REJECT, "malformed", ()),
    "no destination": (
        b'{"specversion":"1.0","id":"e1","source":"s","type":"a b"}',
        Verdict.REJECT,
        "malformed",
        (),
    ),
    "too large": (envelope(data="x" * 10_000), Verdict.REJECT, "oversized", ()),
    "expired": (envelope(expirytime=rfc3339(NOW)), Verdict.DENY, "expired", ()),
    "no provider": (
        envelope(kind="task", to="work.none"),
        Verdict.DENY,
        "unknown_destination",
        (),
    ),
    "nobody": (envelope(kind="result", to="a.b"), Verdict.DENY, "unknown_destination", ()),
    "forbidden": (envelope("secret"), Verdict.DENY, "forbidden", ("no-secrets",)),
    "not permitted": (envelope("closed"), Verdict.DENY, "not_permitted", ()),
    "policy fails": (envelope("boom"), Verdict.DENY, "policy_error", ()),
    "event": (envelope(), Verdict.ALLOW, "permitted", ("open", "open-too")),
    "task": (envelope(**TASK), Verdict.ALLOW, "permitted", ("open",)),
    "result": (envelope(kind="result", to=PROVIDER), Verdict.DENY, "not_asked", ("open",)),
    "control": (envelope(kind="control", to="run.start"), Verdict.ALLOW, "permitted", ("open",)),
}


@pytest.mark.parametrize("ground", GROUNDS)
def test_each_ground_has_its_verdict(bundle: Snapshot, ground: str) -> None:
    """Verdict, reason and deciding policies, in the record as in the receipt."""
    payload, verdict, reason, policies = GROUNDS[ground]
    given_ = submission(payload)

    decision = decide(State(bundle, window()), LIMITS, given_, NOW)

    stored, answer = made(bundle, decision, given_), receipt(decision, given_, 9)
    assert (stored.verdict, stored.why.reason, stored.why.policies) == (verdict, reason, policies)
    assert (answer.verdict, answer.reason, answer.policies) == (verdict, reason, policies)
    assert answer.detail == stored.why.facts.get("detail", "")
    assert bool(answer.detail) == (reason not in {"permitted", "forbidden"})
    assert (stored.first, answer.was, answer.seq) == (None, None, 9)


def test_an_unknown_sender_is_denied(bundle: Snapshot) -> None:
    """Who is not in the roster is denied whatever policy says, and the record names it."""
    given_ = submission(envelope(), by="some.stranger")

    decision = decide(State(bundle, window()), LIMITS, given_, NOW)

    assert (decision.verdict, decision.reason) == (Verdict.DENY, "unknown_sender")
    assert made(bundle, decision, given_).by == "some.stranger"
    assert "some.stranger" in receipt(decision, given_, 9).detail


def test_a_repeated_envelope_gets_the_first_verdict(bundle: Snapshot) -> None:
    """The record refers to the first one; the receipt says what was decided then, and why."""
    given_ = submission(envelope(), seq=5)

    decision = decide(State(bundle, window(FIRST)), LIMITS, given_, NOW)

    stored = made(bundle, decision, given_)
    assert (stored.verdict, stored.why.reason, stored.first) == (Verdict.DUPLICATE, "repeated", 7)
    assert (stored.why.policies, stored.message()) == ((), decision.envelope)
    assert receipt(decision, given_, 9) == Receipt(
        "e1",
        Verdict.DUPLICATE,
        7,
        "forbidden",
        5,
        policies=("no-secrets",),
        was=Verdict.DENY,
    )


@pytest.mark.parametrize(
    ("given_", "repeated"),
    [
        (submission(envelope()), True),
        (submission(envelope("other")), True),
        (submission(envelope(source="elsewhere")), False),
        (submission(envelope(kind="control", to="x.y")), False),
        (submission(envelope(), by=PROVIDER), False),
        (submission(envelope().replace(b"e1", b"e2")), False),
        (submission(envelope().replace(b"e1", b"E1")), False),
    ],
)
def test_an_id_is_of_its_sender(bundle: Snapshot, given_: Submission, repeated: bool) -> None:
    """Another sender or source of an event is another message; the same of both is a repetition."""
    decision = decide(State(bundle, window(FIRST)), LIMITS, given_, NOW)

    assert (decision.verdict is Verdict.DUPLICATE) == repeated


@pytest.mark.parametrize(("ahead", "reason"), [(-1, "expired"), (0, "expired"), (1, "permitted")])
def test_a_message_expires_at_its_time(bundle: Snapshot, ahead: int, reason: str) -> None:
    """At the very nanosecond nobody wants it any more; one before, it goes through."""
    given_ = submission(envelope(expirytime=rfc3339(NOW + ahead)))

    assert decide(State(bundle, window()), LIMITS, given_, NOW).reason == reason


def test_the_first_ground_decides(bundle: Snapshot) -> None:
    """A message with every fault is told the first one; mended, the next, until it is admitted."""
    faults: list[tuple[str, dict[str, Any]]] = [
        ("oversized", {"bytes": 20_000}),
        ("malformed", {"costs": "much"}),
        ("unknown_sender", {"by": "some.stranger"}),
        ("repeated", {"first": FIRST}),
        ("expired", {"expirytime": rfc3339(NOW)}),
        ("unknown_destination", {"kind": "task", "to": "closed"}),
        ("not_permitted", {"to": "closed"}),
    ]
    told: list[str] = []
    for done in range(len(faults) + 1):
        wrong: dict[str, Any] = {}
        for _, fault in reversed(faults[done:]):
            wrong |= fault
        by, first = wrong.pop("by", SENDER), wrong.pop("first", None)
        data = "x" * wrong.pop("bytes", 0)
        fields = {"specversion": "1.0", "id": "e1", "source": "s", "type": "x.y", "data": data}
        given_ = submission(msgspec.json.encode(fields | wrong), by=by)
        seen = window(first, kind="task", to="closed")
        told.append(decide(State(bundle, seen), LIMITS, given_, NOW).reason)

    assert told == [*(reason for reason, _ in faults), "permitted"]


@pytest.mark.parametrize("size", [10_001, 300_000, MAX_PAYLOAD])
def test_an_oversized_message_is_kept_as_its_digest(bundle: Snapshot, size: int) -> None:
    """Length and SHA-256 stand in the record, the bytes do not."""
    payload = b"\xff" * size
    given_ = submission(payload)

    stored = made(bundle, decide(State(bundle, window()), LIMITS, given_, NOW), given_)

    assert (stored.why.reason, stored.raw, stored.message()) == ("oversized", None, None)
    assert stored.why.facts["bytes"] == size
    assert stored.why.facts["sha256"] == hashlib.sha256(payload).hexdigest()
    assert len(encode_record(stored)) < 1000


@pytest.mark.parametrize("limit", [256 * 1024, MAX_LIMIT])
@pytest.mark.parametrize("fill", [b"x", b"\xff", b'"', b"\\\\", "é".encode(), b"[", b'{"":'])
def test_every_record_is_one_that_the_broker_takes(tmp_path: Path, limit: int, fill: bytes) -> None:
    """Of no payload that the broker lets through does the record exceed what the broker takes.

    Also not when it is read, unread or too large, and when as many policies decided as there can
    be. The header of an append needs some room too.
    """
    permits = (f'@id("{n:0128}") permit (principal, action, resource);\n' for n in range(1024))
    bundle = loaded(tmp_path, "".join(permits))
    to = ".".join(["x" * 63] * 3)
    inside = envelope(to, "DATA", expirytime=f"2027-01-01T00:00:00.{'0' * 1003}Z")
    head, tail = inside.split(b"DATA")
    verdicts: set[Verdict] = set()
    for size in (limit - 1, limit, limit + 1, MAX_PAYLOAD):
        space = size - len(head) - len(tail)
        for payload in (
            head + fill * (space // len(fill)) + tail,
            fill * (size // len(fill)),
            head + b"x" * (size - len(head)),
        ):
            given_ = submission(payload)
            decision = decide(State(bundle, window()), Limits(limit), given_, NOW)
            verdicts.add(decision.verdict)
            assert len(encode_record(made(bundle, decision, given_))) < MAX_PAYLOAD - 1024

    assert Verdict.REJECT in verdicts
    assert (Verdict.ALLOW in verdicts) == (fill in {b"x", b"\\\\", "é".encode(), b"["})


def test_a_limit_that_no_record_could_hold_is_refused() -> None:
    """Above half a mebibyte an unreadable message would not fit into its record."""
    with pytest.raises(ValueError, match="at most 524288"):
        Limits(MAX_LIMIT + 1)
