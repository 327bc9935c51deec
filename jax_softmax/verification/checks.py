"""The verifier: runs a selection's groups, several at once, and collects their results."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from jax_softmax.testing.cases import Group
from jax_softmax.testing.options import OF_TEACHERS
from jax_softmax.verification.group_checks import verify_rules
from jax_softmax.verification.results import CheckResult
from jax_softmax.verification.selection import Selection
from jax_softmax.verification.teachers import verify_teachers
from jax_softmax.verification.under_test import OURS, OpsUnderTest

# How many groups run at once: tracing holds Python's lock, but XLA's compiler does not.
_THREADS = 2
# With this many groups of the same number of classes, the reference is better run one primitive at
# a time: each primitive is compiled once for all of them.
_WORTH_SHARING = 8


def verify(
    selection: Selection | Sequence[Group],
    ops: OpsUnderTest = OURS,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[CheckResult]:
    """Checks every quantity of every group against the oracle, the reference and differences.

    Computes on JAX's default device, but the oracle and the reference on the CPU. float64 is turned
    on where it is needed; no global flag is changed.

    Args:
      selection: what to verify, or the groups themselves, which then run without the peers.
      ops: the functions under test.
      on_progress: called with how many groups are done and how many there are.

    Returns:
      One result per group, quantity, regime and what the quantity is checked against.
    """
    if isinstance(selection, Selection):
        groups, has_peers = selection.groups(), selection.has_peers
    else:
        groups, has_peers = list(selection), _no_peers
    sizes = Counter(group.classes for group in groups)
    by_rules = [list(same) for _, same in itertools.groupby(groups, _but_rule)]

    def run(together: list[Group]) -> list[CheckResult]:
        if together[0].op in OF_TEACHERS:
            return verify_teachers(together, ops)
        compiled = sizes[together[0].classes] < _WORTH_SHARING
        return verify_rules(together, ops, has_peers(together[0]), compiled)

    results: list[CheckResult] = []
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(run, together) for together in by_rules]
        try:
            for together, future in zip(by_rules, futures, strict=True):
                results += future.result()
                done += len(together)
                if on_progress is not None:
                    on_progress(done, len(groups))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return results


def _but_rule(group: Group) -> Group:
    return dataclasses.replace(group, rule="")


def _no_peers(group: Group) -> bool:
    return False
