"""Who vouches for the ledger: the gateway that writes it, a notary that reads it back, witnesses.

heads        what the gateway signs, and must never contradict
notary       looks again and again, recovers, raises alarms
readback     records against heads           publishing   what holds, cosigned
head_reader  heads from the broker           locating     where a ledger was changed
checkpoints  what was published, on disk     alarms       what does not hold, and the proof of it
cosigners    asking witnesses                witness      being one (C2SP tlog-witness)

What auditors use to check all that is the package `tidegate_evidence`.
"""
