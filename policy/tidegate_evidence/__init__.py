"""Checking what a ledger's evidence proves. For auditors: read it whole, it takes an hour.

    tree         the Merkle tree of RFC 9162: leaves, frontier, proofs
    note         signed notes, and cosignatures with a time (C2SP signed-note, tlog-cosignature)
    checkpoint   what is signed: origin, size and root (C2SP tlog-checkpoint)
    tiles        the hashes of a tree as files (C2SP tlog-tiles)
    trust        whose signatures a checkpoint needs (C2SP tlog-policy)
    proof        that one record is in a log, as a file (C2SP tlog-proof)
    proven       hashes of tiles, as far as a checkpoint proves them
    audit        records held against a checkpoint: what is wrong, and where
    manifest     what an export is, signed (DSSE, in-toto)
    export       the folder of an export

It needs `cryptography` and `msgspec` besides the standard library, imports nothing that talks to a
network, and trusts nothing that it is given but the keys. What does not hold is a
`VerificationError`.
"""
