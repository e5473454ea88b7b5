"""Deciding, and proving what was decided. Imports the bus floor and the schemas.

roster      who takes part: a fold of the ledger
bundle      a policy bundle: Cedar policies and schema, loaded or refused as a whole
decide      the pure core: one submission in, one decision out
window      which envelope ids were seen lately
trimmer     what is recorded is forgotten by the ingress
gateway     the shell: read submissions, decide, append, tell the senders
invariants  does a ledger hold what Tidegate promises of it
"""

from .bundle import Bundle, load_bundle
from .decide import Decision, Limits, decide
from .gateway import Gateway
from .invariants import Checker
from .roster import Roster

__all__ = [
    "Bundle",
    "Checker",
    "Decision",
    "Gateway",
    "Limits",
    "Roster",
    "decide",
    "load_bundle",
]
