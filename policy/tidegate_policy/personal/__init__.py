"""Personal data: its keys, and who may have them.

privacy    whose data is erased or held, by the ledger; what policy sees of a message
vault      the keys of data subjects, in a file outside of the ledger
custodian  gives out keys of messages, and destroys what is to be destroyed
"""
