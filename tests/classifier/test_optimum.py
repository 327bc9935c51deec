"""The optimum as a saved model: what it takes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from jax_softmax import InputError, SoftmaxClassifier, Split, predict, predict_proba
from jax_softmax.classifier.optimum import optimum
from jax_softmax.errors import TrainingWarning
from jax_softmax.training.config import LbfgsConfig

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 2, 3)).astype(np.uint8)
LABELS = (PIXELS[:, 0, 0] > 127).astype(int)
ONE = LbfgsConfig(tol=1e-5, mesh={"data": 1})


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_classifiers_model(classes):
    labels = np.where(PIXELS[:, 1, 0] > 127, LABELS, classes - 1)
    split = Split(PIXELS, labels, feature_scale=1 / 255)
    features = (PIXELS.reshape(60, 6) / 255).astype(np.float32)
    classifier = SoftmaxClassifier(tol=1e-5, max_iter=1000).fit(features, labels)
    found = optimum(split, ONE)
    assert found.feature_shape == (2, 3) and found.params["kernel"].shape == (6, classes)
    np.testing.assert_allclose(
        predict_proba(found, PIXELS), classifier.predict_proba(features), atol=1e-4
    )
    assert (predict(found, PIXELS) == classifier.predict(features)).all()


def test_what_is_told_meanwhile_is_what_the_history_has():
    told = []
    found = optimum(
        Split(PIXELS, LABELS, feature_scale=1 / 255),
        ONE,
        on_iterations=lambda done, loss: told.append((done, loss)),
    )
    last = found.history[-1]
    assert told[-1] == (last["epoch"], last["train_loss"])


def test_numbers_of_64_bits_are_computed_with_and_kept_as_jax_has_them():
    wide = PIXELS.reshape(60, 6) / 255
    found = optimum(Split(wide, LABELS), LbfgsConfig(tol=1e-10, mesh={"data": 1}))
    assert found.params["kernel"].dtype == np.float32  # reached 1e-10 all the same
    assert np.isfinite(found.history[-1]["train_loss"])


def test_an_optimum_at_the_start_has_a_history():
    found = optimum(Split(np.zeros((4, 1)), [0, 1, 1, 0]), ONE)
    assert found.history == ({"epoch": 1, "train_loss": pytest.approx(np.log(2))},)


def test_not_converged_is_a_warning_of_training():
    with pytest.warns(TrainingWarning, match=r"failed to converge after 1 iteration\(s\)"):
        optimum(Split(PIXELS, LABELS), LbfgsConfig(max_iter=1))


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (
            Split(PIXELS, LABELS, ("a", "b", "c")),
            "a training example of each class, got none of 'c'",
        ),
        (Split(PIXELS, LABELS * 0, ("a", "b")), "at least two classes, got only class a"),
        (Split(np.full((2, 1), np.nan), [0, 1]), "finite numbers, got nan in row 0"),
    ],
)
def test_examples_that_have_no_optimum(split, words):
    with pytest.raises(InputError, match=words):
        optimum(split)


def test_a_penalty_that_numbers_cannot_hold():
    with pytest.raises(InputError, match="C: expected a penalty that float32 holds, got C=1e-300"):
        optimum(Split(PIXELS, LABELS), LbfgsConfig(C=1e-300))
