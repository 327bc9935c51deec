"""What the package needs: the core alone computes, and says which extra the rest comes with."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jax_softmax import InputError
from jax_softmax._extras import CHECKPOINT, EXPORT, PREPARE, STREAM, TRAIN, needs_train_extra

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = {"jax", "numpy", "optax"}
# What jax and scikit-learn depend on, and peers of `bench`, used where they are; and types.
OTHERS = {"jaxlib", "scipy", "threadpoolctl", "tokamax", "torch", "typing_extensions"}

EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]


def names(requirements: list[str]) -> list[str]:
    return [Requirement(requirement).name for requirement in requirements]


# Tools that few need. The README's commands install [dev], which is large enough.
NOT_IN_DEV = {*names(EXTRAS["prepare"]), *names(EXTRAS["docs"])}


def test_the_core_is_three_packages():
    assert set(names(PROJECT["dependencies"])) == CORE


def test_the_extra_that_messages_name_is_the_one_declared():
    assert sorted(names(EXTRAS["train"])) == sorted(TRAIN.values())
    assert sorted(names(EXTRAS["checkpoint"])) == sorted(CHECKPOINT.values())
    assert sorted(names(EXTRAS["stream"])) == sorted(STREAM.values())
    assert sorted(names(EXTRAS["export"])) == sorted(EXPORT.values())
    assert sorted(names(EXTRAS["prepare"])) == sorted(PREPARE.values())


def test_dev_holds_the_other_extras():
    extras = {f"jax-softmax[{extra}]" for extra in ("train", "checkpoint", "stream", "export")}
    assert extras <= set(EXTRAS["dev"])


def test_dev_has_nothing_that_only_the_site_needs():
    assert not set(names(EXTRAS["dev"])) - {"jax-softmax"} & NOT_IN_DEV


def test_every_dependency_has_a_lower_bound():
    unbound = [requirement for requirement in REQUIREMENTS if ">=" not in requirement]
    extras = ("train", "checkpoint", "stream", "export")
    of_docs = ["jax-softmax[train]"]
    assert unbound == of_docs + [f"jax-softmax[{extra}]" for extra in extras]


def test_the_lock_file_pins_what_is_declared_and_names_no_host():
    lock = (ROOT / "requirements-lock.txt").read_text()
    pinned: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^ \n]+)", lock, re.MULTILINE):
        pinned.setdefault(name, []).append(version)
    for requirement in map(Requirement, REQUIREMENTS):
        if requirement.name in NOT_IN_DEV or requirement.name == "jax-softmax":
            continue
        versions = pinned[canonicalize_name(requirement.name)]
        assert all(map(requirement.specifier.contains, versions)), requirement
    assert "://" not in lock


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").split(".")[0])
    return modules


def test_what_is_imported_is_declared():
    modules = set().union(*map(imported_modules, (ROOT / "jax_softmax").rglob("*.py")))
    extras = set().union(TRAIN, CHECKPOINT, STREAM, EXPORT, PREPARE)
    declared = CORE | extras | OTHERS | {"jax_softmax"}
    assert modules - declared - sys.stdlib_module_names == set()


@pytest.mark.parametrize(
    "module", ["a_module_of_no_package", "jax_softmax.nothing", "tqdm.nothing"]
)
def test_another_module_that_is_missing_is_not_the_extra_s_fault(module):
    with pytest.raises(ModuleNotFoundError, match=module), needs_train_extra():
        importlib.import_module(module)


def test_the_module_s_name_leads_to_the_package_to_install():
    with pytest.raises(InputError, match="scikit-learn is not installed"), needs_train_extra():
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")


class Core(NamedTuple):
    """A Python that has the package without the extra."""

    python: str
    environment: dict[str, str]
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )


def _core(python: str, folder: Path, *paths: Path) -> Core:
    """A Python that finds no data, no network and, beside its own modules, those in `paths`."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "TFDS_DATA_DIR": str(folder),
    }
    environment.pop("JAX_SOFTMAX_RAW_DIR", None)
    return Core(python, environment, folder)


