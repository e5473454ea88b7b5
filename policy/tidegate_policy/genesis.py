"""Where every ledger begins: operators may put policies in force, and nothing else moves."""

from __future__ import annotations

from functools import cache

from .bundle import Bundle, Snapshot
from .roster import BUILT_IN

_TEXT = """\
// In force until the ledger names another bundle.
@id("operators-begin")
permit (
  principal == Agent::"tidegate.operator",
  action in Action::"control",
  resource
)
when { ["policy.propose", "policy.activate"].contains(context.to) };
"""


@cache
def genesis() -> Snapshot:
    """The first policies and who is there from the beginning."""
    return Bundle.of_files({"genesis.cedar": _TEXT}).snapshot(BUILT_IN)
