"""Runs of the commands, offline and in an empty folder; trained runs that tests share."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jax_softmax import load_dataset
from jax_softmax.cli import main
from jax_softmax.datasets import network
from jax_softmax.training import pictures
from jax_softmax.training.run_files import BLANK, sealed


class Outcome(NamedTuple):
    """What a command returned and wrote; `run` is its run folder, where it made one."""

    code: int
    out: str
    err: str
    run: Path = Path()

    @property
    def metrics(self):
        return json.loads((self.run / "metrics.json").read_text())


class OfflineProbe:
    """Stands for `network.Probe` on a machine without a network."""

    def __init__(self, url: str) -> None:
        pass

    def failure(self) -> str:
        return "the test has no network"


def _hide_the_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("JAX_SOFTMAX_RAW_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "no-prepared-data"))
    monkeypatch.setattr(network, "Probe", OfflineProbe)
    monkeypatch.setenv("COLUMNS", "100")  # whatever terminal the tests run in
    monkeypatch.chdir(folder)


@pytest.fixture(autouse=True)
def cwd(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, no data of the machine's own, no network."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    _hide_the_machine(monkeypatch, folder)
    return folder


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """Draws nothing, for tests of something else: drawing is most of a short run's time."""

    class Blank:
        def savefig(self, path):
            path.touch()

    for name in ("learning_curve", "confusion_matrix", "class_weights"):
        monkeypatch.setattr(pictures, name, lambda *_arguments: Blank())


@pytest.fixture
def tree():
    """A function of a folder: every path under it with its bytes, to see that nothing changed."""

    def of(folder: Path) -> dict[Path, bytes | None]:
        return {
            path.relative_to(folder): path.read_bytes() if path.is_file() else None
            for path in folder.rglob("*")
        }

    return of


@pytest.fixture
def with_metrics():
    """Changes what a run's `metrics.json` says, its digest too; a None takes an entry out."""

    def change(run: Path, **changes: object) -> None:
        path = Path(run) / "metrics.json"
        said = json.loads(path.read_text()) | changes | {"sha256": BLANK.decode()}
        kept = {name: value for name, value in said.items() if value is not None}
        path.write_bytes(sealed(json.dumps(kept).encode()))

    return change


@pytest.fixture
def command(capsys):
    """Runs `jax-softmax ARGUMENTS` in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def train_once(tmp_path_factory):
    """Runs `jax-softmax train ARGUMENTS`, for runs that tests share and do not change."""

    def train(*arguments: object) -> Outcome:
        folder = tmp_path_factory.mktemp("trained")
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as monkeypatch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            _hide_the_machine(monkeypatch, folder)
            words = ["train", *map(str, arguments), "--run-dir", str(folder / "run")]
            code = main([*words, "--json", str(folder / "train.json")])
        return Outcome(code, out.getvalue(), err.getvalue(), folder / "run")

    return train


@pytest.fixture(scope="session")
def iris(train_once) -> Outcome:
    return train_once("iris")


@pytest.fixture(scope="session")
def digits(train_once) -> Outcome:
    return train_once("digits", "--epochs", 20, "--seed", 5)


@pytest.fixture(scope="session")
def mnist(train_once, real_data) -> Outcome:
    return train_once("mnist", "--raw-dir", real_data, "--epochs", 2)


@pytest.fixture(scope="session")
def mnist_test(real_data):
    return load_dataset("mnist", raw_dir=real_data).test


@pytest.fixture
def iris_rows() -> np.ndarray:
    """Three rows of the iris table: a setosa, a versicolor and a virginica."""
    return np.array([[5.1, 3.5, 1.4, 0.2], [5.6, 2.5, 3.9, 1.1], [7.2, 3.6, 6.1, 2.5]])


@pytest.fixture
def table_run(command):
    """The folder of a run on `customers.csv`, in the folder to work in."""
    rng = np.random.default_rng(0)
    lines = ["age,plan,churned"]
    for age, plan in zip(rng.integers(18, 80, 90), rng.choice(["S", "M"], 90), strict=True):
        lines.append(f"{age},{plan},{'yes' if age + 9 * (plan == 'S') < 50 else '<b>no</b>'}")
    Path("customers.csv").write_text("\n".join(lines))
    assert command("train", "customers.csv", "--label", "churned", "--run-dir", "run").code == 0
    return Path("run")