HIDE = f"""
import sys

class Hide:
    def find_spec(name, path=None, target=None):
        if name in {[*TRAIN, *CHECKPOINT, *STREAM]!r}:
            raise ModuleNotFoundError("hidden by the test", name=name)

sys.meta_path.insert(0, Hide)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that is built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Core:
    """A fresh environment with the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    python = folder / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", str(wheel)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return _core(str(python), folder)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory) -> Core:
    """This environment, whose packages of the extra cannot be imported."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE)
    return _core(sys.executable, folder, folder, ROOT)


@pytest.fixture(
    scope="module", params=["hidden", pytest.param("installed", marks=pytest.mark.slow)]
)
def core(request) -> Core:
    return request.getfixturevalue(request.param)


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    held = {path.split("/")[0] for path in zipfile.ZipFile(wheel).namelist()}
    assert {name.split("-")[0] for name in held} == {"jax_softmax"}
    assert "jax_softmax/py.typed" in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize(
    "command",
    [
        "",
        "--help",
        "train --help",
        "train iris",
        "train iris --debug",
        "evaluate runs/iris",
        "predict runs/iris flowers.csv",
        "verify --quick",
        "bench --quick",
    ],
)
def test_a_command_without_the_extra_is_one_line_that_says_what_to_install(command, core):
    done = core.run("-W", "error", "-m", "jax_softmax", *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "jax-softmax: tyro is not installed; it comes with the extra [train]: "
        "pip install 'jax-softmax[train]'\n"
    )


def test_the_version_needs_no_extra(core):
    done = core.run("-W", "error", "-m", "jax_softmax", "--version")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_core_computes_every_loss_and_trains_and_predicts(core):
    script = """
        import json
        import jax, jax.numpy as jnp, numpy as np
        import jax_softmax
        from jax_softmax import Split, TrainConfig

        z, y = jnp.array([[2.0, -1.0, 0.0], [0.0, 3.0, 1.0]]), jnp.array([0, 1])
        mesh = jax.make_mesh((1, 1), ("data", "model"))
        functions = {
            "softmax": lambda z: jax_softmax.softmax(z)[0, 0],
            "log_softmax": lambda z: jax_softmax.log_softmax(z)[0, 0],
            "soft": lambda z: jax_softmax.softmax_cross_entropy(z, jnp.eye(3)[y]).sum(),
            "integer": lambda z: jax_softmax.softmax_cross_entropy_with_integer_labels(z, y).sum(),
            "linear": lambda z: jax_softmax.linear_softmax_cross_entropy(z, jnp.eye(3), y),
            "sharded": lambda z: jax_softmax.sharded_linear_softmax_cross_entropy(
                z, jnp.eye(3), y, mesh=mesh, axis_name="model", data_axis_name="data"
            ),
        }
        gradients = {n: float(jnp.abs(jax.grad(f)(z)).sum()) for n, f in functions.items()}
        mine = Split(np.array([[0.0], [1.0], [0.2], [0.9]]), np.array([0, 1, 0, 1]))
        result = jax_softmax.fit(mine, TrainConfig(learning_rate=1.0, epochs=200))
        accuracy = jax_softmax.evaluate(result, mine).accuracy
        classes = jax_softmax.predict(result, mine.features).tolist()
        sums = jax_softmax.predict_proba(result, mine.features).sum(axis=1).tolist()
        print(json.dumps([gradients, accuracy, classes, sums]))
    """
    done = core.run("-W", "error", "-c", textwrap.dedent(script))
    assert (done.returncode, done.stderr) == (0, "")
    gradients, accuracy, classes, sums = json.loads(done.stdout)
    assert len(gradients) == 6 and all(0.1 < size < 10 for size in gradients.values())
    assert accuracy == 1.0 and classes == [0, 1, 0, 1]
    assert sums == pytest.approx([1.0] * 4)


def test_the_rest_names_the_extra(core):
    script = """
        import json
        import numpy as np
        from jax_softmax import InputError, Split, TrainConfig
        from jax_softmax import evaluate, fit, load_dataset, load_run, save_run

        mine = Split(np.array([[0.0], [1.0]]), np.array([0, 1]))
        result = fit(mine)
        evaluation = evaluate(result, mine)
        messages = {}
        for name, call in {
            "save_run": lambda: save_run(result, "run"),
            "load_run": lambda: load_run("run"),
            "confusion": evaluation.confusion,
            "per_class": evaluation.per_class,
            "iris": lambda: load_dataset("iris"),
            "digits": lambda: load_dataset("digits"),
            "mnist": lambda: load_dataset("mnist", raw_dir="."),
            "checkpoints": lambda: fit(mine, TrainConfig(checkpoint_every=1), checkpoints="kept"),
        }.items():
            try:
                call()
            except InputError as error:
                messages[name] = str(error)
        print(json.dumps(messages))
    """
    done = core.run("-W", "error", "-c", textwrap.dedent(script))
    assert (done.returncode, done.stderr) == (0, "")
    what = {name: message.split(" is not")[0] for name, message in json.loads(done.stdout).items()}
    assert what == {
        "save_run": "safetensors",
        "load_run": "safetensors",
        "confusion": "scikit-learn",
        "per_class": "scikit-learn",
        "iris": "scikit-learn",
        "digits": "scikit-learn",
        "mnist": "tensorflow-datasets",
        "checkpoints": "orbax-checkpoint",
    }
    for name, message in json.loads(done.stdout).items():
        extra = "checkpoint" if name == "checkpoints" else "train"
        assert message.endswith(f"with the extra [{extra}]: pip install 'jax-softmax[{extra}]'")
    assert not any((core.folder / name).exists() for name in ("run", "kept"))


@pytest.mark.slow
def test_the_core_brings_nothing_of_the_extra(installed):
    listed = installed.run("-m", "pip", "list", "--format=json")
    packages = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert packages >= CORE
    assert packages.isdisjoint([*TRAIN.values(), *CHECKPOINT.values()])
