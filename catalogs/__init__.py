"""The outside world and our memory: where adapters are found, where conversions go, and what was done.

Nothing here knows tensors or an engine: `sources/` finds adapters, `policy` says what may be done with them, `store`
keeps their bytes, `hubs/` publishes conversions, and `ledger` remembers everything.
"""
