"""Flags of several processes that do not fit together: nothing is waited for, nothing is made."""

import pytest
import tyro

from jax_softmax import InputError, TrainConfig
from jax_softmax.cli import distributed, main
from jax_softmax.cli.train import Train


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coordinator", "here:80"], "--processes, --process-id: expected all of --coordinator"),
        (["--processes", "2"], "--coordinator, --process-id: expected all of --coordinator"),
        (
            ["--coordinator", "here", "--processes", "2", "--process-id", "0"],
            "--coordinator: expected HOST:PORT of process 0, such as node1:8476, got 'here'.",
        ),
        (
            ["--coordinator", "h:1", "--processes", "2", "--process-id", "2"],
            "--process-id: expected a number from 0 to 1, one less than --processes, got 2 of 2",
        ),
        (
            ["--distributed", "--coordinator=h:1", "--processes=1", "--process-id=0"],
            "--distributed: expected it where SLURM, Open MPI, TPU pods and Kubernetes say where",
        ),
        (["--step-timeout", "9"], "--step-timeout: expected --distributed or --coordinator to go"),
        (
            ["--coordinator=h:1", "--processes=1", "--process-id=0", "--step-timeout=0"],
            "step timeout: expected a positive number of seconds, got 0.0.",
        ),
    ],
)
def test_flags_that_do_not_fit(flags, words, capsys, tmp_path):
    assert main(["train", "iris", "--run-dir", str(tmp_path / "run"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digits"], "dataset: expected iris, as process 0 has it, got digits; start"),
        (["train", "iris", "--seed", "1"], "seed: expected 0, as process 0 has it, got 1; start"),
        (
            ["train", "iris", "--mesh", "data=1"],
            "mesh: expected None, as process 0 has it, got dat",
        ),
        (["train", "iris", "--resume", "run", "--epochs", "3"], "epochs: expected 1000, as proces"),
    ],
)
def test_another_training_than_that_of_the_first(words, message):
    command = tyro.cli(Train, args=words[1:], config=(tyro.conf.FlagCreatePairsOff,))
    with pytest.raises(InputError, match=f"^{message}"):
        distributed._check_agrees(command, TrainConfig(batch_size=None, epochs=1000), "iris")
