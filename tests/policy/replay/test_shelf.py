"""The bundles in the ledger, when they were in force, and what their rules decided."""

from __future__ import annotations

import pytest

from policy.office import ANN, OPEN, OPERATOR, PAYER, Office
from policy.office import policies as bundle
from tidegate_policy.bundle import Bundle
from tidegate_policy.genesis import genesis
from tidegate_policy.replay import Explanation, Shelf, explain
from tidegate_schemas.errors import InvalidInput, LedgerError
from tidegate_schemas.record import decode_record

COMMENTED = """\
// Two rules.

@id("all") // for all
permit (principal, action, resource);

@id("small-ones")
@redact("/ssn")
@budget("eur:50/1h reserve 2")
permit (principal, action == Action::"task:pay.out", resource)
when { context.data.amount < 100 };
"""
FACTS = "task:\n  pay.out:\n    amount: Long\n"
SHADOWS = """
@id("strict") @shadow("") forbid (principal, action in Action::"task", resource);
@id("other") @shadow("") forbid (principal, action in Action::"event", resource);
"""


def shelf(office: Office) -> Shelf:
    """The bundles of an office's ledger."""
    found: list[tuple[int, bytes]] = []
    for seq, leaf in enumerate(office.ledger, 1):
        record = decode_record(leaf)
        if record.verdict == "allow" and record.to.startswith("policy."):
            found.append((seq, leaf))
    return Shelf.of(found)


def explained(office: Office, seq: int, policies: Bundle) -> Explanation:
    """A record of an office, explained."""
    return explain(decode_record(office.ledger[seq - 1]), policies, 0)


def test_a_bundle_is_in_force_from_the_record_after_its_activation() -> None:
    """As the records themselves say; also when an earlier one comes back."""
    first, second = bundle(OPEN), bundle(COMMENTED, facts_yaml=FACTS)
    office = Office(genesis().bundle)
    for new in (first, second, first):
        office.activate(OPERATOR, new)
        office.one(OPERATOR, b"{}")
    found = shelf(office)

    for seq, leaf in enumerate(office.ledger, 1):
        assert found.in_force(seq)[0] == decode_record(leaf).why.bundle
    assert found.in_force(1) == (genesis().bundle.digest, 0)
    assert found.in_force(6) == (second.digest, 5)
    assert found.in_force(10**9) == (first.digest, 8)


def test_a_bundle_is_found_by_its_digest_or_the_beginning_of_it() -> None:
    """With all of its files; one that is not there, or not the only one, is bad input."""
    new = bundle(COMMENTED, facts_yaml=FACTS)
    office = Office(genesis().bundle)
    office.activate(OPERATOR, new)
    found = shelf(office)

    for named in (new.digest, new.digest.removeprefix("sha256:"), new.digest[7:15]):
        assert found.bundle(named).files == new.files
    assert found.bundle(genesis().bundle.digest).digest == genesis().bundle.digest
    for named in ("sha256:", "0" * 64, "sha512:00"):
        with pytest.raises(InvalidInput, match="bundle"):
            found.bundle(named)


def test_what_was_refused_is_not_on_the_shelf() -> None:
    """A proposal that does not load was never one."""
    office = Office(genesis().bundle)
    office.control(OPERATOR, "policy.propose", {"files": {"x.cedar": "permit"}})
    office.control(ANN, "policy.propose", {"files": dict(bundle(OPEN).files)})

    assert list(shelf(office).files) == [genesis().bundle.digest]


def test_what_is_no_record_is_an_error_of_the_ledger() -> None:
    """With its sequence."""
    with pytest.raises(LedgerError, match="record 7 is not of a gateway"):
        Shelf.of([(7, b"{}")])


def test_rules_are_told_with_their_text_and_place() -> None:
    """Those that decided, as they are written; what they oblige to, and what they saw."""
    policies = bundle(COMMENTED, facts_yaml=FACTS)
    office = Office(policies)
    office.task(PAYER, "pay.out", {"amount": 5, "ssn": "1"})
    found = explained(office, 1, policies)

    assert [(rule.id, rule.effect, rule.place) for rule in found.rules] == [
        ("all", "permit", "0.cedar:3"),
        ("small-ones", "permit", "0.cedar:6"),
    ]
    assert found.rules[0].text == '@id("all") // for all\npermit (principal, action, resource);'
    assert found.rules[1].text.splitlines()[-1] == "when { context.data.amount < 100 };"
    assert found.facts == {"amount": 5}
    assert found.obligations == (
        "budget:eur:50/1h per agent reserve 2#small-ones",
        "redact:/ssn#small-ones",
    )
    assert (found.verdict, found.reason, found.ground) == ("allow", "permitted", "")


def test_rules_in_the_shadow_are_told_with_what_they_would_have_done() -> None:
    """Those that would have decided, and those that do not matter here."""
    policies = bundle(OPEN, SHADOWS)
    office = Office(policies)
    office.task(PAYER, "pay.out")
    found = explained(office, 1, policies)

    assert found.verdict == "allow"
    assert found.shadow == "deny"
    assert [(rule.id, counts) for rule, counts in found.shadow_rules] == [
        ("strict", True),
        ("other", False),
    ]


@pytest.mark.parametrize(
    ("by", "to", "ground"),
    [
        ("nobody.here", "pay.out", "the gateway itself decided; no rule was asked"),
        (PAYER, "pay.out", "no rule permits it"),
    ],
)
def test_what_decided_where_no_rule_did_is_said(by: str, to: str, ground: str) -> None:
    """In words, beside the reason."""
    office = Office(genesis().bundle)
    office.task(by, to)
    found = explained(office, 1, genesis().bundle)

    assert (found.rules, found.ground) == ((), ground)
    assert found.detail
