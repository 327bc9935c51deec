"""What is published: built to the same bytes twice, without junk, and at work where it is alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import jax_softmax

ROOT = Path(__file__).resolve().parents[1]
VERSION = jax_softmax.__version__
SDIST, WHEEL = f"jax_softmax-{VERSION}.tar.gz", f"jax_softmax-{VERSION}-py3-none-any.whl"
# Not as the tests run, which may find this checkout by it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
EPOCH = os.environ.get("SOURCE_DATE_EPOCH", "1795824000")
# What a workflow has built and will publish, by that time.
BUILT = os.environ.get("JAX_SOFTMAX_DIST")

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=folder,
        env=ENVIRONMENT | variables,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> list[str]:
    """The files of the repository, as they are here."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository: this is a source distribution")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def built(folder: Path) -> Path:
    """Both files, built from a copy with other times of change and in another place."""
    for name in tracked():
        target = folder / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        target.chmod((ROOT / name).stat().st_mode)
    command = (sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "checkout")
    run(*command, folder=folder, SOURCE_DATE_EPOCH=EPOCH)
    return folder / "dist"


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    return Path(BUILT).resolve() if BUILT else built(tmp_path_factory.mktemp("first"))


def test_building_again_gives_the_same_bytes(dist, tmp_path):
    again = built(tmp_path)
    assert sorted(path.name for path in dist.iterdir()) == sorted([SDIST, WHEEL])
    for path in dist.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_the_source_distribution_has_what_a_clone_has(dist):
    with tarfile.open(dist / SDIST) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    files = set(tracked())
    assert held - files == {"PKG-INFO"}
    for folder in ("jax_softmax", "tests", "docs", "scripts", "benchmarks"):
        assert {name for name in files if name.startswith(f"{folder}/")} <= held


def test_the_wheel_has_the_files_of_the_package(dist):
    held = set(zipfile.ZipFile(dist / WHEEL).namelist())
    package = {name for name in tracked() if name.startswith("jax_softmax/")}
    about = {name for name in held if name.startswith(f"jax_softmax-{VERSION}.dist-info/")}
    assert held - about == package
    assert f"jax_softmax-{VERSION}.dist-info/licenses/LICENSE" in about


def test_the_index_would_take_them(dist):
    pytest.importorskip("twine", reason="pip install twine")
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), folder=dist)


class Installed(NamedTuple):
    """An environment of the wheel and what the extra [train] brings."""

    bin: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        return run(self.bin / program, *arguments, folder=self.folder, PYTHONWARNINGS="error")


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> Installed:
    folder = tmp_path_factory.mktemp("train")
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{dist / WHEEL}[train]", folder=folder)
    return Installed(python.parent, folder)


def test_the_commands_work_where_only_the_wheel_is(installed):
    assert installed.run("jax-softmax", "--version").startswith(f"jax-softmax {VERSION},")
    said = installed.run("jax-softmax", "train", "iris", "--run-dir", "iris")
    assert "test " in said and "accuracy" in said
    assert "accuracy" in installed.run("jax-softmax", "evaluate", "iris")
    (installed.folder / "flower.csv").write_text("6.1,3.0,5.0,1.9\n")
    assert "Iris-virginica" in installed.run("jax-softmax", "predict", "iris", "flower.csv")


def test_the_classifier_works_where_only_the_wheel_is(installed):
    program = """
import jax_softmax, pathlib, sys
assert pathlib.Path(jax_softmax.__file__).is_relative_to(sys.prefix), jax_softmax.__file__
from sklearn.datasets import load_iris
X, y = load_iris(return_X_y=True)
print(jax_softmax.SoftmaxClassifier().fit(X, y).score(X, y) > 0.9)
"""
    assert installed.run("python", "-c", program) == "True\n"
