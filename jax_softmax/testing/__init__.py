"""What exact results are, on which inputs and within which bounds: for `verify` and for the tests.

One oracle, one table each of regimes, options and bounds. Shares no code with `ops`.
"""
