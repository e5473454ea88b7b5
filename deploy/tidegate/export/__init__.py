"""Taking records out of the ledger, with all that proves them, into a folder that stands alone.

    evidence   what the notary keeps: the checkpoint, and the tree that each record is compared with
    reading    records as they come from the broker, compared
    outputs    the files that records are written to
    columns    a record as a row
    parquet    rows as Parquet; the only place that knows pyarrow
    ocsf       a record as an event for SIEMs
    folder     nothing half-made is left that looks whole
    packing    all of it together, the signed manifest last

Nothing leaves unrecorded: a folder gets its name when the ledger has admitted the `audit.export`
that holds the digest of its manifest (`release`).
"""
