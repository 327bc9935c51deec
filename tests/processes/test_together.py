"""Two and four processes over the loopback train what one does, and stop together."""

import json

import numpy as np
import pytest

from jax_softmax import TrainConfig, fit
from tests.processes.rank import SETTINGS, said, split_of
from tests.processes.start import ended, started

pytestmark = pytest.mark.slow  # starts other programs

STEPS = ("memory", "full", "stream", "classes", "kept")


def together(folder, count, devices):
    """What each of `count` processes says."""
    ranks = started(
        lambda port, i: ["-m", "tests.processes.rank", str(folder), str(port), str(count), str(i)],
        count,
        devices,
    )
    found = ended(ranks, 240)
    for code, _, errors in found:
        assert code == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for _, output, _ in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    split = split_of()
    np.save(folder / "features.npy", split.features)
    np.save(folder / "labels.npy", split.labels)
    return folder


@pytest.fixture(scope="module")
def four(folder):
    return together(folder, 4, 1)


@pytest.fixture(scope="module")
def two(folder, four):
    """Two devices to a process; the checkpoints of the four are there."""
    return together(folder, 2, 2)


@pytest.fixture(scope="module")
def alone():
    split = split_of()
    config = TrainConfig(epochs=4, mesh={"data": 1}, **SETTINGS)
    full = TrainConfig(epochs=4, batch_size=None, mesh={"data": 1})
    partial = said(fit(split, config), split)
    return dict.fromkeys(STEPS, partial) | {"full": said(fit(split, full), split)}


@pytest.mark.parametrize("count", [4, 2])
@pytest.mark.parametrize("step", STEPS)
def test_the_result_is_that_of_one(step, count, two, four, alone):
    found = {4: four, 2: two}[count]
    for rank in found:
        assert rank["devices"] == 4
        assert rank[step] == found[0][step]
        for what in ("kernel", "losses", "evaluated", "sums"):
            np.testing.assert_allclose(rank[step][what], alone[step][what], rtol=2e-5, atol=2e-6)
        assert rank[step]["predicted"] == alone[step]["predicted"]


@pytest.mark.parametrize("count", [4, 2])
def test_a_stream_has_the_bits_of_memory(count, two, four):
    found = {4: four, 2: two}[count]
    assert found[0]["stream"]["bits"] == found[0]["memory"]["bits"]


def test_checkpoints_go_on_in_another_number_of_processes(two, four, folder):
    """The two found the training of the four done, and one process finds it too."""
    assert two[0]["kept"]["bits"] == four[0]["kept"]["bits"]
    config = TrainConfig(epochs=4, checkpoint_every=1, **SETTINGS)
    one = fit(split_of(), config, checkpoints=folder / "kept")
    assert said(one, split_of())["bits"] == four[0]["kept"]["bits"]


@pytest.mark.parametrize("count", [4, 2])
def test_an_optimiser_with_a_key_goes_on(count, two, four):
    for rank in {4: four, 2: two}[count]:
        whole, resumed = rank["keys"]
        assert whole == resumed


@pytest.mark.parametrize("count", [4, 2])
def test_what_processes_disagree_on(count, two, four):
    """An error in all of them, and not a wait for ever."""
    for i, rank in enumerate({4: four, 2: two}[count]):
        different = rank["different"]
        for what in ("data", "settings", "mesh"):
            assert different[what] == (
                f"InputError: training: expected the same in all {count} processes, got other ones "
                f"in process 1 than in process 0; start all of them with the same arguments and "
                f"data."
            )
        assert different["one"] == (
            "InputError: no such file here."
            if i == 1
            else f"InputError: process 1 of {count} cannot train with the others; its own output "
            f"says why."
        )
        elsewhere = f"InputError: process 1 of {count} cannot train with the others; its own output"
        assert different["features"].startswith(
            "InputError: features: expected finite numbers, got nan in row 0"
            if i == 1
            else elsewhere
        )
        elsewhere = elsewhere.replace("process 1", "process 0")
        assert different["bug"].startswith("TypeError: a bug." if i < 2 else elsewhere)
        assert different["bug of first"].startswith(
            "TypeError: a bug."
            if i == 0
            else f"LostProcessError: process 0 stopped (TypeError: a bug.): another of the {count} "
        )
        of_first = "" if i == 0 else "process 0: "
        assert different["first"] == f"CheckpointError: {of_first}the disk is full."
        assert different["told"] == {"index": 0, "words": "ä" * 300}
        assert different["largest"] == 10 * (count - 1)
        numbers = [2**40, 2**40 + 1, 2**40 + 2]
        assert different["arrays"] == {"a": ["int64", numbers], "b": ["float32", [[0.5]]]}
        assert different["few"] == (
            f"InputError: mesh: expected devices of all {count} processes, got data=1,model=1, "
            f"which has none of process 1; make it larger, or leave it out for all devices on data."
        )
