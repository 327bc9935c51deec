"""The one error type for things a person handed over that cannot be used."""

from __future__ import annotations


class InputError(ValueError):
    """Data, a file, a folder or a setting that cannot be used as it is.

    The message says what was expected, what came and what to do about it. The commands print it
    and leave with exit code 2; from Python it is a `ValueError` like any other.
    """
