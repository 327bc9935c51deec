"""`tests/grids.py` leaves out cases, and never a value or a pair of values."""

import itertools

import pytest

from tests.grids import each_once, pairwise

AXES = {"a": [0, 1], "b": ["x", "y", "z"], "c": {"one": 1, "two": 2}, "d": [(), (1,), None, {}]}


def cases(mark):
    names, params = mark.args
    assert names == tuple(AXES)
    return [param.values for param in params]


def values(axis):
    return list(axis.values() if isinstance(axis, dict) else axis)


def test_each_value_is_in_a_case():
    found = cases(each_once(**AXES))
    assert len(found) == 4
    for place, axis in enumerate(AXES.values()):
        assert all(any(case[place] == value for case in found) for value in values(axis))


def test_each_pair_of_values_is_in_a_case():
    found = cases(pairwise(**AXES))
    assert len(found) < 2 * 3 * 2 * 4 / 2
    for (n, one), (m, other) in itertools.combinations(enumerate(AXES.values()), 2):
        for pair in itertools.product(values(one), values(other)):
            assert any((case[n], case[m]) == pair for case in found), pair


def test_one_axis_has_no_pairs():
    with pytest.raises(AssertionError, match="no pairs"):
        pairwise(a=[1, 2])
