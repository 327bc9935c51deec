"""How the epochs of a training are divided into compiled calls."""

from __future__ import annotations

from typing import NamedTuple


class Calls(NamedTuple):
    """How epochs are divided into compiled calls.

    Of nothing but the settings and the epochs done, so that a training that goes on from a
    checkpoint makes the calls, and the looks, that it would have made.

    Attributes:
      epochs: in all.
      longest: the most epochs of a call.
      look_every: a multiple of it, and the last epoch, ends in a look at the validation examples.
      keep_every: the same of checkpoints.

    >>> calls = Calls(epochs=12, longest=4, look_every=None, keep_every=5)
    >>> [calls.count_after(done) for done in (0, 4, 5, 9, 10)]
    [4, 1, 4, 1, 2]
    """

    epochs: int
    longest: int
    look_every: int | None
    keep_every: int | None

    def count_after(self, done: int) -> int:
        """Epochs of the call after `done` of them."""
        every = [n for n in (self.look_every, self.keep_every) if n]
        ends = [done // n * n + n for n in every]
        return min(done + self.longest, self.epochs, *ends) - done

    def due(self, every: int | None, done: int) -> bool:
        """Whether what is done `every` so many epochs is due after `done` of them."""
        return every is not None and (done % every == 0 or done == self.epochs)
