"""Checks the hand-written derivatives, on this machine and jax, against three other ways."""

from jax_softmax.testing.cases import Group
from jax_softmax.verification.checks import verify
from jax_softmax.verification.results import CheckResult
from jax_softmax.verification.selection import Selection
from jax_softmax.verification.under_test import OURS, OpsUnderTest

__all__ = ["OURS", "CheckResult", "Group", "OpsUnderTest", "Selection", "verify"]
