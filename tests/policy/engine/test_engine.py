"""What an engine remembers, for how long, and what it does when that is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import cedarpy
import pytest

from policy.engine.test_differential import surprised
from policy.engine.world import CONTEXTS, ENTITIES, SCHEMA, extension
from tidegate_policy.engine import (
    DEFAULT_LIMITS,
    Attribute,
    Contexts,
    Difference,
    Engine,
    Entities,
    Limits,
    OnDifference,
    Record,
    Scalar,
    Verdict,
    parse,
)
from tidegate_policy.engine.keys import KeyFunction, key_function
from tidegate_policy.engine.reads import Reads
from tidegate_policy.engine.tree import NotUnderstood

PERMIT = '@id("all") permit (principal, action, resource);'
LARGE = """
@id("small") permit (principal, action in Action::"task", resource)
  when { context has data && context.data.amount < 10 };
@id("blue") forbid (principal in Team::"blue", action, resource);
"""
PAY = ("Capability", "pay")
OTHER: dict[str, Any] = {"to": "see", "type": "t", "in_run": True, "delegated": False}


def built(
    policies: str = LARGE,
    limits: Limits = DEFAULT_LIMITS,
    on_difference: OnDifference = surprised,
    contexts: Contexts = CONTEXTS,
    entities: Entities = ENTITIES,
    schema: str = SCHEMA,
) -> Engine:
    """An engine of the tests' world."""
    return Engine.build(
        policies, schema, contexts, entities, on_difference=on_difference, limits=limits
    )


def payment(amount: object = 5, **more: object) -> dict[str, Any]:
    """The context of a payment."""
    data = {
        "amount": amount,
        "count": 1,
        "currency": "EUR",
        "urgent": False,
        "labels": ["pii"],
        "price": extension("decimal", "1.5"),
        "inner": {"deep": 1},
    }
    return OTHER | {"to": "pay", "data": data | more}


def pay(engine: Engine, context: Mapping[str, Any], by: str = "ann") -> Verdict:
    """Ask for a payment."""
    return engine.ask(by, "task:pay", PAY, context)


def one_key(context: Record, reads: Reads) -> KeyFunction:
    """A defect: the same key for all contexts."""
    return key_function(context, {})


def test_contexts_that_are_alike_are_decided_once() -> None:
    """What no policy reads, or compares in the same way, makes no difference."""
    engine = built()

    verdicts = [pay(engine, payment(amount, count=amount)) for amount in range(10)]
    verdicts += [pay(engine, payment(amount, note=f"{amount}")) for amount in range(10, 20)]

    assert [Verdict(True, ("small",))] * 10 + [Verdict(False, ())] * 10 == verdicts
    # Below 10, 10 itself, and above: no more is asked of Cedar.
    assert (
        engine.counters.hits,
        engine.counters.misses,
        engine.counters.uncached,
    ) == (17, 3, 0)


def test_the_policies_that_decided_are_named_in_order() -> None:
    """Of an allowed request the permits, of a denied one the forbids; sorted."""
    engine = built(
        '@id("z") permit (principal, action, resource);'
        '@id("a") permit (principal, action, resource is Capability);'
        '@id("m n") forbid (principal in Team::"blue", action, resource);'
        '@id("é") forbid (principal == Agent::"bob", action, resource);'
    )

    for _ in range(2):
        assert Verdict(True, ("a", "z")) == pay(engine, payment())
        assert Verdict(False, ("m n", "é")) == pay(engine, payment(), by="bob")


def test_without_a_policy_all_is_denied() -> None:
    """By nobody, and without an error."""
    engine = built("")

    assert [Verdict(False, ())] * 2 == [pay(engine, payment()) for _ in range(2)]


def test_an_error_is_denied_and_never_remembered() -> None:
    """It names the policy by its id, in one line, and Cedar is asked again each time."""
    engine = built(
        PERMIT
        + '@id("over\\nflow") forbid (principal, action, resource)'
        + " when { context has data && context.data.amount * 2 > 5 };"
    )

    for _ in range(2):
        verdict = pay(engine, payment(2**62))

        assert not verdict.allowed
        assert verdict.policies == ()
        assert "over\\nflow" in verdict.error
        assert "policy0" not in verdict.error
        assert "\n" not in verdict.error
    assert (
        engine.counters.hits,
        engine.counters.misses,
        engine.counters.uncached,
    ) == (0, 0, 2)


