"""Deciding, and proving what was decided. Imports the bus floor and the schemas.

roster      who takes part: a fold of the ledger
bundle      a policy bundle: Cedar policies and schema, loaded or refused as a whole
obligations what a policy demands besides its verdict
decide      the pure core: one submission in, one decision out
window      which envelope ids were seen lately
trimmer     what is recorded is forgotten by the ingress
gateway     the shell: read submissions, decide, append, tell the senders
signing     who vouches for the ledger: signed heads, the notary, witnesses
personal    personal data: its keys, and who may have them
invariants  does a ledger hold what Tidegate promises of it
replay      decisions looked at again: by another bundle, by rule, and whether they follow

Nothing is imported here: whoever folds the roster is no gateway, and has none of its metrics.
"""
