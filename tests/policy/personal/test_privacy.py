"""What the gateway makes of personal data, and what an auditor can say of it later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy.office import ANN, OPEN, OPERATOR, OUTSIDER, PAYER, Office
from policy.office import policies as bundle
from policy.replay.kit import changes
from tidegate_policy.personal.privacy import NOTHING, Opener
from tidegate_policy.personal.vault import Vault
from tidegate_policy.replay import Conformance, Outcome, Past, WhatIf
from tidegate_policy.replay.line import read_line
from tidegate_policy.roster import Roster
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.personal import key_id, seal, unseal
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Verdict

MONTH = "2026-01"
FACTS = "task:\n  pay.out:\n    amount: Long\n"
SMALL = """
@id("small") @redact("/iban")
permit (principal, action == Action::"task:pay.out", resource) when { context.data.amount < 100 };
@id("large") @require_approval("1 of ops.ann within 1h")
permit (principal, action == Action::"task:pay.out", resource) when { context.data.amount >= 100 };
@id("rest") permit (principal, action, resource) unless { context.to == "pay.out" };
"""


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """An empty vault."""
    with Vault.open(tmp_path / "vault.db") as opened:
        yield opened


def office_with(vault: Vault) -> Office:
    """An office that pays."""
    return Office(bundle(SMALL, facts_yaml=FACTS), opener=vault)


def payment(vault: Vault, amount: int, *, by: str = OUTSIDER, who: str = "customer-42") -> Envelope:
    """A task about somebody, sealed by its sender."""
    given = vault.seal([who], MONTH)
    envelope = Envelope.new(
        "pay.out",
        {"amount": amount, "iban": "DE02"},
        kind="task",
        to="pay.out",
        dataclassification="personal",
    )
    return seal(envelope, by, given.keyids, salt=given.salt, key=given.key, nonce=b"n" * 12)


def opened(vault: Vault, made: Record) -> Any:
    """What a record holds."""
    message = made.message()
    assert message
    key = vault.key(message)
    assert key
    return unseal(message, made.by, key).payload()


def pseudonym(message: Envelope) -> str:
    """Of whom a message is about."""
    found = key_id(message.datasubject or "")
    assert found
    return found.pseudonym


def replayed(office: Office, opener: Opener) -> tuple[list[str], int]:
    """Differences and erased records that conformance finds."""
    check = Conformance((600.0, 100_000), office.leaf, start=office.genesis, opener=opener)
    found = [d.what for seq, leaf in enumerate(office.ledger, 1) for d in check.add(seq, leaf)]
    return found, check.erased


def test_policy_decides_by_what_is_sealed(vault: Vault) -> None:
    """Its facts, its redactions; the record holds it sealed, without what was redacted."""
    office = office_with(vault)
    small = office.one(OUTSIDER, payment(vault, 5))
    large = office.one(OUTSIDER, payment(vault, 500))

    assert (small.verdict, small.why.policies) == (Verdict.ALLOW, ("small",))
    assert opened(vault, small) == {"amount": 5, "iban": "[redacted]"}
    assert (large.verdict, large.why.policies) == (Verdict.HOLD, ("large",))
    assert opened(vault, large) == {"amount": 500, "iban": "DE02"}
    assert b"DE02" not in b"".join(office.ledger)


def test_an_auditor_with_the_keys_comes_to_the_same_bytes(vault: Vault) -> None:
    """Also of what was redacted and sealed again, of denials, duplicates and what was held."""
    office = office_with(vault)
    one = payment(vault, 5)
    office.submit(OUTSIDER, one)
    office.submit(OUTSIDER, one)
    held = office.one(OUTSIDER, payment(vault, 500))
    office.submit("nobody.known", payment(vault, 5, by="nobody.known"))
    office.submit(OUTSIDER, payment(vault, 5, by=PAYER))
    office.submit(OUTSIDER, Envelope.new("t", {"ssn": "1"}, dataclassification="personal"))
    office.submit(OUTSIDER, b'{"dataclassification":"personal","data":')
    office.grant(ANN, held.seq)
    office.restart()

    assert [r for r in replayed(office, vault)[0] if r] == []
    assert replayed(office, NOTHING) == ([], 5)


def test_what_is_erased_is_not_replayed_and_not_guessed(vault: Vault) -> None:
    """It is counted; everything else is decided again, by a state that follows the records."""
    office = office_with(vault)
    mine = payment(vault, 5)
    held = office.one(OUTSIDER, payment(vault, 500))
    office.submit(OUTSIDER, mine)
    other = office.one(OUTSIDER, payment(vault, 5, who="customer-7"))
    office.grant(ANN, held.seq)
    waits = office.one(OUTSIDER, payment(vault, 700))
    erased, end = office.control(OPERATOR, "privacy.erase", {"subject": pseudonym(mine)})
    after = office.submit(OUTSIDER, mine)
    vault.destroy(office.desk.state.privacy)
    again = office.one(OUTSIDER, payment(vault, 5))

    assert erased.verdict is Verdict.ALLOW
    assert (end.verdict, end.why.reason, end.first) == (Verdict.DENY, "erased", waits.seq)
    assert [r.verdict for r in after] == [Verdict.DUPLICATE]
    assert opened(vault, other) == {"amount": 5, "iban": "[redacted]"}
    assert again.verdict is Verdict.ALLOW
    assert replayed(office, vault) == ([], 4)  # two held, one let go, one small


def test_a_record_that_was_changed_is_found_also_among_erased_ones(vault: Vault) -> None:
    """What does not hang on the data is still compared."""
    office = office_with(vault)
    mine = payment(vault, 5)
    office.submit(OUTSIDER, mine)
    office.control(OPERATOR, "privacy.erase", {"subject": pseudonym(mine)})
    late = office.one(OUTSIDER, mine)
    vault.destroy(office.desk.state.privacy)
    assert late.verdict is Verdict.DUPLICATE
    office.ledger[2] = office.ledger[2].replace(b'"first":1', b'"first":2')

    (found,), _ = replayed(office, vault)
    assert "first" in found


def test_another_bundle_is_asked_about_what_can_be_opened(vault: Vault) -> None:
    """The rest is indeterminate, and says why; nothing is said of the data."""
    office = office_with(vault)
    mine, other = payment(vault, 5), payment(vault, 5, who="customer-7")
    for envelope in (mine, other):
        office.submit(OUTSIDER, envelope)
    office.control(OPERATOR, "privacy.erase", {"subject": pseudonym(mine)})
    vault.destroy(office.desk.state.privacy)
    tiny = SMALL.replace("< 100", "< 3").replace("100", "3")
    genesis = bundle(tiny, facts_yaml=FACTS).snapshot(Roster.of(office.staff))
    judge = WhatIf(Past(genesis, changes(office.ledger)), vault)

    found = [judge.judge(n, read_line(n, leaf)) for n, leaf in enumerate(office.ledger, 1)]
    one, two, _ = found
    assert one
    assert (one.outcome, one.why) == (
        Outcome.INDETERMINATE,
        "personal data, unreplayable: erased",
    )
    assert two
    assert two.outcome is Outcome.NEWLY_HELD


def test_orders_about_data_subjects_are_folded_from_the_ledger(vault: Vault) -> None:
    """A new desk knows what was erased and held, by whom and since when."""
    office = office_with(vault)
    mine = payment(vault, 5)
    subject = {"subject": pseudonym(mine)}
    (held,) = office.control(OPERATOR, "privacy.hold", subject)
    office.restart()
    (denied,) = office.control(OPERATOR, "privacy.erase", subject)
    assert denied.why.reason == "invalid_command"
    assert f"by {OPERATOR} since {held.time}" in denied.why.facts["detail"]
    office.control(OPERATOR, "privacy.release", subject)
    office.control(OPERATOR, "privacy.erase", subject)
    office.restart()
    assert office.desk.state.privacy.erased == {pseudonym(mine)}
    assert office.one(OUTSIDER, mine).why.reason == "erased"
    (held_late,) = office.control(OPERATOR, "privacy.hold", subject)
    assert "was erased" in held_late.why.facts["detail"]
    (odd,) = office.control(OPERATOR, "privacy.erase", {"subject": "customer-42"})
    assert odd.why.reason == "invalid_command"


def test_messages_without_personal_data_are_as_before(vault: Vault) -> None:
    """Nobody asks for a key, whatever other attributes they have."""

    class Never:
        def key(self, envelope: Envelope) -> bytes | None:
            raise AssertionError(envelope)

    office = Office(bundle(OPEN), opener=Never())
    plain = Envelope.new("t", 1, dataclassification="internal", datasubject="customer-42")
    assert office.one(OUTSIDER, plain).verdict is Verdict.ALLOW
