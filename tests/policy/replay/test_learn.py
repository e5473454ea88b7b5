"""Policy from what was learned: it permits all of that, and nothing else of the kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policy.kit import EXAMPLES
from policy.office import ASKER, OPEN, OUTSIDER, PAYER, STAFF, Office
from policy.office import policies as bundle
from tidegate_policy.bundle import Bundle, Question
from tidegate_policy.replay import Lesson
from tidegate_policy.replay.learn import Right
from tidegate_policy.replay.line import Grounds, Line, Message, Origin, read_line
from tidegate_policy.roster import Roster
from tidegate_schemas.record import Reason
from tidegate_schemas.subjects import Kind, Verdict

AGENTS = (PAYER, ASKER, OUTSIDER)
PLACES = {
    Kind.TASK: ("pay.out", "pay.check", "shop.ask"),
    Kind.EVENT: ("thing", "thing.other", "a-b_C.9"),
    Kind.RESULT: AGENTS,
    Kind.CONTROL: ("run.start", "x"),
}
LEARNING = '@id("learn") @learn("") permit (principal, action, resource);'
everything = [
    (agent, kind, to) for agent in AGENTS for kind, places in PLACES.items() for to in places
]
used = st.lists(
    st.tuples(
        st.sampled_from(everything),
        st.sampled_from([None, OUTSIDER, f"{OUTSIDER},{PAYER}"]),
    ),
    min_size=1,
    max_size=25,
)


def line(by: str, kind: Kind, to: str, behind: str | None, reason: str = Reason.LEARNED) -> Line:
    """A record of something that was learned."""
    message = Message("1", "t", onbehalfof=behind)
    return Line(Origin(0), by, kind, to, Verdict.ALLOW, Grounds(reason), message)


@EXAMPLES
@given(used)
def test_all_that_was_learned_is_permitted_and_nothing_else(
    messages: list[tuple[tuple[str, Kind, str], str | None]],
) -> None:
    """By sender, kind and destination; also whoever stands behind, where they stand behind."""
    lesson = Lesson()
    expected: set[Right] = set()
    for seq, ((by, kind, to), behind) in enumerate(messages, 1):
        lesson.add(seq, line(by, kind, to, behind))
        expected.add(Right(by, kind, to))
        expected |= {Right(b, kind, to, True) for b in (behind or "").split(",") if b}
    learned = Bundle.of_files({"learned.cedar": lesson.text("Learned.")})
    snapshot = learned.snapshot(Roster.of(STAFF))

    assert set(lesson.rights) == expected
    for by, kind, to in everything:
        for delegated in (False, True):
            allowed = snapshot.ask(Question(by, kind, to, "t", delegated=delegated)).allowed
            asked = {Right(by, kind, to), Right(by, kind, to, delegated)}
            assert allowed is bool(expected & asked), (by, kind, to, delegated)


@EXAMPLES
@given(used, used)
def test_two_lessons_go_into_one_bundle(
    one: list[tuple[tuple[str, Kind, str], str | None]],
    other: list[tuple[tuple[str, Kind, str], str | None]],
) -> None:
    """Ids of what was learned later are others."""
    texts: list[str] = []
    seq = 0
    for messages in (one, other):
        lesson = Lesson()
        for (by, kind, to), behind in messages:
            seq += 1
            lesson.add(seq, line(by, kind, to, behind))
        texts.append(lesson.text("Learned."))
    Bundle.of_files({f"{number}.cedar": text for number, text in enumerate(texts)})


def test_only_what_was_learned_counts() -> None:
    """Not what a rule permits anyway, and not what was denied."""
    lesson = Lesson()
    for reason in (Reason.PERMITTED, Reason.FORBIDDEN, Reason.APPROVED):
        lesson.add(1, line(PAYER, Kind.TASK, "pay.out", None, reason))

    assert (lesson.records, lesson.rights) == (0, {})


def test_it_says_how_often_and_by_which_records() -> None:
    """Beside the permit; agents with the same rights have one together."""
    lesson = Lesson()
    lesson.add(3, line(PAYER, Kind.TASK, "pay.check", None))
    lesson.add(5, line(ASKER, Kind.EVENT, "thing", None))
    lesson.add(7, line(PAYER, Kind.TASK, "pay.check", None))
    lesson.add(9, line(OUTSIDER, Kind.EVENT, "thing", PAYER))

    assert (
        lesson.text("Learned from a few.")
        == """\
// Learned from a few.

// outside.website reports thing: once, in record 9
// shop.asker reports thing: once, in record 5
@id("learned-event-5")
permit (
  principal,
  action in Action::"event",
  resource == Topic::"thing"
) when {
  [
    Agent::"outside.website",
    Agent::"shop.asker"
  ].contains(principal)
};

// pay.payer reports thing, through others: once, in record 9
@id("learned-event-9")
permit (
  principal == Agent::"pay.payer",
  action in Action::"event",
  resource == Topic::"thing"
) when {
  context.delegated
};

// pay.payer asks for pay.check: 2 times, from record 3 to 7
@id("learned-task-3")
permit (
  principal == Agent::"pay.payer",
  action in Action::"task",
  resource == Capability::"pay.check"
);
"""
    )


def test_an_office_that_has_learned_goes_on_without_learning() -> None:
    """What was said while it learned is permitted by what it wrote; what was not, is denied."""
    office = Office(bundle(LEARNING))
    said = [(PAYER, "pay.check"), (ASKER, "pay.out"), (PAYER, "shop.ask")]
    for by, to in said:
        assert office.task(by, to).why.reason == Reason.LEARNED
    lesson = Lesson()
    for seq, leaf in enumerate(office.ledger, 1):
        lesson.add(seq, read_line(seq, leaf))
    after = Office(Bundle.of_files({"learned.cedar": lesson.text("Learned.")}))

    for by, to in said:
        assert after.task(by, to).why.reason == Reason.PERMITTED
    assert after.task(OUTSIDER, "pay.out").why.reason == Reason.NOT_PERMITTED
    assert Office(bundle(OPEN, LEARNING)).task(PAYER, "pay.out").why.reason == Reason.PERMITTED
