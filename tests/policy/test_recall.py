"""What a gateway knows after reading a part of the ledger is what all of it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from policy.lives import Life, Shelf
from policy.office import (
    ANN,
    ASKER,
    BOB,
    COORDINATOR,
    OPEN,
    PAYER,
    SECOND,
    Office,
    policies,
    taken,
)
from support import Broker
from tidegate_bus.appender import FastAppender
from tidegate_bus.ingress import Submission
from tidegate_bus.ledger import LedgerReader
from tidegate_policy.asked import Asked
from tidegate_policy.desk import Desk, Entry
from tidegate_policy.recall import Reader, recall
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.record import decode_record
from tidegate_schemas.vocabulary import GATEWAY

HOUR = 3600 * SECOND
Later = list[tuple[int, str, Envelope]]


def begin(office: Office) -> State:
    """The state of a gateway that has read nothing, and forgets tasks and events soon."""
    state = State(office.genesis, Window(office.window, 100_000))
    state.asked = Asked(3, 1)
    return state


async def recalled(office: Office, reader: Reader, now: int) -> State:
    """The state of a gateway that starts now."""
    tail = await anext(aiter(reader.read(len(office.ledger))))
    return await recall(reader, lambda: begin(office), 0, tail, now)


def lines(entries: Iterator[Entry | None]) -> list[bytes]:
    """The records as they would be stored."""
    return [entry.payload for entry in entries if entry]


def goes_on(office: Office, state: State, later: Later, now: int) -> list[list[bytes]]:
    """What a gateway with that state writes next, until there is no more."""
    desk = Desk(state, office.limits, "test/0", 0, 99, len(office.ledger))
    last = decode_record(office.ledger[-1]).ingress
    written = [lines(desk.go_on(last, now))]
    ledger = office.ledger + written[0]

    def leaf(seq: int) -> bytes:
        return ledger[seq - 1]

    for number, (at, by, envelope) in enumerate(later):
        submission = Submission(office.submitted + 1 + number, at, by, encode(envelope))
        written.append(lines(taken(desk, submission, at, leaf)))
        ledger.extend(written[-1])
    return written


def what_comes(life: Life, steps: int, now: int) -> Later:
    """Whatever else may be submitted, from `now` on, by what a whole gateway does with it."""
    office = life.office
    kept, office.now = list(office.ledger), now
    office.restart()
    later: Later = []
    for _ in range(steps):
        by, envelope = life.anything()
        later.append((office.now, by, envelope))
        office.submit(by, envelope)
    office.ledger[:] = kept
    office.submitted -= steps
    return later


async def live_and_compare(seed: int, *, steps: int = 120, endless: bool = False) -> None:
    """One life, a start after it, and what is decided then."""
    life = Life(seed, endless=endless)
    life.live(steps)
    office, chance = life.office, life.chance
    ahead = chance.choice([0, 0, SECOND, -20 * SECOND, 5 * HOUR, -5 * HOUR])
    now = office.now + chance.choice([0, SECOND, 60 * SECOND, 601 * SECOND, HOUR, 26 * HOUR])
    shelf, working = Shelf(office.ledger, ahead), office.desk.state
    later = what_comes(life, 60, now)

    whole = goes_on(office, office.fold(), later, now)
    part = goes_on(office, await recalled(office, shelf, now), later, now)

    assert whole == part, f"seed {seed}"
    if not life.cut:
        assert whole == goes_on(office, working, later, now), f"seed {seed}, without a start"


@pytest.mark.parametrize("block", range(6))
async def test_a_part_of_the_ledger_is_as_good_as_all_of_it(block: int) -> None:
    """Whatever happened before, the records after a start are the same, byte for byte.

    The same as after reading all of it, and as those of a gateway that did not start again.

    With holds that end by approval, time, control and the end of their run, perhaps cut off in the
    middle; with bundles of different windows that come and go; with clocks that differ.
    """
    for seed in range(block * 10, block * 10 + 10):
        await live_and_compare(seed)


async def test_a_budget_without_a_window_is_counted_from_the_first_record() -> None:
    """However long ago its run began."""
    for seed in range(1000, 1010):
        await live_and_compare(seed, endless=True)


async def test_what_the_end_of_a_run_ended_waits_no_more() -> None:
    """Though nobody commanded it, and however long ago that was."""
    office = Office(policies(OPEN))
    office.control(ANN, "control.pause", {"target": f"agent:{PAYER}"})
    office.task(COORDINATOR, "pay.check", runid="r")
    office.submit(COORDINATOR, Envelope.new("run.finished", runid="r"))
    office.task(ASKER, "shop.ask")
    state = await recalled(office, Shelf(office.ledger), office.now + 26 * HOUR)
    assert len(state.holds) == 0


async def test_what_the_end_of_a_run_began_to_end_is_finished() -> None:
    """The gateway was killed in the middle of it, and away for a day."""
    office = Office(policies(OPEN))
    office.control(ANN, "control.pause", {"target": f"agent:{PAYER}"})
    for _ in range(3):
        office.task(COORDINATOR, "pay.check", runid="r")
    office.submit(COORDINATOR, Envelope.new("run.finished", runid="r"), cut=2)
    now = office.now + 26 * HOUR
    state = await recalled(office, Shelf(office.ledger), now)
    assert len(goes_on(office, state, [], now)[0]) == 2


async def test_a_limit_counts_however_it_is_written() -> None:
    """The text of an annotation may hold escapes, and stand behind a comment."""
    for written in (r'@rate_limit("1\u{2f}1d")', '@rate_limit // often\n("1/1d")'):
        office = Office(policies(f'@id("a") {written} permit (principal, action, resource);'))
        office.task(ASKER, "pay.out")
        now = office.now + HOUR
        state = await recalled(office, Shelf(office.ledger), now)
        later = [(now, ASKER, Envelope.new("x.y")), (now, BOB, Envelope.new("x.y"))]
        _, first, second = goes_on(office, state, later, now)
        verdicts = [decode_record(leaf).verdict for leaf in (*first, *second)]
        assert verdicts == ["deny", "allow"]


async def test_little_is_read_of_a_long_ledger() -> None:
    """What passed is left alone: of 2,000 messages only what lasts, and some at the end."""
    office = Office(policies(OPEN))
    office.control(ANN, "control.pause", {"target": f"agent:{PAYER}"})
    office.task(COORDINATOR, "pay.check", runid="r")
    for number in range(2_000):
        office.task(ASKER, "shop.ask", {"n": number})
        office.now += SECOND
    shelf = Shelf(office.ledger)
    state = await recalled(office, shelf, office.now)
    assert len(state.holds) == 1
    assert shelf.handed < 700


@pytest.mark.parametrize("away", [0, 26 * HOUR])
async def test_a_broker_is_read_the_same_way(broker: Broker, away: int) -> None:
    """The broker's own filters, times and batches, over the ledger of a life."""
    life = Life(7)
    life.live(300)
    office = life.office
    connection = await broker.connect(GATEWAY)
    appender = await FastAppender.open(connection, last=0)
    stored = [(one.subject, one.payload) for one in Shelf(office.ledger).stored]
    for start in range(0, len(stored), 50):
        await (await appender.append(stored[start : start + 50]))
    await appender.close()
    now = office.now + away
    later = what_comes(life, 60, now)

    state = await recalled(office, LedgerReader(connection), now)

    assert goes_on(office, office.fold(), later, now) == goes_on(office, state, later, now)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_many_lives() -> None:
    """The same for many more of them."""
    for seed in range(10_000, 10_025):
        await live_and_compare(seed, steps=200, endless=seed % 5 == 0)
