"""Eight simulated devices for every test but those of one, and how programs are compiled and kept.

Set before anything imports jax. Compiling is most of what the tests do, so it is told not to
optimise, unless JAX_SOFTMAX_TEST_OPTIMISED is set: that halves their time. Programs that did not
change are kept, which halves it again. A folder to a worker, for JAX may read what another is still
writing.

`tests/ops/one_device` is for a process of its own (`tests/ops/test_one_device.py` starts it), in
which JAX_SOFTMAX_TEST_DEVICES is 1: the numerical contract as users have it, on one device, with
the compiler's own options. What is chosen on one device is not what is chosen on eight. That
process may use one processor, so that few rows are many blocks on a machine of any size.
"""

import gc
import os
import re
from pathlib import Path

import pytest

from tests.compiler import UNOPTIMISED

_DEVICES = os.environ.get("JAX_SOFTMAX_TEST_DEVICES", "8")
_FLAG = "--xla_force_host_platform_device_count"
# A test of more classes is slow, and runs with `-m slow`. So are those that start other programs,
# which bear the mark themselves.
_MOST_CLASSES = 20_000
# A process may have 65,530 memory maps, and JAX crashes at that; a program that it keeps has many.
_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 30_000
# Read before a test takes the variable away.
_CONFIGURED = os.environ.get("JAX_SOFTMAX_RAW_DIR")
_BESIDE_THE_CHECKOUT = Path(__file__).parents[2] / "shared" / "data"
_PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "compiled"

# --doctest-modules would import every conftest.py once more, under one name.
collect_ignore_glob = ["*conftest.py"]
if _DEVICES != "1":
    collect_ignore_glob.append("*/one_device/*")
elif hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

# What was set before, for tests that start a program as a user does. Workers inherit it.
os.environ.setdefault("JAX_SOFTMAX_TEST_USER_FLAGS", os.environ.get("XLA_FLAGS", ""))
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    _FLAGS = [os.environ.get("XLA_FLAGS", ""), f"{_FLAG}={_DEVICES}"]
    if _DEVICES != "1" and "JAX_SOFTMAX_TEST_OPTIMISED" not in os.environ:
        _FLAGS += [f"--{name}={value}" for name, value in UNOPTIMISED.items()]
    os.environ["XLA_FLAGS"] = " ".join(_FLAGS).strip()

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    worker = worker if _DEVICES == "8" else f"devices-{_DEVICES}"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_PROGRAMS / worker)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Size decides what is slow: the parameter `classes`. But one device has all of its tests."""
    for item in items if _DEVICES != "1" else ():
        classes = getattr(item, "callspec", None) and item.callspec.params.get("classes")
        if isinstance(classes, int) and classes > _MOST_CLASSES:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Garbage is looked for less often, and not among what all tests have imported.

    JAX keeps millions of objects of what it traced, and Python goes through all of them each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True, scope="session")
def _one_device_unless_told():
    """Without a mesh, `fit`, `evaluate` and `predict` take one device: what most users have.

    Their default is all devices, as tests/training/test_mesh.py has it. Processes that tests start
    have one device, now that this one has its eight.
    """
    import jax

    from jax_softmax.training import mesh

    one = re.sub(f"{_FLAG}=\\d+", f"{_FLAG}=1", os.environ["XLA_FLAGS"])
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert jax.devices()
        monkeypatch.setenv("XLA_FLAGS", one)
        monkeypatch.setattr(mesh, "default_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    yield
    if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > _MANY_MAPS:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with `mnist/`, `iris/` and perhaps `prepared/`."""
    folder = Path(_CONFIGURED) if _CONFIGURED else _BESIDE_THE_CHECKOUT
    if not (folder / "mnist" / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"no raw files in {folder}: set JAX_SOFTMAX_RAW_DIR to a folder that has them")
    return folder
