"""Going through the ledger again.

script       what agents got in a part of the ledger, and what they said to it
values       in what two JSON values differ
answers      what they say now, beside what they said then
pace         when each message is delivered again
sandbox      a broker and agents of the moment, with no way back
keys         what they seal with there
redelivery   the script, played in the sandbox
report       what was found, as a document with a digest
"""
