"""Flags of several processes that do not fit together: nothing is waited for, nothing is made."""

import pytest

from jax_softmax.cli import main


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
