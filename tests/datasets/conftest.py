"""Real files to read, and no network, home folder or environment of the developer's own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

import pytest

from jax_softmax.datasets import Dataset, load_dataset, network

MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


class OfflineProbe:
    """Stands for `network.Probe` on a machine without a network, and records what is asked."""

    asked: ClassVar[list[str]] = []

    def __init__(self, url: str) -> None:
        self.asked.append(url)

    def failure(self) -> str:
        return "the test has no network"


class OnlineProbe(OfflineProbe):
    """Stands for `network.Probe` on a machine with a network."""

    def failure(self) -> str:
        return ""


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and an empty temporary folder, no variables, no network."""
    for folder in ("home", "tmp", "cwd"):
        (tmp_path / folder).mkdir()
    monkeypatch.delenv("JAX_SOFTMAX_RAW_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(OfflineProbe, "asked", [])
    monkeypatch.setattr(network, "Probe", OfflineProbe)
    return tmp_path


@pytest.fixture
def asked() -> list[str]:
    """The addresses that a probe was asked for, so far."""
    return OfflineProbe.asked


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every host answer."""
    monkeypatch.setattr(network, "Probe", OnlineProbe)


@pytest.fixture(scope="session")
def prepared_data(real_data: Path) -> Path:
    """A TFDS data folder with mnist and iris as ArrayRecords."""
    folder = real_data / "prepared"
    if not folder.is_dir():
        pytest.skip(f"no prepared TFDS folder at {folder}")
    return folder


@pytest.fixture(scope="session")
def raw_mnist(real_data: Path) -> Dataset:
    return load_dataset("mnist", raw_dir=real_data)


@pytest.fixture(scope="session")
def prepared_mnist(prepared_data: Path) -> Dataset:
    return load_dataset("mnist", data_dir=prepared_data)


@pytest.fixture
def placed(real_data: Path, tmp_path: Path) -> Path:
    """A folder of raw files to damage: `iris/iris.zip` and links to the files of `mnist/`."""
    folder = tmp_path / "placed"
    (folder / "mnist").mkdir(parents=True)
    for name in MNIST_FILES:
        (folder / "mnist" / name).symlink_to(real_data / "mnist" / name)
    (folder / "iris").mkdir()
    (folder / "iris" / "iris.zip").write_bytes((real_data / "iris" / "iris.zip").read_bytes())
    return folder
