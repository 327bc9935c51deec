"""Exact results, inputs and error bounds, for `verify` and for the tests.

There is one oracle, and one table each of regimes, options and bounds. Shares no code with `ops`.
"""
