"""Input that no one meant: an answer in words or a result, and nothing else anywhere.

Half of the examples are good enough to get past the first check.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import signal
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jax_softmax import InputError, Split, TrainConfig, evaluate, fit, load_dataset, save_run
from jax_softmax.cli import main

# Of a machine that may have others to serve: what hangs takes longer.
SECONDS = 60
MEMORY = 2 * 2**30
MARK = "executed"


class Payload:
    def __reduce__(self):
        return os.mkdir, (MARK,)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text):
    """A .npy file that claims this."""
    line = text.encode("latin1", "replace").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + bytes(40)


def archive(names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name in names:
            made.writestr(name, b"data")
    return file.getvalue()


shapes = st.sampled_from(["(3, 5)", "(10**12, 5)", "(True, 5)", "(-1, 5)", "()", "(3, 5", "(5,)"])
kinds = st.sampled_from(["<f4", ">f8", "|O", "|u1", "<U5", "nonsense", "|b1", "<c8", "<M8[s]"])
files = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")),
    st.builds(
        lambda kind, shape, order: header(
            f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}"
        ),
        kinds,
        shapes,
        st.booleans(),
    ),
    st.sampled_from(
        [
            npy(np.zeros((3, 5))),
            npy(np.full((3, 5), np.nan)),
            npy(np.zeros((3, 4))),
            npy(np.array([Payload()], object)),
            pickle.dumps(Payload()),
            npy(np.zeros((0, 5))),
            npy(np.array([["a"] * 5])),
            archive(["../outside", "/tmp/outside", "a.npy"]),
            b"\x89PNG\r\n\x1a\n" + bytes(30),
            b"1,2,3,4,5\n" * 3,
            b"1,2,3\n4,5,6,7\n",
            b"\xff\xfe1,2,3,4,5",
            b"\x1f\x8b" + bytes(20),
            struct.pack(">iii", 2051, 2**31 - 1, 28),
        ]
    ),
)
endings = st.sampled_from([".npy", ".csv", ".png", ".jpg", ".npz", "", ".NPY"])
numbers = st.sampled_from(
    ["0", "1", "2", "-1", "nan", "inf", "1e400", "1e-400", "none", "", "2.5", "ten", "9" * 30, "٣"]
)
flags = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                [
                    "--epochs",
                    "--batch-size",
                    "--learning-rate",
                    "--momentum",
                    "--seed",
                    "--weight-decay",
                    "--schedule",
                    "--op",
                    "--dtype",
                ]
            ),
            numbers,
        ),
        st.tuples(
            st.sampled_from(["--run-dir", "--json", "--raw-dir", "--data-dir"]),
            st.sampled_from(["given", "run", "new/er", "x" * 300, "", ".", "nul\0l", "~nobody/x"]),
        ),
        st.sampled_from([("--nesterov",), ("--overwrite",), ("--unknown",), ("-x",), ("--",)]),
    ),
    max_size=3,
).map(lambda pairs: [word for pair in pairs for word in pair])


def memory(name):
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since `clear_refs` was written to."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 2**10 * next(int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.fixture
def folder(tmp_path, monkeypatch, make_result):
    monkeypatch.chdir(tmp_path)
    save_run(make_result(0), "run", metrics={"dataset": "iris"})
    return tmp_path


@pytest.fixture
def watch(folder):
    """Calls something with limits; what it raised, if anything but words for the user."""

    def too_long(*_):
        raise TimeoutError(f"more than {SECONDS} s")

    def call(f, *arguments):
        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(SECONDS)
        try:
            return f(*arguments)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")  # of other tests too
    yield call
    assert memory("VmHWM") - before < MEMORY
    assert not (folder / MARK).exists()
    assert not (folder.parent / "outside").exists()


def tries(short, long, times):
    return settings(
        max_examples=times(short, long),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def test_commands(folder, watch, times, tell, capsys):
    ends = collections.Counter()

    @tries(40, 600, times)
    @given(st.sampled_from(["train", "evaluate", "predict", "verify", "tra", ""]), flags, files)
    def run(command, options, data):
        (folder / "given").write_bytes(data)
        where = {
            "train": ["digits", "--epochs", "1"],
            "evaluate": ["run"],
            "predict": ["run", "given"],
            "verify": ["--quick", "--op", "none"],
        }
        there = set(os.listdir(folder))
        try:
            code = watch(main, [command, *where.get(command, []), *options])
        except SystemExit as stopped:  # of the parser
            code = stopped.code
        ends[code] += 1
        out, err = capsys.readouterr()
        assert code in (0, 2), (command, options, code)
        assert "Traceback" not in err + out
        assert bool(err) or code == 0, (command, options)
        for new in set(os.listdir(folder)) - there:
            assert new in ("runs", "new", "given", "~nobody"), (command, options, new)

    run()
    tell(f"{sum(ends.values())} commands: {dict(ends)} by exit code")


def test_files_to_predict(folder, watch, times, tell, capsys):
    ends = collections.Counter()

    @tries(120, 700, times)
    @given(endings, files)
    def run(ending, data):
        path = folder / f"given{ending}"
        path.write_bytes(data)
        code = watch(main, ["predict", "run", str(path)])
        ends[code] += 1
        out, err = capsys.readouterr()
        assert code in (0, 2), err
        assert "Traceback" not in err + out
        assert path.name in err or "features" in err or code == 0, (err, data)
        path.unlink()

    run()
    tell(f"{sum(ends.values())} files: {dict(ends)} by exit code")


odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(
        [
            [],
            [[1.0], [2.0]],
            [[1.0], [2.0, 3.0]],
            [0, 1],
            [0, 10**9],
            ["a", "b"],
            [None, "b"],
            [0.5, 1.0],
            np.zeros((2, 3)),
            np.zeros((0, 3)),
            np.zeros((2, 3), object),
            np.zeros((2, 3), "M8[s]"),
            np.zeros((2, 3), complex),
            np.ma.masked_array([0, 1], [False, True]),
            np.array([0, 1], ">i4"),
            {"a": 1},
            {1, 2},
            b"ab",
            object(),
            ("a", "b"),
            "iris",
        ]
    ),
)
good_features, good_labels = np.eye(2, dtype=np.float32), np.array([0, 1])


@pytest.mark.filterwarnings("ignore")
def test_fit_loaders_and_the_rest(folder, watch, times, tell):
    ends = collections.Counter()

    def with_split(features, labels, names, scale):
        options = {} if names is None else {"class_names": names}
        return Split(features, labels, feature_scale=scale, **options)

    def fitted(*arguments):
        split = with_split(*arguments)
        return evaluate(fit(split, TrainConfig(epochs=1)), split)

    def configured(name, value):
        return fit(Split(good_features, good_labels), TrainConfig(**{"epochs": 1, name: value}))

    def loaded(name, raw):
        return load_dataset(name, raw_dir=raw)

    fields = st.sampled_from(
        ["learning_rate", "batch_size", "momentum", "nesterov", "weight_decay", "schedule", "seed"]
    )
    calls = st.one_of(
        st.tuples(
            st.just(fitted),
            st.tuples(
                odd | st.just(good_features),
                odd | st.just(good_labels),
                odd | st.none(),
                odd | st.just(1.0),
            ),
        ),
        st.tuples(st.just(configured), st.tuples(fields, odd)),
        st.tuples(st.just(loaded), st.tuples(odd | st.just("iris"), odd | st.just("."))),
    )

    @tries(150, 700, times)
    @given(calls)
    def run(call):
        function, arguments = call
        try:
            watch(function, *arguments)
        except InputError as error:
            ends["error in words" if len(str(error)) > 20 else "error"] += 1
        else:
            ends["result"] += 1

    run()
    tell(f"{sum(ends.values())} calls: {dict(ends)}")
    assert set(ends) == {"error in words", "result"}
