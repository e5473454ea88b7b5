"""The dedupe window: what it remembers follows from the ledger, and is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policy.kit import EXAMPLES, NOW, PERMIT, PROVIDER, SENDER, loaded, submission
from tidegate_policy.bundle import Snapshot
from tidegate_policy.decide import Limits, decide, record
from tidegate_policy.state import State
from tidegate_policy.window import First, Window
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.record import Record, decode_record, encode_record
from tidegate_schemas.subjects import Verdict

SECOND = 1_000_000_000
LENGTH = 10
KEYS = [(by, name) for by in ("a.b", "c.d") for name in ("1", "2", "3")]

keys = st.sampled_from(KEYS)
steps = st.sampled_from([0, 1, SECOND, 4 * SECOND, LENGTH * SECOND - 1, LENGTH * SECOND])


def first(seq: int, time: int) -> First:
    """A first verdict."""
    return First(seq, time, Verdict.ALLOW, "permitted", ())


class WindowMachine(RuleBasedStateMachine):
    """Drives a window; the model keeps everything and counts."""

    @initialize(entries=st.integers(1, 5))
    def begin(self, entries: int) -> None:
        """An empty window."""
        self.entries = entries
        self.window = Window(LENGTH, entries)
        self.now = NOW
        self.all: list[tuple[tuple[str, str], First]] = []

    @rule(key=keys, step=steps)
    def add(self, key: tuple[str, str], step: int) -> None:
        """A verdict, some time later."""
        self.now += step
        verdict = first(len(self.all) + 1, self.now)
        self.all.append((key, verdict))
        self.window.add(*key, verdict)

    @rule(step=steps)
    def wait(self, step: int) -> None:
        """Nothing happens for some time."""
        self.now += step

    @invariant()
    def finds_what_is_young_and_among_the_newest(self) -> None:
        """An id is known while it is young, and among the newest `entries` of its sender."""
        newest = dict(self.all)
        for key in KEYS:
            verdict = newest.get(key)
            later = sum(
                other.seq > verdict.seq
                for (by, _), other in newest.items()
                if verdict and by == key[0]
            )
            known = (
                verdict is not None
                and later < self.entries
                and verdict.time > self.now - LENGTH * SECOND
            )
            assert self.window.find(*key, self.now) == (verdict if known else None)

    @invariant()
    def is_bounded(self) -> None:
        """Never more than `entries` of each sender are held."""
        assert len(self.window) <= 2 * self.entries


TestWindow = WindowMachine.TestCase
TestWindow.settings = EXAMPLES


@EXAMPLES
@given(st.lists(st.tuples(keys, st.integers(-60, 60))), st.integers(1, 3), st.integers(0, LENGTH))
def test_a_clock_that_jumps_does_no_harm(
    events: list[tuple[tuple[str, str], int]], entries: int, length: int
) -> None:
    """Also when the time goes back, or nothing may be remembered, the window stays bounded."""
    window = Window(length, entries)
    now = NOW
    for seq, (key, step) in enumerate(events, 1):
        now += step * SECOND
        if window.find(*key, now) is None:
            window.add(*key, first(seq, now))
        assert len(window) <= 2 * entries
        assert (window.find(*key, now) is None) == (length == 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Permits everything to two senders."""
    return loaded(tmp_path_factory.mktemp("bundle"), PERMIT)


def payload(name: str) -> bytes:
    """An event with this id; an empty one is no envelope at all."""
    return encode(Envelope.new("x.y", id=name)) if name else b"garbage"


def remember(window: Window, stored: Record) -> None:
    """What a gateway does with a record, its own or one that it reads."""
    message = stored.message()
    if message is not None:
        window.add_record(stored, message.key, parse_rfc3339(stored.time))


def rebuilt(records: list[Record], entries: int, since: int) -> Window:
    """A window made from the records of a ledger."""
    window = Window(LENGTH, entries)
    for stored in records:
        if parse_rfc3339(stored.time) >= since:
            remember(window, decode_record(encode_record(stored)))
    return window


@EXAMPLES
@given(
    st.lists(
        st.tuples(
            st.sampled_from([SENDER, PROVIDER, "some.stranger"]),
            st.sampled_from(["1", "2", "3", "4", ""]),
            steps,
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 6),
)
def test_the_ledger_alone_tells_what_is_remembered(
    bundle: Snapshot, submissions: list[tuple[str, str, int]], entries: int
) -> None:
    """At every record a window rebuilt from the ledger finds what the live one finds.

    From all records, and from those of one length before the moment of the restart: unreadable
    messages, repetitions and unknown senders among them.
    """
    live = Window(LENGTH, entries)
    records: list[Record] = []
    now = NOW
    for seq, (by, name, step) in enumerate(submissions, 1):
        now += step
        given_ = submission(payload(name), by=by, seq=seq)
        decision = decide(State(bundle, live), Limits(1000), given_, now)
        made = record(
            decision, given_, bundle.bundle.digest, log="test/0", seq=seq, epoch=1, now=now
        )
        remember(live, made)
        records.append(made)
        whole = rebuilt(records, entries, since=0)
        recent = rebuilt(records, entries, since=now - LENGTH * SECOND)
        assert len(whole) == len(live)
        for moment in (now, now + 1, now + 5 * SECOND, now + LENGTH * SECOND):
            for key in ((b, n) for b in (SENDER, PROVIDER, "some.stranger") for n in "1234"):
                known = live.find(*key, moment)
                assert whole.find(*key, moment) == known
                assert recent.find(*key, moment) == known


def test_a_repetition_does_not_renew_the_memory(tmp_path: Path) -> None:
    """The length is counted from the first verdict: who repeats for ever is new at some time."""
    bundle = loaded(tmp_path, PERMIT)
    window = Window(LENGTH, 10)
    verdicts: list[Verdict] = []
    for seq in range(1, 31):
        given_ = submission(payload("1"), seq=seq)
        now = NOW + seq * SECOND
        decision = decide(State(bundle, window), Limits(1000), given_, now)
        remember(
            window,
            record(decision, given_, bundle.bundle.digest, log="test/0", seq=seq, epoch=1, now=now),
        )
        verdicts.append(decision.verdict)

    assert verdicts == ([Verdict.ALLOW] + [Verdict.DUPLICATE] * (LENGTH - 1)) * 3
