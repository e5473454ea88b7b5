"""What these tests share: a desk's ledger, looked at again by another bundle."""

from __future__ import annotations

from collections.abc import Iterable

from policy.office import Office
from tidegate_policy.bundle import Bundle
from tidegate_policy.replay import Finding, Past, WhatIf
from tidegate_policy.replay.line import read_line
from tidegate_policy.roster import Roster
from tidegate_schemas.record import decode_record
from tidegate_schemas.subjects import Kind, Verdict

COMMANDS = ("identity.", "blueprint.register", "control.")


def changes(leaves: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """What the filters of `Past` let through."""
    found: list[tuple[int, bytes]] = []
    for seq, leaf in enumerate(leaves, 1):
        record = decode_record(leaf)
        admitted = record.kind is Kind.CONTROL and record.verdict is Verdict.ALLOW
        if admitted and record.to.startswith(COMMANDS):
            found.append((seq, leaf))
    return found


def by(bundle: Bundle, office: Office) -> WhatIf:
    """A judge with this bundle, of an office's ledger."""
    genesis = bundle.snapshot(Roster.of(office.staff))
    return WhatIf(Past(genesis, changes(office.ledger)))


def findings(bundle: Bundle, office: Office) -> dict[int, Finding]:
    """What differs, by sequence."""
    judge = by(bundle, office)
    found = {
        seq: judge.judge(seq, read_line(seq, leaf)) for seq, leaf in enumerate(office.ledger, 1)
    }
    return {seq: finding for seq, finding in found.items() if finding}
