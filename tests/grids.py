"""Fewer cases than a whole grid, chosen by rule: a grid of four axes compiles for minutes."""

import itertools

import pytest


def each_once(**axes):
    """A parametrisation with every value of each axis, in as many cases as the longest axis has.

    Args:
      **axes: the values by the parameter's name, a list, or a dictionary of values by their ids.
    """
    count = max(map(len, axes.values()))
    return _parametrized(
        axes, [[n % len(values) for values in axes.values()] for n in range(count)]
    )


def pairwise(**axes):
    """A parametrisation in which any two values of different axes meet.

    Most of what can go wrong needs two options, not four.
    """
    assert len(axes) > 1, "there are no pairs of one axis"
    grid = list(itertools.product(*(range(len(values)) for values in axes.values())))

    def pairs(case):
        return set(itertools.combinations(enumerate(case), 2))

    missing, chosen = set().union(*map(pairs, grid)), []
    while missing:
        chosen.append(max(grid, key=lambda case: len(pairs(case) & missing)))
        missing -= pairs(chosen[-1])
    return _parametrized(axes, chosen)


def _parametrized(axes, cases):
    listed = [
        list(values.items()) if isinstance(values, dict) else [(None, v) for v in values]
        for values in axes.values()
    ]
    params = []
    for case in cases:
        named = [values[place] for values, place in zip(listed, case, strict=True)]
        ids = "-".join(getattr(x, "__name__", str(x)) if n is None else n for n, x in named)
        params.append(pytest.param(*(value for _, value in named), id=ids))
    return pytest.mark.parametrize(tuple(axes), params)
