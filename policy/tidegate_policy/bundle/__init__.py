"""A policy bundle: loaded as a whole, or refused with every reason.

contents   Bundle: the files of one digest, read and checked
folder     a bundle as its author keeps it
source     Cedar text: how much of it there is, and on which line a policy stands
rules      policies with their ids and obligations, and what is wrong with them
facts      what policy may see of the data of a message
schema     the Cedar schema that follows from the facts
groups     who is in which group
snapshot   a bundle and a roster: questions and answers
faults     how a fault is told

What is refused here is what no gateway may take. What its author should know besides is advice.
"""

from .contents import Bundle, examine
from .facts import Facts
from .faults import Fault
from .folder import load_bundle, read_folder
from .rules import Rule
from .snapshot import Answer, Question, Snapshot

__all__ = [
    "Answer",
    "Bundle",
    "Facts",
    "Fault",
    "Question",
    "Rule",
    "Snapshot",
    "examine",
    "load_bundle",
    "read_folder",
]
