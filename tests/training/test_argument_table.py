"""An argument of the wrong kind is an `InputError` that names it: arguments times wrong values."""

from __future__ import annotations

import decimal
import re

import numpy as np
import optax
import pytest

import jax_softmax
from jax_softmax import Dataset, InputError, Split, TrainConfig, evaluate, fit, load_dataset

FEATURES = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.2]])
LABELS = np.array([0, 1, 1])
SPLIT = Split(FEATURES, LABELS)
ONE_EPOCH = TrainConfig(epochs=1)
RAGGED = [[0.0, 1.0], [1.0], [0.5, 0.2]]
MASKED = np.ma.masked_array(FEATURES, FEATURES == 1.0)
NAN, INF = float("nan"), float("inf")


class Sparse:
    """Like SciPy's matrices of mostly zeros."""

    shape = (3, 2)

    def toarray(self):
        return FEATURES


@pytest.fixture(scope="module")
def model():
    return fit(SPLIT, ONE_EPOCH)


@pytest.fixture(autouse=True)
def nothing_placed(monkeypatch, tmp_path):
    for variable in ("JAX_SOFTMAX_RAW_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def _config(name, words, values):
    return [
        (f"TrainConfig {name}={value!r:.30}", lambda _, v=value: TrainConfig(**{name: v}), words)
        for value in values
    ]


NO_NUMBERS = ("0.1", b"1", True, 1j, [0.1], (0.1,), {}, np.array([0.1, 0.2]), decimal.Decimal(1))
NO_INTEGERS = (1.5, "3", b"1", True, 1j, [1], (1,), {}, np.array([1, 2]), decimal.Decimal(1))
NO_SPLITS = (
    None,
    0,
    "iris",
    FEATURES,
    (FEATURES, LABELS),
    {"features": FEATURES, "labels": LABELS},
    Split,
)
NO_NAMES = ("ab", b"ab", 7, {"a"}, frozenset("a"), {"a": 0, "b": 1}, (None, "b"), ("a", 1.5))
NO_SCALE = ((1, 2, 3), [1.0], "1", None, 0, -1.0, NAN, INF, True, 1j, np.ones(3), 10**400)
NO_FEATURES = {
    "None": (None, "features"),
    "str": ("abc", "features"),
    "bytes": (b"abc", "features"),
    "dict": ({"a": [1.0, 2.0, 3.0]}, "features"),
    "set": ({1.0, 2.0, 3.0}, "features"),
    "function": (len, "features"),
    "ragged": (RAGGED, "features"),
    "masked": (MASKED, "features.*mask"),
    "sparse": (Sparse(), r"features.*\.toarray\(\)"),
    "words": ([["a", "b"]] * 3, "features.*numbers"),
    "a word among numbers": (
        np.array([[1, 2], [3, "x"], [5, 6]], object),
        "features.*'x' in row 1, column 1",
    ),
    "missing": (np.array([[1.0, 2], [None, 4], [5, 6]], object), "None in row 1, column 0"),
    "huge": ([[10**400, 1.0]] * 3, "features"),
    "dates": (np.full((3, 2), "2020-01-01", "datetime64[D]"), "features.*datetime64"),
    "times": (np.ones((3, 2), "timedelta64[s]"), "features.*timedelta64"),
    "records": (np.zeros(3, [("a", float), ("b", float)]), "features.*numbers"),
    "generator": ((row for row in FEATURES), "features.*generator"),
    "scalar": (1.0, r"features.*shape \[examples, width\]"),
    "complex": (FEATURES + 1j, "features.*complex128"),
    "one row": (FEATURES[0], r"features\[None\]"),
}
NO_LABELS = {
    "None": (None, "labels"),
    "str": ("abc", "labels"),
    "dict": ({0: 1}, "labels"),
    "set": ({0, 1, 2}, "labels"),
    "ragged": ([[0], [1, 0], [1]], "labels"),
    "masked": (np.ma.masked_array(LABELS, [0, 0, 1]), "labels.*mask"),
    "complex": (LABELS + 1j, "labels.*complex128"),
    "bytes": (LABELS.astype("S"), "labels.*astype"),
    "dates": (np.full(3, "2020-01-01", "datetime64[D]"), "labels.*datetime64"),
    "times": (np.ones(3, "timedelta64[s]"), "labels.*timedelta64"),
    "records": (np.zeros(3, [("a", int)]), "labels"),
    "missing": (["a", None, "b"], "labels.*None in row 1"),
    "missing number": ([0, 1, None], "labels.*None in row 2"),
    "nan among words": (["a", NAN, "b"], "labels.*nan in row 1"),
    "word among numbers": (["a", 1, "b"], "labels.*1 in row 1"),
    "huge": ([0, 10**30, 1], "labels"),
    "functions": ([len, len, max], "labels.*row 0"),
}
NO_MODELS = ("run", None, 5, {"kernel": FEATURES}, FEATURES, TrainConfig())
NO_PARAMS = {
    "list": ([1], "params.*list"),
    "array": (FEATURES, "params"),
    "str": ("kernel", "params"),
    "ragged": ({"kernel": RAGGED, "bias": [0.0, 0.0]}, "params.*kernel"),
    "words": ({"kernel": np.full((2, 2), "a"), "bias": np.zeros(2)}, "params.*kernel.*<U1"),
    "None": ({"kernel": None, "bias": np.zeros(2)}, "params"),
    "complex": ({"kernel": np.zeros((2, 2)) + 1j, "bias": np.zeros(2)}, "params.*complex128"),
    "huge": ({"kernel": np.full((2, 2), 1e300), "bias": np.zeros(2)}, "params.*kernel.*float32"),
    "nan": ({"kernel": np.full((2, 2), NAN), "bias": np.zeros(2)}, "params.*finite"),
    "inf": ({"kernel": np.zeros((2, 2)), "bias": np.array([0.0, INF])}, "params.*bias.*finite"),
    "masked": ({"kernel": np.ma.zeros((2, 2)), "bias": np.zeros(2)}, "params.*kernel.*mask"),
}


class NoInit:
    def update(self, *_arguments):
        pass


class WrongUpdate:
    def init(self, params):
        return ()

    def update(self, *_arguments):
        return 7


NO_OPTIMIZERS = {
    "lbfgs": (optax.lbfgs(), "optimizer.*gradients"),
    "not called": (optax.adam, "optimizer"),
    "a dict": ({}, "optimizer"),
    "a rate": (0.1, "optimizer"),
    "no init": (NoInit(), "optimizer"),
    "wrong update": (WrongUpdate(), "optimizer"),
}
NO_DATASETS = (None, 5, b"iris", ["iris"], Split, FEATURES)
NO_FOLDERS = (5, b"data", ["data"], {"a": 1}, "~nobody-of-this-name/data")
NO_SEEDS = ("0", None, 0.5, True, -1, 2**32, [0], NAN)

CASES = [
    *_config("learning_rate", "^learning rate: ", (*NO_NUMBERS, None, 10**400)),
    *_config("momentum", "^momentum: ", (*NO_NUMBERS, None)),
    *_config("weight_decay", "^weight decay: ", (*NO_NUMBERS, None, 10**400)),
    *_config("batch_size", "^batch size: ", NO_INTEGERS),
    *_config("epochs", "^epochs: ", (*NO_INTEGERS, None, 2**31)),
    *_config("seed", "^seed: ", (*NO_INTEGERS, None)),
    *_config("checkpoint_every", "^checkpoint every: ", (*NO_INTEGERS, 0, -1, 2**31)),
    *_config("patience", "^patience: ", (*NO_INTEGERS, 0, -1, 2**31)),
    *_config("nesterov", "^nesterov: ", ("no", "yes", 1, None, [], 0.0, np.array([True, False]))),
    *_config("schedule", "^schedule: ", (0, ["cosine"], {}, np.array(["cosine", "constant"]))),
    *[
        (f"Split class_names={v!r}", lambda _, v=v: Split(FEATURES, LABELS, v), "^class_names: ")
        for v in (*NO_NAMES, ("a", "a"), (1, "1"), [["a"], ["b"]])
    ],
    *[
        (
            f"Split feature_scale={v!r:.30}",
            lambda _, v=v: Split(FEATURES, LABELS, feature_scale=v),
            "^feature_scale: ",
        )
        for v in NO_SCALE
    ],
    *[
        (f"Dataset {field}={v!r:.30}", lambda _, f=field, v=v: _dataset(**{f: v}), f"^{field}: ")
        for field, values in (
            ("name", (None, 5, b"x")),
            ("source", (None, 5)),
            ("train", NO_SPLITS),
            ("test", NO_SPLITS),
        )
        for v in values
    ],
    *[(f"fit {v!r:.30}", lambda _, v=v: fit(v, ONE_EPOCH), "^train: ") for v in NO_SPLITS],
    *[
        (f"fit features {name}", lambda _, v=v: fit(Split(v, LABELS), ONE_EPOCH), words)
        for name, (v, words) in NO_FEATURES.items()
    ],
    *[
        (f"fit labels {name}", lambda _, v=v: fit(Split(FEATURES, v), ONE_EPOCH), words)
        for name, (v, words) in NO_LABELS.items()
    ],
    *[
        (f"fit config={v!r:.30}", lambda _, v=v: fit(SPLIT, v), "^config: ")
        for v in (0.1, "fast", {"epochs": 3}, TrainConfig, [])
    ],
    *[
        (
            f"fit with {name}=1e300",
            lambda _, name=name: fit(SPLIT, TrainConfig(**{name: 1e300})),
            f"^{name.replace('_', ' ')}: expected a number that float32 holds",
        )
        for name in ("learning_rate", "weight_decay")
    ],
    (
        "fit with feature_scale=1e300",
        lambda _: fit(Split(FEATURES, LABELS, feature_scale=1e300), ONE_EPOCH),
        "^feature_scale: expected a number that float32 holds",
    ),
    *[
        (f"fit params {name}", lambda _, v=v: fit(SPLIT, ONE_EPOCH, params=v), words)
        for name, (v, words) in NO_PARAMS.items()
    ],
    *[
        (f"fit optimizer {name}", lambda _, v=v: fit(SPLIT, ONE_EPOCH, optimizer=v), words)
        for name, (v, words) in NO_OPTIMIZERS.items()
    ],
    *[
        (
            f"fit validation={v!r:.30}",
            lambda _, v=v: fit(SPLIT, ONE_EPOCH, validation=v),
            "^validation: ",
        )
        for v in NO_SPLITS[1:]
    ],
    *[
        (
            f"fit {name}={v!r:.30}",
            lambda _, name=name, v=v: fit(SPLIT, ONE_EPOCH, **{name: v}),
            f"^{name}: ",
        )
        for name in ("on_progress", "on_epoch")
        for v in ("print", 5, [print])
    ],
    *[(f"evaluate {v!r:.30}", lambda m, v=v: evaluate(m, v), "^examples: ") for v in NO_SPLITS],
    *[
        (f"evaluate features {name}", lambda m, v=v: evaluate(m, Split(v, LABELS)), words)
        for name, (v, words) in NO_FEATURES.items()
    ],
    *[
        (f"evaluate labels {name}", lambda m, v=v: evaluate(m, Split(FEATURES, v)), words)
        for name, (v, words) in NO_LABELS.items()
    ],
    *[
        (f"{f} model={v!r:.30}", lambda _, f=f, v=v, x=x: getattr(jax_softmax, f)(v, x), "^model: ")
        for f, x in (("evaluate", SPLIT), ("predict", FEATURES), ("predict_proba", FEATURES))
        for v in NO_MODELS
    ],
    *[
        (f"{f} features {name}", lambda m, f=f, v=v: getattr(jax_softmax, f)(m, v), words)
        for f in ("predict", "predict_proba")
        for name, (v, words) in NO_FEATURES.items()
    ],
    *[(f"load_dataset {v!r:.30}", lambda _, v=v: load_dataset(v), "^name: ") for v in NO_DATASETS],
    *[
        (
            f"load_dataset {folder}={v!r}",
            lambda _, folder=folder, v=v: load_dataset("iris", **{folder: v}),
            f"^{folder}: ",
        )
        for folder in ("raw_dir", "data_dir")
        for v in NO_FOLDERS
    ],
    *[
        (f"load_dataset seed={v!r}", lambda _, v=v: load_dataset("digits", seed=v), "seed.*got")
        for v in NO_SEEDS
    ],
]


def _dataset(**wrong):
    right = {"name": "mine", "train": SPLIT, "test": SPLIT, "source": "here"}
    return Dataset(**right | wrong)


@pytest.mark.parametrize(("call", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_an_argument_of_the_wrong_kind(call, words, model):
    with pytest.raises(InputError) as caught:
        call(model)
    message = str(caught.value)
    assert re.search(words, message, re.DOTALL), message
    assert len(message) < 500  # no wall of numbers


def test_the_table_is_long():
    assert len(CASES) >= 130 and len({name for name, *_ in CASES}) == len(CASES)


def test_a_weight_decay_beyond_int32_is_a_number_as_any():
    config = TrainConfig(weight_decay=2**31, learning_rate=1e-12, epochs=1)
    assert type(config.weight_decay) is float
    assert len(fit(SPLIT, config).history) == 1


def test_an_unknown_keyword_is_pythons_own_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"):
        TrainConfig(rate=0.1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        fit(SPLIT, epochs=3)
