"""`jax-softmax`: runs a command; a mistake becomes one message and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from jax_softmax.cli.evaluate import Evaluate
from jax_softmax.cli.predict import Predict
from jax_softmax.cli.train import Train
from jax_softmax.errors import InputError

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `jax-softmax ARGUMENTS` and returns its exit code.

    Args:
      arguments: the command line after the program's name; None takes `sys.argv`.

    Returns:
      0, or 2 for a mistake that the user can mend (said in one message on standard error; with
      `--debug` the exception passes), or 130 when interrupted.
    """
    command: Train | Evaluate | Predict = tyro.cli(
        Command,
        prog="jax-softmax",
        description="The softmax classifier for JAX: train it, measure it, use it.",
        args=None if arguments is None else list(arguments),
        # A flag is a flag: no --no-overwrite beside --overwrite.
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    try:
        command.run()
    except (InputError, OSError) as error:  # OSError: a full disk, a name too long, no permission
        if command.debug:
            raise
        print(f"jax-softmax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jax-softmax: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0
