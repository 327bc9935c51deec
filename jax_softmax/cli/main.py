"""`jax-softmax`: runs a command; a mistake becomes one message and exit code 2."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn, Protocol

from jax_softmax._extras import needs_train_extra
from jax_softmax.cli.compilation_cache import use_compilation_cache, use_no_compilation_cache
from jax_softmax.cli.stopping import signals
from jax_softmax.errors import InputError, LostProcessError


class _Runs(Protocol):
    """What every command is."""

    @property
    def debug(self) -> bool: ...

    @property
    def json(self) -> Path | None: ...

    @property
    def no_compilation_cache(self) -> bool: ...

    def run(self) -> int | None:
        """Does the command's work; None is the exit code 0."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `jax-softmax ARGUMENTS` and returns its exit code.

    Args:
      arguments: the command line after the program's name; None takes `sys.argv`.

    Returns:
      0, or what the command gives (1: a check failed), or 2 for a mistake that the user can mend
      (said in one message on standard error; with `--debug` the exception passes), or 128 and the
      signal's number when SIGINT, SIGTERM or SIGHUP stopped it (130, 143, 129).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with signals.handled(), _printed_whatever_the_encoding():
        return _run(given, own_process=arguments is None)


def _run(given: Sequence[str], *, own_process: bool) -> int:
    debug = False
    try:
        if given[:1] == ["--version"]:
            print(f"jax-softmax {metadata.version('jax_softmax')}, jax {metadata.version('jax')}")
            return 0
        with needs_train_extra():
            command = _parse(given)
            debug = command.debug
            if own_process:
                if command.no_compilation_cache:
                    use_no_compilation_cache()
                else:
                    use_compilation_cache()
            from jax_softmax.cli.options import report_beside_json  # which needs the extra

            with report_beside_json(command):
                code = command.run() or 0
        signals.check()  # JAX may have swallowed what was raised
        if sys.stdout is not None:  # `>&-`
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a process that SIGPIPE ends: whether checks failed is not known
    except (InputError, OSError) as error:  # OSError: a full disk, a name too long, no permission
        if debug:
            raise
        print(f"jax-softmax: {error}", file=sys.stderr)
        return 2
    except LostProcessError as error:
        print(f"jax-softmax: {error}", file=sys.stderr)
        if own_process:  # at once: JAX's own way out waits for the process that is lost
            sys.stderr.flush()
            os._exit(1)
        return 1
    except (RuntimeError, AssertionError):
        failure = "" if debug else _backend_failure()
        if not failure:
            raise
        print(f"jax-softmax: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        signals.end()
        with contextlib.suppress(OSError):  # SIGHUP: the terminal is gone
            print(f"jax-softmax: {str(stopped) or 'interrupted.'}", file=sys.stderr)
        return 128 + (signals.received or signal.SIGINT)


@contextlib.contextmanager
def _printed_whatever_the_encoding() -> Iterator[None]:
    """Prints a letter that standard output or error lacks as its number."""
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
    errors = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, before in zip(streams, errors, strict=True):
            stream.reconfigure(errors=before)


def _backend_failure() -> str:
    """Why JAX has no device; "" if it has one."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX finds no device (JAX_PLATFORMS={platforms!r}; {error or 'no reason given'}): "
            f"unset JAX_PLATFORMS, or install what it asks for."
        )
    return ""


def _parse(arguments: Sequence[str]) -> _Runs:
    # Here, so that without the extra [train] even --help says what to install.
    import tyro

    from jax_softmax.cli.arguments import check_words, in_our_words
    from jax_softmax.cli.bench import Bench
    from jax_softmax.cli.evaluate import Evaluate
    from jax_softmax.cli.export import Export
    from jax_softmax.cli.predict import Predict
    from jax_softmax.cli.run_report import Report
    from jax_softmax.cli.train import Train
    from jax_softmax.cli.verify import Verify

    commands = {
        "train": Train,
        "evaluate": Evaluate,
        "predict": Predict,
        "report": Report,
        "export": Export,
        "verify": Verify,
        "bench": Bench,
    }
    arguments = in_our_words(arguments, commands)
    check_words(arguments, commands)
    # A flag is a flag: no --no-overwrite beside --overwrite.
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    name, *words = arguments or [""]
    if name in commands:  # by itself, so that a mistake points to its own help
        return tyro.cli(commands[name], prog=f"jax-softmax {name}", args=words, config=config)
    return tyro.cli(
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Bench, tyro.conf.subcommand("bench")],
        prog="jax-softmax",
        description="The softmax classifier for JAX: train it, measure it, use it (--version).",
        args=arguments,
        config=config,
    )


def entry() -> NoReturn:
    """Runs `main` as a process."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: nothing is left to interrupt
    if code > 128 and signals.received:
        # At once: the interpreter's own way out crashes where XLA was interrupted compiling.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
