"""Going through the ledger again.

report   what was found, as a document with a digest
"""
