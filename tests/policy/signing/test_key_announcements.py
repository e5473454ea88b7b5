"""What the ledger is told of the keys that sign it."""

from __future__ import annotations

from typing import Any

import pytest

from policy.office import ANN, Office, policies
from tidegate_evidence.note import Algorithm, Signer
from tidegate_schemas.evidence import EvidenceKeys
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import EVIDENCE_KEYS

WRITER = str(Signer.generate("shop/0").verifier)
NOTARY = str(Signer.generate("shop/notary", Algorithm.COSIGNATURE).verifier)
PERMIT = """
@id("all") @redact("/keys") permit (principal, action in Action::"control", resource);
"""


def said(*keys: tuple[str, str]) -> dict[str, Any]:
    """The data of an announcement."""
    return {"keys": [{"role": role, "key": key} for role, key in keys]}


@pytest.fixture
def office() -> Office:
    """A gateway whose policy would take out what everybody says."""
    return Office(policies(PERMIT))


def test_the_keys_in_use_are_recorded_whole(office: Office) -> None:
    """Whatever policy takes out of other messages: an auditor goes by them."""
    (made,) = office.control(ANN, EVIDENCE_KEYS, said(("writer", WRITER), ("notary", NOTARY)))

    message = made.message()
    assert made.verdict is Verdict.ALLOW
    assert message
    assert [key.key for key in message.payload(EvidenceKeys).keys] == [WRITER, NOTARY]


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        said(),
        said(("writer", "x")),
        said(("writer", WRITER[:-4] + "AAA=")),
        said(("king", WRITER)),
        said(("writer", WRITER), ("export", WRITER)),
        {**said(("writer", WRITER)), "more": 1},
    ],
)
def test_what_names_no_keys_is_not_admitted(office: Office, data: Any) -> None:
    """Nor a key that would sign two things."""
    (made,) = office.control(ANN, EVIDENCE_KEYS, data)

    assert made.verdict is Verdict.DENY
