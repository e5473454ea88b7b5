"""Decisions, looked at again: all from the ledger, none of it moves anything.

whatif       what another bundle would have said       outcome     how one verdict differs
parallel     the same over a long stretch              tally       counting differences
past         what the ledger had said by each record   report      the counts, as a document
shelf        the bundles in the ledger                 line        records, as far as needed
learn        policy from what was learned              explain     the rules that decided
conformance  do the verdicts follow from the ledger?
"""

from .conformance import Conformance, Difference
from .explain import Explanation, explain
from .learn import Lesson
from .outcome import Finding, Outcome
from .parallel import Stretch, what_if
from .past import Past
from .report import Diff, diff_of
from .shelf import Shelf
from .tally import Tally
from .whatif import WhatIf

__all__ = [
    "Conformance",
    "Diff",
    "Difference",
    "Explanation",
    "Finding",
    "Lesson",
    "Outcome",
    "Past",
    "Shelf",
    "Stretch",
    "Tally",
    "WhatIf",
    "diff_of",
    "explain",
    "what_if",
]
