"""The pod suite on simulated devices: what each holds, without the chips or their compiler."""

import importlib.util

import jax
import numpy as np

from jax_softmax.benchmark import pod_suite
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.pod_memory import UNFUSED, measure
from tests.benchmark.shared import MACHINE


def test_what_each_device_would_hold():
    found = measure(64, 8, 1024, np.reshape(jax.devices()[:8], (4, 2)))
    assert [fields["contender"] for fields in found] == [
        "jax_softmax",
        UNFUSED,
        "optax, bfloat16 logits",
    ]
    assert all(fields["temporary_bytes"] > 0 for fields in found)
    assert found[0]["block_rows"] == 16  # a device's rows, in one block


def test_records_have_ratios(monkeypatch):
    fields = [
        {"contender": "jax_softmax", "temporary_bytes": 10, "block_rows": 4},
        {"contender": UNFUSED, "temporary_bytes": 40, "note": "does not fit"},
        {"contender": "optax, bfloat16 logits", "skipped": "does not compile"},
    ]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(pod_suite, "run_child", lambda *arguments, environment: fields)
    ours, unfused, last = pod_suite.run_size(128, 512, 8)
    assert ours.temporary_ratio == 0.25 and unfused.temporary_ratio == 1.0
    assert ours.logits_bytes == 128 * 512 * 2 // 256
    assert ours.temporary_fraction == 10 / ours.logits_bytes
    assert last.skipped and last.temporary_ratio is None
    assert all((record.devices, record.classes) == (256, 128) for record in (ours, unfused, last))


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (record,) = pod_suite.run_size(128)
    assert record.skipped == 'TPU\'s compiler is not installed: pip install "jax[tpu]"'


def test_the_steps():
    assert len(pod_suite.steps(Context(MACHINE))) == 5
    (step,) = pod_suite.steps(Context(MACHINE, quick=True))
    assert step.name == "256 chips, 262,144 classes"