@pytest.mark.parametrize(
    ("principal", "action", "resource"),
    [
        ("ann", "task", PAY),
        ("ann", "task:none", PAY),
        ("ann", "task:pay", ("Topic", "pay")),
        ("ann", "task:pay", ("Nothing", "pay")),
        ("ann", "task:pay", ("not a type", "pay")),
        ("\ud800", "task:pay", PAY),
        ("ann", "\ud800", PAY),
        ("ann", "task:pay", ("Capability", "\ud800")),
        ("ann", "task:pay", ["Capability", "pay"]),
        ("ann", "task:pay", ()),
        ("ann", "task:pay", None),
        (None, "task:pay", PAY),
        (7, "task:pay", PAY),
    ],
)
def test_what_makes_no_request_is_denied(principal: Any, action: Any, resource: Any) -> None:
    """Whatever is wrong with it: it is an error, not an exception, and not remembered."""
    engine = built(PERMIT)

    for _ in range(2):
        verdict = engine.ask(principal, action, resource, payment())

        assert not verdict.allowed
        assert verdict.error
    assert engine.counters.hits == 0


@pytest.mark.parametrize(
    "context",
    [
        payment(True),
        payment(5.0),
        payment("5"),
        payment(None),
        payment(2**63),
        payment(-(2**63) - 1),
        payment([5]),
        payment(urgent=0),
        payment(urgent="false"),
        payment(currency=1),
        payment(currency="\ud800"),
        payment(labels=["pii", 1]),
        payment(labels=["pii", "\udfff"]),
        payment(labels="pii"),
        payment(labels={"pii": 1}),
        payment(price="nothing"),
        payment(price=1),
        payment(price=extension("decimal", "1.23456")),
        payment(price=extension("decimal", "1")),
        payment(price=extension("decimal", "99999999999999999.0")),
        payment(price=extension("ip", "::1")),
        payment(price={"__extn": {"fn": "decimal"}}),
        payment(note=None),
        payment(tries=True),
        payment(inner={}),
        payment(inner={"deep": 1, "more": 1}),
        payment(inner=[]),
        payment(loose=1),
        payment(nothing=1),
        {**payment(), "nothing": 1},
        dict([*payment().items(), (1, 1)]),
        {**payment(), "in_run": 1},
        {**payment(), "data": []},
        {**payment(), "dataclassification": None},
        {name: value for name, value in payment().items() if name != "to"},
        {},
        None,
        [],
        "{}",
        object(),
    ],
)
def test_a_context_of_another_type_never_finds_an_answer(context: Any) -> None:
    """Even if the attribute is in no policy and all else is as in an allowed request."""
    engine = built(PERMIT)
    assert pay(engine, payment()).allowed
    assert pay(engine, payment(note="", tries=0, loose={})).allowed

    verdict = pay(engine, context)

    assert not verdict.allowed
    assert verdict.error
    assert engine.counters.uncached == 1


def test_cedar_decides_what_is_right_but_not_remembered() -> None:
    """Cedar also takes a decimal as a text, and any mapping that can be encoded."""
    engine = built(PERMIT)

    assert pay(engine, payment(price="1.5")).allowed
    assert pay(engine, payment(labels=("pii",))).allowed
    assert engine.counters.uncached == 2


def test_other_entities_are_another_memory() -> None:
    """The same policies, asked of those who are in other teams now."""
    engine = built()
    moved = {**ENTITIES, ("Agent", "bob"): ENTITIES["Agent", "ann"]}
    assert Verdict(False, ("blue",)) == pay(engine, payment(), by="bob")

    other = engine.of(moved)

    for _ in range(2):
        assert Verdict(True, ("small",)) == pay(other, payment(), by="bob")
        assert Verdict(False, ("blue",)) == pay(engine, payment(), by="bob")
    assert (other.counters.misses, other.counters.hits - 1) == (2, 2)
    assert other.counters.entries == 2


@pytest.mark.parametrize("by", ["ann", "bob", "cyd", "eve"])
def test_groups_of_groups_are_found_in_scopes_and_conditions(by: str) -> None:
    """However far they are; of `eve` no attribute leads there."""
    engine = built(
        """
        @id("scope") permit (principal in Group::"top", action, resource in Group::"top");
        @id("condition") permit (principal, action, resource)
          when { principal in Group::"top" && resource in Group::"top" };
        """
    )

    for _ in range(2):
        assert pay(engine, payment(), by) == Verdict(True, ("condition", "scope"))


