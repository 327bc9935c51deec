"""The programs in `benchmarks/` at tiny sizes: peers, races of processes, and a pod."""

import json
import subprocess
import sys

import jax
import numpy as np
import peers
import pod
import pytest
import races
import time_to_accuracy

from jax_softmax import load_dataset
from jax_softmax.benchmark import Record, run_case
from jax_softmax.benchmark.fused_suite import LinearData
from jax_softmax.benchmark.fused_suite import Size as LinearSize
from jax_softmax.benchmark.loss_suite import LossData, Size
from jax_softmax.benchmark.train_suite import epoch_case
from jax_softmax.benchmark.train_task import TrainTask
from tests.benchmark.shared import assert_timed


@pytest.fixture(scope="module")
def digits():
    return TrainTask(load_dataset("digits"), 32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pytorch_gives_the_right_loss(dtype):
    pytest.importorskip("torch")
    prepared = peers.torch_loss(LossData(Size(7, 33, dtype)))
    assert prepared.error(prepared.run()) < (2e-5 if dtype == "float32" else 0.2)


@pytest.mark.parametrize("chunked", [False, True])
def test_pytorch_gives_the_right_loss_of_a_layer(chunked):
    torch = pytest.importorskip("torch")
    if chunked and not hasattr(torch.nn.functional, "linear_cross_entropy"):
        pytest.skip("this PyTorch has no linear_cross_entropy, which alone takes chunks")
    prepared = peers.torch_linear_loss(LinearData(LinearSize(12, 8, 200)), chunked=chunked)
    assert prepared.error(prepared.run()) < 2e-5


@pytest.mark.parametrize("implementation", peers.TOKAMAX)
def test_tokamax_gives_the_right_loss(implementation):
    pytest.importorskip("tokamax")
    data = LinearData(LinearSize(128, 8, 2048))  # chunked_xla counts the classes that it pads
    prepared = peers.tokamax_linear_loss(data, implementation)
    assert prepared.error(prepared.run()) < 2e-5


def test_pytorch_trains_to_the_same_parameters(digits):
    pytest.importorskip("torch")
    case = epoch_case(TrainTask(digits.dataset), 3, {peers.TORCH: peers.torch_trainer})
    *_, record = run_case(case, 0.0)
    assert record.contender == "PyTorch"
    assert_timed(record)


def test_who_is_not_installed_is_skipped(no_peers):
    records = run_case(races.layer_case(LinearSize(12, 8, 200)), 0.0)
    tokamax = "tokamax is not installed: pip install tokamax (Python 3.12 or newer)"
    torch = "PyTorch is not installed: pip install torch"
    assert {record.contender: record.skipped for record in records if record.skipped} == {
        "tokamax xla": tokamax,
        "tokamax chunked_xla": tokamax,
        "PyTorch": torch,
        "PyTorch, chunked": torch,
    }


def test_a_task_survives_its_file(digits, tmp_path):
    time_to_accuracy.save_task(digits, tmp_path / "task.npz")
    read = time_to_accuracy.load_task(tmp_path / "task.npz")
    assert (read.name, read.classes, read.learning_rate) == (digits.name, 10, 0.5)
    for test in (False, True):
        np.testing.assert_array_equal(read.features(test=test), digits.features(test=test))


@pytest.mark.parametrize("trainer", ["jax_softmax", "NumPy tutorial", "optax scan"])
def test_a_trainer_stops_at_the_target(digits, trainer):
    reached = time_to_accuracy.TRAINERS[trainer](digits).run(0.8, 50)
    assert reached.accuracy >= 0.8 and 1 <= reached.epochs < 50


def test_pytorchs_process_does_not_wait_for_jax():
    paths = [str(races._HERE), str(races._HERE.parent)]
    script = f"import sys; sys.path[:0] = {paths}; import time_to_accuracy; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert "peers" in loaded and "numpy" in loaded and "jax" not in loaded


def test_a_race_of_processes(digits):
    whole, sklearn_whole, warm, _ = races.race(
        digits, 0.8, {"NumPy tutorial": 50, "scikit-learn": 20}, 1
    )
    assert whole.case == "digits to 0.8, whole process"
    assert warm.case == "digits to 0.8, after compiling"
    assert 0 < warm.seconds_median < whole.seconds_median
    assert sklearn_whole.seconds_median > 0 and sklearn_whole.note.endswith(" after 20 epochs")


@pytest.mark.parametrize("reached", [True, False])
def test_a_race_that_is_not_won_has_no_time(reached):
    run = {"seconds": 2.0, "accuracy": 0.9 if reached else 0.7, "epochs": 4}
    (record,) = races._records(
        Record(suite="train", case="c"), "seconds", {"jax_softmax": [run]}, {}, 0.8
    )
    assert record.seconds_median == (2.0 if reached else None)
    text = "0.9000 after 4 epochs" if reached else "not reached in 2.0 s: 0.7000 after 4 epochs"
    assert record.note == text


def test_a_trainer_that_is_not_installed_is_skipped(digits, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    records = races.race(digits, 0.8, {"PyTorch": 1}, 1)
    assert {r.skipped for r in records} == {"PyTorch is not installed: pip install torch"}


def test_the_program_writes_its_records(tmp_path, capsys, monkeypatch, no_peers):
    monkeypatch.setattr(races, "run_case", lambda case, budget: run_case(case, 0.0))
    assert races.main(["layer", "--quick", "--json", str(tmp_path / "r.json")]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert {record["suite"] for record in found} == {"fused"}
    assert "PyTorch, chunked: skipped: PyTorch is not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_race_with_programs_that_an_earlier_process_compiled(digits):
    whole, kept, *_ = races.race(digits, 0.8, {"jax_softmax": 50, races.KEPT: 50}, 1)
    assert (whole.contender, kept.contender) == ("jax_softmax", "jax_softmax, programs kept")
    assert kept.ours and kept.skipped == "" and kept.seconds_median > 0
    assert kept.note == whole.note


def test_what_each_device_would_hold(capsys):
    records = pod.measure(64, 8, 1024, np.reshape(jax.devices()[:8], (4, 2)))
    names = [record.contender for record in records]
    assert names == ["jax_softmax", pod.UNFUSED, "optax, bfloat16 logits"]
    assert all(record.temporary_bytes > 0 and record.devices == 8 for record in records)
    pod.print_table(records)
    printed = capsys.readouterr().out
    base = records[1].temporary_bytes
    assert f"{records[0].temporary_bytes / base:.1%}" in printed and "100.0%" in printed


def test_what_does_not_fit_is_said():
    message = "required for HLO temporaries (19.00G) exceeds available HBM (15.75G)."
    assert pod.what_it_lacked(message) == {
        "temporary_bytes": 19 * 2**30,
        "note": "does not fit: a chip has 15.75 GiB",
    }
    assert pod.what_it_lacked("INTERNAL: a bug") == {"skipped": "does not compile: INTERNAL: a bug"}


def test_without_the_compiler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert pod.main([]) == 2
    assert 'not installed: pip install "jax[tpu]"' in capsys.readouterr().err
