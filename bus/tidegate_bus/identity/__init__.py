"""Who is who: keys, and where it is written down which are good.

credentials    what proves a principal          keyring     seeds in files
register       which identities there are       jwt         signed claims (ADR-14)
operator_mode  the broker goes by signed claims instead of a list
"""