def test_a_thousand_may_register_one_after_the_other() -> None:
    """Of the others nothing is read; only what a request reaches must fit the schema."""
    entities: dict[Any, Any] = {("Agent", f"bad{i}"): ({"role": 1}, ()) for i in range(1000)}
    engine = built(entities=entities | dict(ENTITIES))

    assert pay(engine, payment()).allowed

    verdict = pay(engine, payment(), by="bad7")
    assert not verdict.allowed
    assert verdict.error


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": Attribute(Scalar.STRING)},
        {"amount": Attribute(Scalar.DECIMAL)},
        {"amount": Attribute(Scalar.LONG, required=False)},
        {"price": Attribute(Scalar.STRING)},
        {"labels": Attribute(Scalar.STRING)},
        {"urgent": Attribute(Scalar.LONG)},
        {"nothing": Attribute(Scalar.BOOL)},
        {"nothing": Attribute(Scalar.BOOL, required=False)},
        {"inner": Attribute(Record({"deep": Attribute(Scalar.LONG, required=False)}))},
        {"loose": Attribute(Record({"more": Attribute(Scalar.LONG, required=False)}))},
    ],
)
def test_types_that_are_not_the_schemas_are_found_out(wrong: dict[str, Attribute]) -> None:
    """Nothing is remembered of an action whose contexts Cedar would refuse; others are."""
    right = CONTEXTS["task:pay"].attributes
    data = right["data"].type
    assert isinstance(data, Record)
    context = Record({**right, "data": Attribute(Record({**data.attributes, **wrong}))})
    engine = built(PERMIT, contexts={**CONTEXTS, "task:pay": context})

    for _ in range(2):
        assert pay(engine, payment()).allowed
        assert engine.ask("ann", "task:other", PAY, OTHER).allowed
    assert (engine.counters.hits, engine.counters.uncached) == (1, 2)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("loose?: { kind?: String", "loose?: { kind: String"),
        ("loose?: {", "loose: {"),
        ("note?: String", "note: String"),
        ("note?: String", "note?: Long"),
        ("name?: String", "name: String"),
        ("dataclassification?: String,\n  data", "dataclassification: String,\n  data"),
    ],
)
def test_a_schema_that_asks_for_more_is_found_out(here: str, there: str) -> None:
    """An attribute that the types let be absent; Cedar does not, even if no policy reads it."""
    assert here in SCHEMA
    engine = built(PERMIT, schema=SCHEMA.replace(here, there))

    for _ in range(2):
        pay(engine, payment())
    assert engine.counters.entries == 0


def test_the_number_of_entries_is_bounded() -> None:
    """All is forgotten on overflow, and answers stay right."""
    engine = built(PERMIT, Limits(entries=100))
    most = 0

    for number in range(1000):
        assert engine.ask("ann", "task:other", ("Capability", f"{number}"), OTHER).allowed
        most = max(most, engine.counters.entries)

    assert 80 < most <= 100


def test_the_memory_is_bounded() -> None:
    """By its size, however many entries that are."""
    engine = built(
        '@id("like") permit (principal, action, resource) when { context.type like "x*" };',
        Limits(bytes=100_000),
    )
    most = 0

    for number in range(1000):
        context = OTHER | {"type": f"x{number}" + "y" * 500}
        assert engine.ask("ann", "task:other", PAY, context).allowed
        most = max(most, engine.counters.bytes)

    assert 90_000 < most <= 100_000


def test_long_texts_are_not_remembered() -> None:
    """Neither in a context nor as a name: senders choose those."""
    engine = built(
        '@id("like") permit (principal, action, resource) when { context.type like "x*" };'
    )
    long = "x" * 20_000

    for _ in range(2):
        assert engine.ask("ann", "task:other", PAY, OTHER | {"type": long}).allowed
        assert engine.ask("ann", "task:other", ("Capability", long), OTHER | {"type": "x"}).allowed
    assert engine.counters.uncached == 4
    assert engine.counters.bytes < 10_000


def test_without_room_nothing_is_remembered() -> None:
    """And all is decided."""
    engine = built(PERMIT, Limits(entries=0))

    assert [pay(engine, payment()).allowed for _ in range(3)] == [True] * 3
    assert (engine.counters.uncached, engine.counters.entries) == (3, 0)


def test_one_in_some_hits_is_checked() -> None:
    """By all policies; it agrees."""
    engine = built(limits=Limits(check_every=4))

    for _ in range(17):
        assert pay(engine, payment()).allowed

    assert (
        engine.counters.hits,
        engine.counters.checked,
        engine.counters.differences,
    ) == (16, 4, 0)


