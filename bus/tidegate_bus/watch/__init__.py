"""Watching over a running broker: floods, refusals, and whether mediation still holds.

warden      connections beyond their limit     roll         who is connected
monitoring  what the broker says of clients    incidents    a line of its log, read
broker_log  its log, followed                  wire         the protocol by hand
bypasses    ways past the gateway              injection    the one that the ledger shows
probe       all of them, tried                 prober       again and again
cut         all connections at once
"""
