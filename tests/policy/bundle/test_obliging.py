"""What an answer carries besides its verdict: obligations, what is learned, what is watched."""

from __future__ import annotations

from tidegate_policy.bundle import Answer, Bundle, Question, Snapshot
from tidegate_policy.roster import BUILT_IN
from tidegate_schemas.subjects import Kind

BY = "tidegate.operator"


def snapshot(text: str, **files: str) -> Snapshot:
    """Policies as a file, speaking of the bus's own."""
    named = {name.replace("_", "."): content for name, content in files.items()}
    return Bundle.of_files({"a.cedar": text, **named}).snapshot(BUILT_IN)


def event(to: str = "x", **more: str) -> Question:
    """Somebody says that something happened."""
    return Question(BY, Kind.EVENT, to, to, **more)  # type: ignore[arg-type]


ANY = "(principal, action, resource)"
LIMITED = f'@id("limited") @rate_limit("5/1m") @redact("/a") permit {ANY};'
AGREED = f'@id("agreed") @require_approval("1 of role operator") @redact("/b /a") permit {ANY};'
PLAIN = f'@id("plain") permit {ANY};'


def test_all_that_match_oblige() -> None:
    """A plain permit beside obliged ones takes nothing away."""
    answer = snapshot(PLAIN + LIMITED + AGREED).ask(event())

    assert answer.allowed
    assert answer.obligations.texts() == (
        "rate_limit:5/1m per agent#limited",
        "redact:/a#agreed",
        "redact:/a#limited",
        "redact:/b#agreed",
        "require_approval:1 of role operator within 1d#agreed",
    )
    assert answer.obligations.pointers == ("/a", "/b")


def test_who_does_not_match_does_not_oblige() -> None:
    """An obligation is of the messages of its policy."""
    other = LIMITED.replace("resource)", 'resource == Topic::"other")')

    assert snapshot(PLAIN + other).ask(event()) == Answer(True, ("plain",))


def test_what_is_forbidden_is_redacted_all_the_same() -> None:
    """The ledger keeps denied messages too; it is not told their secrets, and nothing else."""
    forbid = f'@id("no") forbid {ANY};'
    other = AGREED.replace("resource)", 'resource == Topic::"other")')

    answer = snapshot(LIMITED + other + forbid).ask(event())

    assert (answer.allowed, answer.policies) == (False, ("no",))
    assert answer.obligations.texts() == ("redact:/a#limited",)


def test_where_policy_fails_everything_that_may_match_is_redacted() -> None:
    """Whether a permit that fails would have matched, nobody knows."""
    fails = LIMITED.replace(";", " when { 9223372036854775807 + 1 > 0 };")
    tasks = AGREED.replace("action", 'action in Action::"task"')
    policies = snapshot(fails + tasks + PLAIN)

    answer = policies.ask(event())

    assert not answer.allowed
    assert answer.error
    assert answer.obligations.texts() == ("redact:/a#limited",)
    assert policies.precautions(Kind.EVENT, "x") == answer.obligations
    assert policies.precautions(Kind.TASK, "x").pointers == ("/a", "/b")


def test_what_cannot_be_asked_is_redacted_by_all_that_may_be_for_it() -> None:
    """Also where facts are missing, so that the engine takes no question."""
    facts = "event: { x: { n: Long } }"
    answer = snapshot(LIMITED + PLAIN, facts_yaml=facts).ask(event())

    assert answer.error
    assert answer.obligations.texts() == ("redact:/a#limited",)


def test_shadow_policies_are_watched_and_not_enforced() -> None:
    """Their answer stands beside the enforced one, where it differs."""
    watched = f'@id("watched") @shadow @redact("/s") permit {ANY};'
    stop = '@id("stop") @shadow forbid (principal, action, resource == Topic::"y");'
    policies = snapshot(PLAIN + stop)

    assert policies.ask(event("x")) == Answer(True, ("plain",))
    assert policies.ask(event("y")) == Answer(True, ("plain",), shadow=(False, ("stop",)))
    assert snapshot(watched).ask(event()) == Answer(False, (), shadow=(True, ("watched",)))


def test_a_shadow_policy_that_fails_harms_nobody() -> None:
    """What is enforced goes on; the shadow would have denied."""
    fails = f'@id("bad") @shadow forbid {ANY} when {{ 9223372036854775807 + 1 > 0 }};'

    answer = snapshot(PLAIN + fails).ask(event())

    assert (answer.allowed, answer.policies, answer.error) == (True, ("plain",), "")
    assert answer.shadow is not None
    assert not answer.shadow[0]


def test_learned_is_what_nothing_else_permits() -> None:
    """A single permit without `@learn` is a reason of its own."""
    learn = f'@id("learn") @learn permit {ANY};'

    assert snapshot(learn).ask(event()).learned
    assert not snapshot(learn + PLAIN).ask(event()).learned
    denied = snapshot(learn + f'@id("no") forbid {ANY};').ask(event())
    assert (denied.allowed, denied.learned) == (False, False)


def test_the_context_is_what_the_message_is() -> None:
    """Each attribute reaches policy under its name."""
    conditions = {
        "in_run": "context.in_run",
        "delegated": "context.delegated",
        "blueprint": 'context.blueprint == "b"',
        "dataclassification": 'context has dataclassification && context.dataclassification == "s"',
        "type": 'context.type == "t"',
    }
    rules = "".join(f'@id("{n}") permit {ANY} when {{ {c} }};' for n, c in conditions.items())
    policies = snapshot(rules)

    assert policies.ask(event()) == Answer(False, ())
    everything = Question(BY, Kind.EVENT, "x", "t", True, True, "b", "s")
    assert policies.ask(everything).policies == tuple(sorted(conditions))


def test_on_behalf_of_others_all_must_be_permitted_it() -> None:
    """What decided, decided for either; each obligation counts once."""
    operator = f'@id("op") permit (principal == Agent::"{BY}", action, resource);'
    behind = (
        '@id("behind") @rate_limit("1/1m") permit (principal == Agent::"tidegate.probe", '
        "action, resource) when { context.delegated };"
    )
    policies = snapshot(operator + behind + LIMITED)
    chain = ("tidegate.probe",)

    answer = policies.ask_for(event(), chain)

    assert (answer.allowed, answer.policies) == (True, ("behind", "limited", "op"))
    assert answer.obligations.texts() == (
        "rate_limit:1/1m per agent#behind",
        "rate_limit:5/1m per agent#limited",
        "redact:/a#limited",
    )
    assert policies.ask_for(event(), ()) == policies.ask(event())


def test_on_behalf_of_somebody_who_may_not_it_is_denied() -> None:
    """And redacted by all that might have been for either."""
    operator = f'@id("op") permit (principal == Agent::"{BY}", action, resource);'
    other = LIMITED.replace("principal", 'principal == Agent::"tidegate.coordinator"')

    answer = snapshot(operator + other).ask_for(event(), ("tidegate.probe",))

    assert (answer.allowed, answer.policies) == (False, ())
    assert answer.obligations.texts() == ("redact:/a#limited",)
