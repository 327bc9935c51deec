"""Columns of words, intercepts that are switched off, and sparse rows of very different lengths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from jax_softmax import SoftmaxClassifier
from jax_softmax.classifier.rows import check_batch, single_rows

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 2
WORDS = {"age": list(range(60)), "city": ["Paris", "Rome"] * 30}


@pytest.mark.parametrize(
    ("features", "column"),
    [
        (pd.DataFrame(WORDS), "column 'city'"),
        (pd.DataFrame(WORDS).astype({"city": "category"}), "column 'city'"),
        (pl.DataFrame(WORDS), "column 'city'"),
        (np.array([[1, "Paris"]] * 60, object), "column 1"),
        ([["1", "Paris"]] * 60, "column 1"),
    ],
    ids=["pandas", "categories", "polars", "objects", "lists"],
)
def test_a_column_of_words_is_named_with_the_way_out(features, column):
    words = f"^X, {column}: could not convert string to float: 'Paris'. Make numbers of words, in a"
    with pytest.raises(ValueError, match=words) as raised:
        SoftmaxClassifier().fit(features, LABELS)
    for way in ("ColumnTransformer", "OneHotEncoder", "jax-softmax train FILE --label COLUMN"):
        assert way in str(raised.value)


def test_intercepts_that_are_switched_off_are_dropped():
    features = RNG.normal(size=(60, 4)) + 3
    model = SoftmaxClassifier(solver="sgd", learning_rate=0.1, average=True)
    model.partial_fit(features, LABELS, classes=[0, 1])
    assert model.intercept_[0] != 0
    model.set_params(fit_intercept=False).partial_fit(features, LABELS)
    assert model.intercept_[0] == 0
    np.testing.assert_allclose(model.decision_function(np.zeros((1, 4))), 0)


def test_one_dense_row_does_not_make_all_of_them_dense():
    matrix = sparse.random(500, 400, 0.005, format="csr", random_state=0, dtype=np.float32)
    matrix = sparse.vstack([matrix, sparse.csr_matrix(np.ones((1, 400), np.float32))], "csr")
    found = single_rows(matrix)
    assert found.values.size + found.columns.size < 5 * matrix.nnz
    rows = np.array([500, 3, 0, 500, 77], np.int32)
    np.testing.assert_array_equal(found.take(rows), matrix[rows].toarray())
    np.testing.assert_array_equal(found.block(0, np.int32(2), 3), matrix[2:5].toarray())


@pytest.mark.parametrize("filled", [0.0, 0.2])
def test_steps_on_sparse_rows_are_those_on_dense_ones(filled):
    matrix = sparse.random(60, 30, filled, format="csr", random_state=0)
    words = {"solver": "sgd", "max_iter": 3, "tol": 0, "random_state": 0, "n_iter_no_change": 9}
    found, expected = SoftmaxClassifier(**words), SoftmaxClassifier(**words)
    for model, features in ((found, matrix), (expected, matrix.toarray())):
        with pytest.warns(ConvergenceWarning, match="sgd"):
            model.fit(features, LABELS)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-12)


def test_a_batch_of_more_places_than_32_bits_count_is_refused():
    wide = sparse.csr_matrix((40, 10**8))
    words = (
        "batch_size: expected fewer than 2\\*\\*31 .* got 32 rows of 100,000,000 columns; take at"
    )
    with pytest.raises(ValueError, match=f"{words} most 21 rows"):
        check_batch(wide, 32)
    with pytest.raises(ValueError, match=words):
        SoftmaxClassifier(solver="sgd").fit(wide, np.arange(40) % 2)
    check_batch(wide, 21)