def test_a_wrong_memory_is_found_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that leaves something out: Cedar's answer is given, and nothing remembered again."""
    monkeypatch.setattr("tidegate_policy.engine.slices.key_function", one_key)
    found: list[Difference] = []
    engine = built(limits=Limits(check_every=3), on_difference=found.append)

    answers = [pay(engine, payment(amount)).allowed for amount in (5, 50, 50, 50, 50, 5, 5)]

    # The second and third are what the defect would permit; the check is due at the fourth.
    assert answers == [True, True, True, False, False, True, True]
    assert [
        Difference(
            "ann",
            "task:pay",
            PAY,
            payment(50),
            remembered=Verdict(True, ("small",)),
            computed=Verdict(False, ()),
        )
    ] == found
    assert (
        engine.counters.hits,
        engine.counters.uncached,
        engine.counters.entries,
    ) == (3, 3, 0)


def test_other_entities_do_not_bring_trust_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policies are the same, so is what was made of them."""
    monkeypatch.setattr("tidegate_policy.engine.slices.key_function", one_key)
    engine = built(limits=Limits(check_every=1), on_difference=lambda _: None)
    pay(engine, payment(5))
    pay(engine, payment(50))

    other = engine.of(ENTITIES)

    assert [pay(other, payment(amount)).allowed for amount in (5, 50)] == [True, False]
    assert other.counters.hits == 1


def test_what_is_not_understood_is_decided_by_cedar(monkeypatch: pytest.MonkeyPatch) -> None:
    """An expression of a newer Cedar: by all policies, each time."""

    def newer(expr: object) -> tuple[()]:
        raise NotUnderstood(str(expr))

    monkeypatch.setattr("tidegate_policy.engine.reads.children", newer)
    monkeypatch.setattr("tidegate_policy.engine.entities.children", newer)
    engine = built()

    assert [pay(engine, payment(a)).allowed for a in (5, 5, 50)] == [True, True, False]
    assert engine.counters.uncached == 3


def test_an_action_of_unknown_type_is_decided_by_cedar() -> None:
    """One of the schema that the caller did not describe."""
    contexts = {name: each for name, each in CONTEXTS.items() if name != "task:pay"}
    engine = built(contexts=contexts)

    assert [pay(engine, payment(a)).allowed for a in (5, 5, 50)] == [True, True, False]
    assert engine.counters.uncached == 3


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyError(), MemoryError()])
def test_whatever_cedar_raises_is_a_no(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """With the reason, or the name of the error if it gives none."""

    def raising(*_: object) -> None:
        raise failure

    engine = built(PERMIT)
    monkeypatch.setattr(cedarpy, "is_authorized_batch", raising)

    verdict = pay(engine, payment())

    assert not verdict.allowed
    assert verdict.error


def test_a_panic_of_cedar_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no Exception; an interrupt by the user is none either, and is passed on."""

    class PanicException(BaseException):
        pass

    class Interrupt(BaseException):
        pass

    def raising(*_: object) -> None:
        raise failure

    engine = built(PERMIT)
    monkeypatch.setattr(cedarpy, "is_authorized_batch", raising)

    failure: BaseException = PanicException("at the disco")
    assert Verdict(False, (), "at the disco") == pay(engine, payment())
    failure = Interrupt()
    with pytest.raises(Interrupt):
        pay(engine, payment())


def test_no_decision_without_a_reason_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Allow permits."""
    none = cedarpy.AuthzResult({"decision": "NoDecision", "diagnostics": {}})

    def returning(*_: object) -> list[cedarpy.AuthzResult]:
        return [none]

    monkeypatch.setattr(cedarpy, "is_authorized_batch", returning)

    verdict = pay(built(PERMIT), payment())

    assert Verdict(False, (), "Cedar made no decision") == verdict


@pytest.mark.parametrize(
    "text",
    [
        "permit (principal, action, resource);",
        '@id("") permit (principal, action, resource);',
        PERMIT + PERMIT,
        '@id("t") permit (principal == ?principal, action, resource);',
        "permit",
    ],
)
def test_policies_that_cannot_be_told_apart_are_refused(text: str) -> None:
    """Each needs an id of its own, and nothing to be filled in."""
    with pytest.raises(ValueError):
        built(text)


def test_syntax_trees_are_taken_by_id() -> None:
    """Under the names that they are given."""
    trees = {f"the {name}": policy for name, policy in parse(LARGE).items()}

    engine = Engine.build(trees, SCHEMA, CONTEXTS, ENTITIES, on_difference=surprised)

    assert Verdict(True, ("the small",)) == pay(engine, payment())


def test_a_template_is_refused_as_a_tree_too() -> None:
    """Nothing fills its slots."""
    text = '@id("t") permit (principal in ?principal, action, resource);'
    (template,) = cedarpy.policies_to_pst(text).templates.values()

    with pytest.raises(ValueError, match="slot"):
        Engine.build(
            {"t": dataclasses.replace(template, id="t")},
            SCHEMA,
            CONTEXTS,
            ENTITIES,
            on_difference=surprised,
        )
