"""`infer-gateway top`: the gateway's live feed in a terminal; no part of the gateway itself imports it. (P)

Every string of the feed passes `plain` before it is shown, every number `feed.number`: whatever clients have sent, and
whatever answers at the address, neither steers the terminal nor breaks a column.
"""
