"""The commands: a file each. The only part of the package that prints or exits."""

from jax_softmax.cli.main import entry, main

__all__ = ["entry", "main"]
