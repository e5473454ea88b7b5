"""The index of the ledger: what can be looked up in it without reading it from the beginning.

    glance   what the index keeps of a record, taken out of its bytes     (pure)
    store    the file: tables, adding to it, whether it is to be believed
    lookup   searching in it, from any process
    keeper   follows the ledger, writes the index, tells whoever listens

It is never a source of truth: everything in it is in the ledger, and whoever shows a record reads
it there. An index that is damaged, of another ledger or of another version is thrown away and made
again.
"""

from .glance import Glance, Row
from .keeper import Batch, IndexKeeper, Listener
from .lookup import Filter, LedgerIndex, Page

__all__ = [
    "Batch",
    "Filter",
    "Glance",
    "IndexKeeper",
    "LedgerIndex",
    "Listener",
    "Page",
    "Row",
]
