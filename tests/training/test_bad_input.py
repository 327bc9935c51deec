"""What cannot be trained on is refused before training, in words that say what, where and why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jax_softmax import InputError, Split, TrainConfig, evaluate, fit

NAN, INF = float("nan"), float("inf")


def _with_feature(table, value, dtype=np.float64):
    features = table.features.astype(dtype)
    features[7, 2] = value
    return features


BAD_FEATURES = {
    "nan": (lambda t: _with_feature(t, NAN), "expected finite numbers, got nan in row 7, column 2"),
    "inf": (lambda t: _with_feature(t, INF), "expected finite numbers, got inf in row 7, column 2"),
    "-inf": (lambda t: _with_feature(t, -INF), "got -inf in row 7, column 2; drop or fill"),
    "half nan": (lambda t: _with_feature(t, NAN, np.float16), "got nan in row 7, column 2"),
    "too large": (lambda t: _with_feature(t, 1e300), "that float32 holds, got 1e.300 in row 7"),
    "complex": (lambda t: t.features + 0j, "expected real numbers, got dtype complex128"),
    "str": (lambda t: t.features.astype(str), "expected real numbers, got dtype <U"),
    "object": (
        lambda t: _with_feature(t, None, object),
        "expected real numbers, got None in row 7, column 2",
    ),
    "one axis": (lambda t: t.features[:, 0], r"expected shape \[examples, width\], got \(23,\)"),
    "empty": (lambda t: t.features[:0], "expected at least one example, got an empty split"),
    "no width": (lambda t: t.features[:, :0], r"at least one number an example, got \(23, 0\)"),
}


@pytest.mark.parametrize("name", BAD_FEATURES)
def test_features_that_cannot_be_used(name, table):
    make, words = BAD_FEATURES[name]
    with pytest.raises(InputError, match=f"^features: .*{words}"):
        fit(dataclasses.replace(table, features=make(table)))


@pytest.mark.parametrize("value", [NAN, INF])
def test_evaluation_refuses_such_features_too(value, table, table_result):
    split = dataclasses.replace(table, features=_with_feature(table, value))
    with pytest.raises(InputError, match=f"got {value} in row 7, column 2"):
        evaluate(table_result, split)


def _with_label(table, value, dtype=np.int64):
    labels = table.labels.astype(dtype)
    labels[4] = value
    return labels


def _one_hot(table, row):
    rows = np.eye(3)[table.labels]
    rows[4] = row
    return rows


BAD_LABELS = {
    "too large": (lambda t: _with_label(t, 3), r"integers in \[0, 3\), got 3 in row 4"),
    "negative": (lambda t: _with_label(t, -1), r"integers in \[0, 3\), got -1 in row 4"),
    "beyond int32": (lambda t: _with_label(t, 2**32), r"\[0, 3\), got 4294967296 in row 4"),
    "fraction": (lambda t: _with_label(t, 0.5, float), "expected integers, got 0.5 in row 4"),
    "nan": (lambda t: _with_label(t, NAN, float), "expected integers, got nan in row 4"),
    "inf": (lambda t: _with_label(t, INF, float), "expected integers, got inf in row 4"),
    "str": (
        lambda t: t.labels.astype(str),
        "one of 'cat', 'dog', 'eel', got '0' in row 0",
    ),
    "fewer": (lambda t: t.labels[:-1], "one for each of 23 feature rows, got 22"),
    "more": (lambda t: np.append(t.labels, 0), "one for each of 23 feature rows, got 24"),
    "scalar": (lambda t: np.int64(1), r"expected shape \[N\] or \[N, classes\], got \(\)"),
    "three axes": (lambda t: np.zeros((23, 3, 1)), r"or \[N, classes\], got \(23, 3, 1\)"),
    "a column": (lambda t: t.labels[:, None], r"got \(23, 1\); pass labels\[:, 0\]"),
    "one class": (lambda t: t.labels * 0 + 1, "at least two classes, got only class dog"),
    "two ones": (lambda t: _one_hot(t, [1, 1, 0]), r"a single 1.* got \[1.0, 1.0, 0.0\] in row 4"),
    "no ones": (lambda t: _one_hot(t, [0, 0, 0]), "expected one-hot rows .*in row 4"),
    "soft": (lambda t: _one_hot(t, [0.5, 0.5, 0]), "expected one-hot rows .*in row 4"),
    "nan one-hot": (lambda t: _one_hot(t, [1, NAN, 0]), "expected one-hot rows .*in row 4"),
    "too wide": (lambda t: np.eye(4)[t.labels], "one-hot rows of 3 classes, got 4 columns"),
    "words": (lambda t: _one_hot(t, 0).astype(str), "one-hot rows of numbers, got dtype <U"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_cannot_be_used(name, table):
    make, words = BAD_LABELS[name]
    with pytest.raises(InputError, match=f"^labels: .*{words}"):
        fit(dataclasses.replace(table, labels=make(table)))


def test_a_negative_label_is_refused_without_class_names_too(table):
    with pytest.raises(InputError, match=r"integers in \[0, 3\), got -1 in row 4"):
        fit(Split(table.features, _with_label(table, -1)))


def test_evaluation_refuses_a_label_that_is_no_class_of_the_model(table, table_result):
    with pytest.raises(InputError, match=r"integers in \[0, 3\), got 7 in row 4"):
        evaluate(table_result, Split(table.features, _with_label(table, 7)))


def test_validation_examples_of_another_width_are_refused(table, images):
    with pytest.raises(InputError, match="expected 5 numbers an example"):
        fit(table, TrainConfig(epochs=1), validation=images)


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (np.arange(23) % 3.0, "whole floats"),
        (np.arange(23) % 2 == 1, "booleans"),
        ((np.arange(23) % 3).astype(np.uint64), "unsigned"),
        ((np.arange(23) % 3).tolist(), "a list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_that_can_be_used(labels, why, table):
    assert fit(Split(table.features, labels), TrainConfig(epochs=1)).history


RATE = "^learning rate: expected a positive, finite number, got"
BATCH = "^batch size: expected an integer of at least 1, or None for the full batch, got"
EPOCHS = "^epochs: expected an integer of at least 1, got"
MOMENTUM = r"^momentum: expected a number in \[0, 1\), got"
DECAY = "^weight decay: expected a finite number of at least 0, got"
SCHEDULE = r"^schedule: expected one of \('constant', 'cosine', 'warmup-cosine'\), got"
SEED = r"^seed: expected an integer in \[0, 2\*\*32\), got"

BAD_SETTINGS = [
    *[("learning_rate", value, RATE) for value in (0, 0.0, -0.1, NAN, INF, "0.1", None, 1j)],
    *[("batch_size", value, BATCH) for value in (0, -1, 2.5, 8.0, "none", True)],
    *[("epochs", value, EPOCHS) for value in (0, -3, 1.5, "3", None, NAN, True)],
    *[("momentum", value, MOMENTUM) for value in (1, -0.1, NAN, "0.9", None)],
    *[("weight_decay", value, DECAY) for value in (-0.1, NAN, INF, "0", None)],
    *[("schedule", value, SCHEDULE) for value in ("linear", "Cosine", None)],
    *[("seed", value, SEED) for value in (-1, 2**32, 0.5, "0", None)],
]


@pytest.mark.parametrize(("name", "value", "words"), BAD_SETTINGS)
def test_settings_out_of_their_range(name, value, words):
    with pytest.raises(InputError, match=words) as caught:
        TrainConfig(**{name: value})
    assert str(caught.value).endswith(f"got {value!r}.")


def test_nesterov_without_momentum_is_a_mistake():
    with pytest.raises(InputError, match=r"^nesterov: expected a momentum above 0 to go with it"):
        TrainConfig(nesterov=True)


def test_numpy_numbers_are_settings_too():
    config = TrainConfig(
        learning_rate=np.float32(0.5), batch_size=np.int64(8), epochs=np.uint8(3), seed=np.int32(1)
    )
    assert config == TrainConfig(learning_rate=0.5, batch_size=8, epochs=3, seed=1)
    assert {type(value).__module__ for value in dataclasses.astuple(config)} == {"builtins"}


def test_the_edges_of_the_ranges_are_settings():
    edges = {
        "learning_rate": 1e-30,
        "batch_size": 1,
        "epochs": 1,
        "momentum": 0.999,
        "weight_decay": 0,
        "seed": 2**32 - 1,
    }
    assert edges.items() <= dataclasses.asdict(TrainConfig(**edges)).items()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros((4, 2)), np.zeros(4)), "^train: expected examples such as Split"),
        (
            (Split(np.zeros((4, 2)), np.arange(4)), 0.1),
            "^config: expected a TrainConfig, got float",
        ),
    ],
)
def test_arguments_of_another_kind(arguments, words):
    with pytest.raises(InputError, match=words):
        fit(*arguments)


def test_evaluation_takes_examples(table_result):
    with pytest.raises(
        InputError, match=r"^examples: expected examples such as Split.*got ndarray"
    ):
        evaluate(table_result, np.zeros((4, 2)))


def test_an_optimizer_by_name(table):
    with pytest.raises(InputError, match=r"^optimizer: expected an optax optimiser .*'adam'"):
        fit(table, optimizer="adam")
