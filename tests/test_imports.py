"""What importing costs, which way imports point, and that only the commands print."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jax_softmax

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jax_softmax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Who may import whom, by the names right under the package; each may import its own. "" is the
# package's own file, which has the version and re-exports the rest.
ALLOWED = {
    "": {"datasets", "errors", "export", "ops", "training", "classifier"},
    "__main__": {"cli"},
    "errors": set(),
    "_extras": {"errors"},
    "_checks": {"errors"},
    "_columns": {"_checks", "errors"},
    "_frames": {"_columns", "errors"},
    "_fetch": set(),  # a process of its own, which starts the sooner
    "ops": set(),
    "datasets": {"_checks", "_columns", "_extras", "errors"},
    "training": {"", "_checks", "_columns", "_extras", "_frames", "errors", "ops"},
    "classifier": {"_checks", "_extras", "errors", "ops", "training"},
    "report": {"_extras", "errors", "training"},
    "export": {"", "_checks", "_columns", "_extras", "errors", "training"},
    "testing": {"errors"},  # the oracle shares no code with what it is held against
    "verification": {"", "errors", "ops", "testing"},
    "benchmark": {"", "errors", "ops", "datasets", "training", "classifier"},
    "cli": {
        "",
        "_columns",
        "_extras",
        "errors",
        "ops",
        "datasets",
        "training",
        "classifier",
        "export",
        "report",
        "verification",
        "benchmark",
    },
}


def _loaded_after(script: str, modules: tuple[str, ...]) -> list[str]:
    """Which of `modules` a fresh interpreter has loaded once it ran `script`."""
    report = f"\nimport sys; print([m for m in {modules!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script + report],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return ast.literal_eval(done.stderr)


def test_import_jax_softmax_is_light():
    heavy = ("tensorflow_datasets", "sklearn", "matplotlib", "tyro", "optax", "jax", "numpy", "PIL")
    assert _loaded_after("import jax_softmax; dir(jax_softmax)", heavy) == []


def test_help_does_not_wait_for_jax():
    script = """
from jax_softmax.cli import main
try:
    main(["train", "--help"])
except SystemExit as done:
    assert done.code == 0
"""
    heavy = ("jax", "optax", "tensorflow_datasets", "sklearn", "matplotlib")
    assert _loaded_after(script, heavy) == []


def test_training_loads_what_it_uses():
    heavy = ("tensorflow_datasets", "sklearn", "matplotlib", "tyro", "tqdm", "PIL")
    assert _loaded_after("from jax_softmax import fit, load_run", heavy) == []


def test_ops_load_nothing_of_ours_but_ops():
    modules = tuple(f"jax_softmax.{name}" for name in ALLOWED if name not in ("", "ops"))
    assert _loaded_after("import jax_softmax.ops", (*modules, "optax", "sklearn")) == []


def _part(module: str) -> str:
    """`training` of `jax_softmax.training.loop`; `""` of `jax_softmax` itself."""
    return module.split(".")[1] if "." in module else ""


def _part_of_file(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def _imported_parts(path: Path) -> set[str]:
    """The parts of the package that a file imports anywhere, in functions and for types too."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: a relative import"
            names = [node.module or ""]
            if node.module == "jax_softmax":
                names = [_home_of(alias.name) for alias in node.names]
        else:
            continue
        parts |= {_part(name) for name in names if name.split(".")[0] == "jax_softmax"}
    return parts


def _home_of(name: str) -> str:
    """The module that `from jax_softmax import name` leads to."""
    if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file():
        return f"jax_softmax.{name}"
    home = jax_softmax._HOME_OF.get(name)
    return f"jax_softmax.{home}" if home else "jax_softmax"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = _part_of_file(path)
    assert part in ALLOWED, f"say in ALLOWED what {part} may import"
    assert _imported_parts(path) - {part} <= ALLOWED[part]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_commands_print_or_exit(path):
    if _part_of_file(path) in ("cli", "__main__"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {
                "print",
                "exit",
                "quit",
                "sys.exit",
                "os._exit",
                "sys.stdout.write",
                "sys.stderr.write",
            }, f"line {node.lineno}"


@pytest.mark.parametrize("name", jax_softmax.__all__)
def test_a_public_name_is_its_homes(name):
    home = importlib.import_module(f"jax_softmax.{jax_softmax._HOME_OF[name]}")
    assert getattr(jax_softmax, name) is getattr(home, name)


def _names_for_types() -> dict[str, str]:
    """Name to module of the imports under `if TYPE_CHECKING:` in the package's own file."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_the_names_that_there_are():
    seen = _names_for_types()
    assert list(jax_softmax.__all__) == sorted(jax_softmax.__all__)
    # Of what needs an extra to be imported at all, `import *` must not ask.
    assert sorted(seen) == sorted(
        [*jax_softmax.__all__, "SoftmaxClassifier", "SoftmaxClassifierCV"]
    )
    assert seen == {name: f"jax_softmax.{home}" for name, home in jax_softmax._HOME_OF.items()}


def test_the_directory_lists_every_public_name():
    assert set(jax_softmax.__all__) <= set(dir(jax_softmax))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jax_softmax' has no attribute 'fitt'"):
        jax_softmax.fitt  # noqa: B018 - the access is what is tested


# Inside ops: what a part may import of the others. Public modules may import all of them.
OPS = PACKAGE / "ops"
ALLOWED_IN_OPS = {
    "reference": set(),
    "_jit": set(),
    "_mesh": set(),
    "_options": set(),
    "_backends": {"_mesh", "_options"},
    "_math": {"_backends", "_mesh", "_options"},
    "_arguments": {"_math"},
    "_reduction": {"_math", "_mesh", "_options"},
    "_autodiff": {"_jit", "_math", "_backends", "_mesh", "_options", "_reduction"},
    "_call": {"_arguments", "_autodiff", "_math", "_backends", "_mesh", "_options", "_reduction"},
    "_linear": {
        "_arguments",
        "_autodiff",
        "_backends",
        "_jit",
        "_math",
        "_mesh",
        "_options",
        "_reduction",
    },
}
OPS_FILES = [path for path in FILES if path.is_relative_to(OPS)]


def _modules_imported(path: Path) -> set[str]:
    imports = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
    ]
    return {
        f"{node.module}.{alias.name}" for node in imports for alias in node.names if node.module
    }


@pytest.mark.parametrize("path", OPS_FILES, ids=lambda path: str(path.relative_to(OPS)))
def test_imports_inside_ops_point_one_way(path):
    part = path.relative_to(OPS).parts[0].removesuffix(".py")
    ours = {name for name in _modules_imported(path) if name.startswith("jax_softmax.ops.")}
    imported = {name.split(".")[2] for name in ours} - {part}
    if (part.startswith("_") and part != "__init__") or part == "reference":
        assert imported <= ALLOWED_IN_OPS[part]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_dispatch_asks_for_the_platform(path):
    names = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    dispatch = path == OPS / "_backends" / "dispatch.py"
    assert ("platform_dependent" in names) == dispatch


@pytest.mark.parametrize(
    "path", [path for path in OPS_FILES if "_math" in path.parts], ids=lambda path: path.name
)
def test_formulas_know_no_machine(path):
    words = {
        word.strip("\"'`.,:").lower() for word in ast.unparse(ast.parse(path.read_text())).split()
    }
    assert not words & {
        "cpu",
        "gpu",
        "tpu",
        "cuda",
        "optimization_barrier",
        "lax.optimization_barrier",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 450
